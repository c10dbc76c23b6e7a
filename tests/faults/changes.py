"""Interrupted operations: subscriptions, permissions, and the lifecycle of a Broadcaster."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast import Broadcaster
from holdfast.runtime.lifecycle import BroadcasterState
from tests.faults.interruption import World, WorldClient
from tests.faults.operations import Script
from tests.support.node import node_of

# -- changing subscriptions ------------------------------------------------------------------------


async def subscribe(world: World) -> Script:
    """The session and the live connection have the same subscriptions after an interruption."""
    async with world.broadcaster.connect(
        user="eve", topics=["t"], may_subscribe=world.authorize
    ) as eve:
        world.remaining_connections += 1
        yield world.broadcaster.subscribe(eve, ["u", "secret"])
        await asyncio.sleep(3.0)
        assert eve.session.subscriptions == eve.subscriptions
        assert await world.broadcaster.subscribe(eve, ["u", "secret"]) == (["u"], ["secret"])
        world.remaining_connections -= 1


async def unsubscribe(world: World) -> Script:
    """After an unsubscribe that was repeated, no message of the topic arrives."""
    async with world.broadcaster.connect(user="eve", topics=["t", "u"]) as eve:
        world.remaining_connections += 1
        yield world.broadcaster.unsubscribe(eve, ["u"])
        await asyncio.sleep(3.0)
        assert eve.session.subscriptions == eve.subscriptions
        await world.broadcaster.unsubscribe(eve, ["u"])
        assert not world.broadcaster.has_listeners("u")
        world.remaining_connections -= 1


async def reauthorize(world: World) -> Script:
    """A repeated `reauthorize` withdraws what the interrupted call left."""
    allowed = {"t", "u"}

    async def may(topic: str) -> bool:
        world.points.reach("may_subscribe")
        await asyncio.sleep(0)
        return topic in allowed

    options: dict[str, Any] = {"topics": ["t", "u"], "may_subscribe": may}
    async with (
        world.broadcaster.connect(user="eve", **options) as one,
        world.broadcaster.connect(user="eve", **options) as two,
    ):
        allowed.discard("u")
        yield world.broadcaster.reauthorize("eve")
        await world.broadcaster.reauthorize("eve")
        for connection in (one, two):
            assert set(connection.subscriptions) == {"t", "$user"}
        assert not world.broadcaster.has_listeners("u")


async def logout(world: World) -> Script:
    """A repeated logout leaves no connection and no token of the user."""
    ada = world.ada
    living = asyncio.ensure_future(ada.read(lambda: False))
    world.own.add(living)
    other = WorldClient(world)
    await other.read_first_frame()
    await asyncio.sleep(0.1)
    yield world.broadcaster.disconnect_user("ada")
    await world.broadcaster.disconnect_user("ada")
    await asyncio.wait([living])
    world.session_dropped = True
    for client in (ada, other):
        before = len(client.sessions)
        await client.read_first_frame()
        assert client.sessions[before:] == ["gap"], "a token outlived the logout"


async def position(world: World) -> Script:
    """A repeated `position` returns the point from which all later messages follow."""
    yield world.broadcaster.position(["t"], user="eve")
    eve = WorldClient(world, "eve")
    eve.last_id = await world.broadcaster.position(["t"], user="eve")
    await world.publish("after")
    await eve.read(lambda: bool(eve.received))
    assert (eve.sessions, eve.data()) == (["resumed"], ["after"])


# -- the lifecycle of the Broadcaster --------------------------------------------------------------


async def drain(world: World) -> Script:
    """A drain continues by itself: all clients are notified, and no client can connect."""
    yield world.broadcaster.drain()
    await world.broadcaster.drain()
    assert world.broadcaster.statistics().connections == 0
    await world.broadcaster.__aexit__(None, None, None)
    await world.restart()


async def life(world: World) -> Script:
    """A Broadcaster that was interrupted while it started, ran or stopped holds no resource.

    Both Broadcasters share one log. The log is closed with the last of them.
    """
    node = node_of(world.broadcaster)
    second = Broadcaster(broker=node.broker, clock=node.clock.time, heartbeat_interval=None)
    guest = WorldClient(world, "eve", second)

    async def one_life() -> None:
        async with second:
            staying = asyncio.ensure_future(guest.read(lambda: False))
            try:
                await asyncio.sleep(0.1)
            except BaseException:
                staying.cancel()
                raise
        await asyncio.gather(staying, return_exceptions=True)

    yield one_life()
    await asyncio.sleep(3.0)
    assert second.state is not BroadcasterState.RUNNING
    guest.received.clear()
    async with second:
        await second.publish("t", "second")
        world.expected.append("second")
        if guest.sessions:
            await guest.read(lambda: bool(guest.received))
            assert (guest.sessions[-1], guest.data()) == ("resumed", ["second"])
        await guest.read_first_frame()


async def periodic(world: World) -> Script:
    """The source and its schedule end with the task that runs them."""
    calls = 0

    async def source() -> int | None:
        nonlocal calls
        calls += 1
        world.points.reach("source before")
        await asyncio.sleep(0)
        world.points.reach("source after")
        return calls

    made = world.broadcaster.periodic("u", source, interval=10.0)
    made.cancel()
    await asyncio.sleep(0.1)
    async with world.broadcaster.connect(topics=["u"]):
        again = world.broadcaster.periodic("u", source, interval=10.0)
        world.own |= asyncio.all_tasks()
        # The Broadcaster's own task is left alone; `again` is the same schedule.

        async def schedule() -> None:
            async with asyncio.timeout(25.0):
                broadcaster = world.broadcaster
                await again.run(broadcaster.publish, broadcaster.has_listeners, lambda: None)

        async def bounded() -> None:
            try:
                await schedule()
            except TimeoutError:
                return

        yield bounded()
        again.cancel()
        await asyncio.sleep(11.0)
