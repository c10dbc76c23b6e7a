"""A world in which one operation is interrupted, and the conditions that hold afterwards.

An operation is an async generator: it prepares the world, yields the coroutine to be interrupted,
receives whether that coroutine finished, and checks its own conditions. `World.check` has the
conditions that hold after every operation.
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
from tests.faults.call_points import LOST_ANSWERS, CallPoints, FailingCalls, interrupted
from tests.support.delayed_broker import DelayedBroker
from tests.support.node import node_of
from tests.support.virtual_loop import run_virtual, wall_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LANES = list(Priority)


class WorldClient:
    """A client that keeps what it received, and reconnects with its last event id."""

    def __init__(
        self, world: World, user: str | None = "ada", broadcaster: Broadcaster | None = None
    ) -> None:
        self.world = world
        self.broadcaster = broadcaster or world.broadcaster
        self.user = user
        self.last_id: str | None = None
        self.received: list[tuple[str, Any]] = []
        self.sessions: list[str] = []
        self.gaps = 0
        self.rejected = False
        """True if the topic was refused."""

    def record(self, body: dict[str, Any], id: str) -> None:
        """Record a frame."""
        self.last_id = id
        match body["type"]:
            case "message":
                self.received.append((body["priority"], body["data"]))
            case "connection_established":
                self.sessions.append(body["data"]["session"])
                self.rejected |= "t" in body["data"]["rejected"]
            case "gap":
                self.gaps += 1

    def data(self) -> list[Any]:
        """Return the data of all messages."""
        return [data for _, data in self.received]

    async def read(self, enough: Callable[[], bool], **presented: Any) -> None:
        """Connect, and read until `enough()` holds or the server ends the connection."""
        hello = {"user": self.user, "topics": ["t"], "last_event_id": self.last_id, **presented}
        async with self.broadcaster.connect(
            may_subscribe=self.world.authorize, **hello
        ) as connection:
            while not enough() and (frames := await connection.next_frames()) is not None:
                await self.send()
                for frame in frames:
                    self.record(json.loads(frame.body), frame.id)
                connection.mark_sent()

    async def send(self) -> None:
        """Send as a server does: yield to the event loop, and fail before or after."""
        self.world.points.reach("send before")
        await asyncio.sleep(0)
        self.world.points.reach("send after")

    async def read_first_frame(self, **presented: Any) -> None:
        """Connect, read the first frame, and disconnect."""
        before = len(self.sessions)
        await self.read(lambda: len(self.sessions) > before, **presented)


class World:
    """A Broadcaster on a slow broker, two connected listeners, and Ada, who is away.

    `expected` is the data published to topic `t` since Ada left. Ada has an event id.
    """

    def __init__(self) -> None:
        self.points = CallPoints()
        self.broker = DelayedBroker(turns=2)
        failing: Any = FailingCalls(self.broker, self.points)
        self.broadcaster = Broadcaster(
            broker=failing,
            clock=wall_clock,
            audit=lambda event: self.points.reach(f"audit {event.action.value}"),
            heartbeat_interval=None,
            idle_timeout=None,
        )
        self.expected: list[Any] = []
        self.session_dropped = False
        """True if Ada's session has to be gone."""
        self.ada = WorldClient(self)
        self.listeners = [WorldClient(self, "bob"), WorldClient(self, None)]
        self.remaining_connections = 2
        """The number of connections at the end."""
        self.listening: list[asyncio.Task[None]] = []
        self.own: set[asyncio.Task[Any]] = set()
        self.loop_errors: list[dict[str, Any]] = []

    async def authorize(self, topic: str) -> bool:
        """Allow every topic except `secret`."""
        self.points.reach("may_subscribe")
        await asyncio.sleep(0)
        return topic != "secret"

    async def publish(self, data: Any, *, expected: bool = True) -> None:
        """Publish to all clients, on each lane in turn."""
        if expected:
            self.expected.append(data)
        lane = LANES[len(self.expected) % len(LANES)]
        await self.broadcaster.publish("t", data, priority=lane)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the world during the block. At the end, every resource has to be released."""
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.loop_errors.append(context)
        )
        async with self.broadcaster:
            self.start_listeners()
            await self.ada.read_first_frame()
            for n in range(6):
                await self.publish(n)
            await asyncio.sleep(0.1)
            self.own = asyncio.all_tasks()
            yield
            await asyncio.sleep(5.0)  # longer than any last send, shorter than any deadline
            await self.check()
        await asyncio.wait(self.listening)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with pytest.raises(NotRunning):  # the last Broadcaster closed the log
            await self.broker.log.head()
        assert self.loop_errors == []

    def start_listeners(self) -> None:
        """Connect the two listeners until the server ends their connections."""
        self.listening = [
            asyncio.ensure_future(each.read(lambda: False)) for each in self.listeners
        ]

    async def restart(self) -> None:
        """Start the Broadcaster again on the same log."""
        await self.broadcaster.__aenter__()
        await asyncio.gather(*self.listening, return_exceptions=True)
        self.start_listeners()
        await asyncio.sleep(0.1)

    # -- conditions ----------------------------------------------------------------------------

    async def check(self) -> None:
        """Check that every resource is released, no message is lost, and publishing continues."""
        self.check_released()
        await self.publish("next")
        await asyncio.sleep(1.0)
        for listener in self.listeners:
            got = Counter(listener.data())
            assert got == Counter(self.expected), (
                "a listener received a message twice or not at all"
            )
            assert listener.gaps == 0
        if self.session_dropped or self.ada.rejected:
            return
        await self.ada.read(lambda: len(self.ada.received) >= len(self.expected))
        assert self.ada.sessions[-1] == "resumed", self.ada.sessions
        assert Counter(self.ada.data()) == Counter(self.expected)
        assert self.ada.gaps == 0
        by_priority = Counter(priority for priority, _ in self.ada.received)
        for lane in by_priority:
            mine = [data for priority, data in self.ada.received if priority == lane]
            theirs = [data for priority, data in self.listeners[0].received if priority == lane]
            assert mine == theirs, f"wrong order in lane {lane}"
        await asyncio.sleep(1.0)
        self.check_released()

    def check_released(self) -> None:
        """Check that no connection, handshake, task or attached session is left."""
        node = node_of(self.broadcaster)
        current = asyncio.current_task()
        assert self.broadcaster.state is BroadcasterState.RUNNING
        assert self.broadcaster.statistics().connections == self.remaining_connections
        assert len(node.connections) == self.remaining_connections
        assert node._handshakes == {}
        assert node._background._tasks == set()
        assert node._waiting_for_log == set()
        stray = asyncio.all_tasks() - self.own - {*self.listening, current}
        assert {
            task
            for task in stray
            if "BroadcasterRun." not in task.get_name()
            and task.get_name() != "holdfast broadcaster"
        } == set()
        if self.points.failed not in LOST_ANSWERS:
            alive = {connection.id for connection in node.connections}
            attached = set(self.broker.token_store.registry._attached)
            assert attached <= alive, "a session is attached to a connection that does not exist"


async def run_ready_callbacks() -> None:
    """Run all ready callbacks once; if there are none, advance to the next timer."""
    loop: Any = asyncio.get_running_loop()
    if loop._ready:
        await asyncio.sleep(0)
    else:
        timers = [handle.when() for handle in loop._scheduled if not handle.cancelled()]
        await asyncio.sleep(max(0.0, min(timers, default=0.0) - loop.time()))


@asynccontextmanager
async def _with_failed_point(points: CallPoints) -> AsyncIterator[None]:
    """Add the failed call to the notes of an exception."""
    try:
        yield
    except BaseException as failure:
        failure.add_note(f"failed at {points.failed}, of {points.passed}")
        raise


async def _interrupt(
    operation: Any, steps: int | None = None, fail_at: int | None = None, error: Any = None
) -> tuple[bool, CallPoints]:
    """Run the operation in a new world. Returns whether it finished, and its calls."""
    world = World()
    points = world.points
    async with _with_failed_point(points), world.running():
        script = operation(world)
        points.fail_at, points.error = fail_at, error
        context = copy_context()
        context.run(interrupted.set, True)
        task = asyncio.create_task(await anext(script), context=context)
        taken = 0
        while not task.done() and (steps is None or taken < steps):
            await run_ready_callbacks()
            taken += 1
            assert taken < 2000, f"the operation hung after {points.passed}"
        task.cancel()
        await asyncio.wait([task], timeout=10.0)
        assert task.done(), "the operation continues after its cancellation"
        raised = None if task.cancelled() else task.exception()
        if raised is not None and error is None:
            raise raised
        finished = not task.cancelled() and raised is None
        with suppress(StopAsyncIteration):
            await script.asend(finished)
    return finished, points


def cancel_at_every_step(operation: Any) -> int:
    """Cancel the operation after 0, 1, 2, … loop turns, until it finishes. Returns the turns."""
    for steps in range(1000):
        try:
            finished, _ = run_virtual(_interrupt(operation, steps=steps))
        except BaseException as failure:
            failure.add_note(f"cancelled after {steps} turns of the loop")
            raise
        if finished:
            return steps
    raise AssertionError("the operation never finishes")


def fail_at_every_point(operation: Any, error: Exception) -> list[str]:
    """Let each external call of the operation raise, one per run. Returns the calls."""
    places: list[str] = []
    for number in range(1000):
        try:
            _, points = run_virtual(_interrupt(operation, fail_at=number, error=error))
        except BaseException as failure:
            failure.add_note(f"{error!r} at external call {number}")
            raise
        if points.failed is None:
            return places
        places.append(points.failed)
    raise AssertionError("the operation never finishes")
