"""A small world in which one operation is interrupted, and what must hold in it afterwards.

An operation is an async generator: it prepares the world, yields the coroutine that is to be
interrupted, gets back whether that came to its end, and checks what is special about it. What
holds after every operation, whatever befell it, stands in `World.check`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import Broadcaster, NotRunning, Priority
from holdfast.runtime.lifecycle import BroadcasterState
from tests.faults.points import LOST_ANSWERS, Failing, Points, interrupted
from tests.support.brokers import LateBroker
from tests.support.inside import node_of
from tests.support.virtual import run_virtual, wall_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LANES = list(Priority)


class Client:
    """One who keeps what it got, and comes back with its last event id."""

    def __init__(
        self, world: World, user: str | None = "ada", broadcaster: Broadcaster | None = None
    ) -> None:
        self.world = world
        self.broadcaster = broadcaster or world.broadcaster
        self.user = user
        self.last_id: str | None = None
        self.got: list[tuple[str, Any]] = []
        self.sessions: list[str] = []
        self.gaps = 0
        self.rejected = False
        """Whether it was told that it may not see the topic."""

    def see(self, body: dict[str, Any], id: str) -> None:
        """A frame has arrived."""
        self.last_id = id
        match body["type"]:
            case "message":
                self.got.append((body["priority"], body["data"]))
            case "connection_established":
                self.sessions.append(body["data"]["session"])
                self.rejected |= "t" in body["data"]["rejected"]
            case "gap":
                self.gaps += 1

    def data(self) -> list[Any]:
        """What was in the messages."""
        return [data for _, data in self.got]

    async def visit(self, enough: Callable[[], bool], **presented: Any) -> None:
        """Come back, and read until it is enough or the server ends it."""
        hello = {"user": self.user, "topics": ["t"], "last_event_id": self.last_id, **presented}
        async with self.broadcaster.connect(may_subscribe=self.world.may, **hello) as outbox:
            while not enough() and (frames := await outbox.next_frames()) is not None:
                await self.send()
                for frame in frames:
                    self.see(json.loads(frame.body), frame.id)
                outbox.mark_sent()

    async def send(self) -> None:
        """What a server's `send` does: it takes its time, and may fail before it and after."""
        self.world.points.reach("send before")
        await asyncio.sleep(0)
        self.world.points.reach("send after")

    async def greeted(self, **presented: Any) -> None:
        """Come for the first frame alone."""
        before = len(self.sessions)
        await self.visit(lambda: len(self.sessions) > before, **presented)


class World:
    """A Broadcaster on a slow broker, two who listen all the time, and one who is away.

    ``owed`` is what was published to topic ``t`` since Ada left; she holds an event id.
    """

    def __init__(self) -> None:
        self.points = Points()
        self.broker = LateBroker(rounds=2)
        failing: Any = Failing(self.broker, self.points)
        self.broadcaster = Broadcaster(
            broker=failing,
            clock=wall_clock,
            audit=lambda event: self.points.reach(f"audit {event.action.value}"),
            heartbeat_interval=None,
            idle_timeout=None,
        )
        self.owed: list[Any] = []
        self.forgotten = False
        """Whether Ada's session is gone by now, as it should be."""
        self.ada = Client(self)
        self.listeners = [Client(self, "bob"), Client(self, None)]
        self.staying = 2
        """How many connections are left when all is over."""
        self.watching: list[asyncio.Task[None]] = []
        self.own: set[asyncio.Task[Any]] = set()
        self.stray: list[dict[str, Any]] = []

    async def may(self, topic: str) -> bool:
        """The hook: everything but what is secret."""
        self.points.reach("may_subscribe")
        await asyncio.sleep(0)
        return topic != "secret"

    async def publish(self, data: Any, *, owed: bool = True) -> None:
        """Publish to everybody, in turn on each lane."""
        if owed:
            self.owed.append(data)
        lane = LANES[len(self.owed) % len(LANES)]
        await self.broadcaster.publish("t", data, priority=lane)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The life of the world; at its end everything is given back."""
        asyncio.get_running_loop().set_exception_handler(lambda _, told: self.stray.append(told))
        async with self.broadcaster:
            self.watch()
            await self.ada.greeted()
            for n in range(6):
                await self.publish(n)
            await asyncio.sleep(0.1)
            self.own = asyncio.all_tasks()
            yield
            await asyncio.sleep(5.0)  # longer than any last send, shorter than any deadline
            await self.check()
        await asyncio.wait(self.watching)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with pytest.raises(NotRunning):  # the last one to leave closed it
            await self.broker.log.head()
        assert self.stray == []

    def watch(self) -> None:
        """Let the two listen, until they are told to go."""
        self.watching = [
            asyncio.ensure_future(each.visit(lambda: False)) for each in self.listeners
        ]

    async def again(self) -> None:
        """Start anew on the same log, after a stop."""
        await self.broadcaster.__aenter__()
        await asyncio.gather(*self.watching, return_exceptions=True)
        self.watch()
        await asyncio.sleep(0.1)

    # -- what must hold ------------------------------------------------------------------------

    async def check(self) -> None:
        """Nothing is left behind, nothing is lost, and everything goes on."""
        self.check_nothing_left()
        await self.publish("next")
        await asyncio.sleep(1.0)
        for listener in self.listeners:
            got = Counter(listener.data())
            assert got == Counter(self.owed), "a listener got something twice or not at all"
            assert listener.gaps == 0
        if self.forgotten or self.ada.rejected:
            return
        await self.ada.visit(lambda: len(self.ada.got) >= len(self.owed))
        assert self.ada.sessions[-1] == "resumed", self.ada.sessions
        assert Counter(self.ada.data()) == Counter(self.owed)
        assert self.ada.gaps == 0
        by_priority = Counter(priority for priority, _ in self.ada.got)
        for lane in by_priority:
            mine = [data for priority, data in self.ada.got if priority == lane]
            theirs = [data for priority, data in self.listeners[0].got if priority == lane]
            assert mine == theirs, f"the order of {lane}"
        await asyncio.sleep(1.0)
        self.check_nothing_left()

    def check_nothing_left(self) -> None:
        """No connection, no newcomer, no task, no session of a connection that is not there."""
        node = node_of(self.broadcaster)
        current = asyncio.current_task()
        assert self.broadcaster.state is BroadcasterState.RUNNING
        assert self.broadcaster.statistics().connections == self.staying
        assert len(node.connections) == self.staying
        assert node._handshakes == {}
        assert node._background._tasks == set()
        assert node._waiting_for_log == set()
        stray = asyncio.all_tasks() - self.own - {*self.watching, current}
        assert {
            task
            for task in stray
            if "BroadcasterRun." not in task.get_name()
            and task.get_name() != "holdfast broadcaster"
        } == set()
        if self.points.failed not in LOST_ANSWERS:
            alive = {connection.id for connection in node.connections}
            attached = set(self.broker.sessions.registry._attached)
            assert attached <= alive, "a session waits for a connection that never came"


async def turn() -> None:
    """Let run what can run now, once; where nothing can, time passes until the next timer."""
    loop: Any = asyncio.get_running_loop()
    if loop._ready:
        await asyncio.sleep(0)
    else:
        timers = [handle.when() for handle in loop._scheduled if not handle.cancelled()]
        await asyncio.sleep(max(0.0, min(timers, default=0.0) - loop.time()))


@asynccontextmanager
async def _noted(points: Points) -> AsyncIterator[None]:
    """A failure says where it was."""
    try:
        yield
    except BaseException as failure:
        failure.add_note(f"failed at {points.failed}, of {points.passed}")
        raise


async def _interrupt(
    operation: Any, steps: int | None = None, fail_at: int | None = None, error: Any = None
) -> tuple[bool, Points]:
    """Run it in a world of its own; whether it came to its end, and what it called."""
    world = World()
    points = world.points
    async with _noted(points), world.running():
        script = operation(world)
        points.fail_at, points.error = fail_at, error
        context = copy_context()
        context.run(interrupted.set, True)
        task = asyncio.create_task(await anext(script), context=context)
        taken = 0
        while not task.done() and (steps is None or taken < steps):
            await turn()
            taken += 1
            assert taken < 2000, f"it hung after {points.passed}"
        task.cancel()
        await asyncio.wait([task], timeout=10.0)
        assert task.done(), "it was cancelled, and goes on"
        raised = None if task.cancelled() else task.exception()
        if raised is not None and error is None:
            raise raised
        finished = not task.cancelled() and raised is None
        with suppress(StopAsyncIteration):
            await script.asend(finished)
    return finished, points


def cancel_at_every_step(operation: Any) -> int:
    """Cancel it after 0, 1, 2, … turns of the loop, until it ends by itself; how many that were."""
    for steps in range(1000):
        try:
            finished, _ = run_virtual(_interrupt(operation, steps=steps))
        except BaseException as failure:
            failure.add_note(f"cancelled after {steps} turns of the loop")
            raise
        if finished:
            return steps
    raise AssertionError("it never comes to its end")


def fail_at_every_point(operation: Any, error: Exception) -> list[str]:
    """Let each foreign call in it raise, one at a time; which those were."""
    places: list[str] = []
    for number in range(1000):
        try:
            _, points = run_virtual(_interrupt(operation, fail_at=number, error=error))
        except BaseException as failure:
            failure.add_note(f"{error!r} at call {number} of something foreign")
            raise
        if points.failed is None:
            return places
        places.append(points.failed)
    raise AssertionError("it never comes to its end")
