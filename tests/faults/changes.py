"""Subscriptions, rights, and the life of a Broadcaster: each to be interrupted."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast import Broadcaster
from holdfast.runtime.lifecycle import BroadcasterState
from tests.faults.interrupted import Client, World
from tests.faults.operations import Script
from tests.support.inside import node_of

# -- changing what is subscribed -------------------------------------------------------------------


async def subscribe(world: World) -> Script:
    """Happened or not, and the session knows which: a resume agrees with the live connection."""
    async with world.broadcaster.connect(user="eve", topics=["t"], may_subscribe=world.may) as eve:
        world.staying += 1
        yield world.broadcaster.subscribe(eve, ["u", "secret"])
        await asyncio.sleep(3.0)
        assert eve.session.subscriptions == eve.subscriptions
        assert await world.broadcaster.subscribe(eve, ["u", "secret"]) == (["u"], ["secret"])
        world.staying -= 1


async def unsubscribe(world: World) -> Script:
    """The same for taking away; nothing more comes of it."""
    async with world.broadcaster.connect(user="eve", topics=["t", "u"]) as eve:
        world.staying += 1
        yield world.broadcaster.unsubscribe(eve, ["u"])
        await asyncio.sleep(3.0)
        assert eve.session.subscriptions == eve.subscriptions
        await world.broadcaster.unsubscribe(eve, ["u"])
        assert not world.broadcaster.has_listeners("u")
        world.staying -= 1


async def reauthorize(world: World) -> Script:
    """Repeated, it withdraws what the first try left."""
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
        for outbox in (one, two):
            assert set(outbox.subscriptions) == {"t", "$user"}
        assert not world.broadcaster.has_listeners("u")


async def logout(world: World) -> Script:
    """Repeated, it leaves no connection and no token of that user."""
    ada = world.ada
    living = asyncio.ensure_future(ada.visit(lambda: False))
    world.own.add(living)
    other = Client(world)
    await other.greeted()
    await asyncio.sleep(0.1)
    yield world.broadcaster.disconnect_user("ada")
    await world.broadcaster.disconnect_user("ada")
    await asyncio.wait([living])
    world.forgotten = True
    for client in (ada, other):
        before = len(client.sessions)
        await client.greeted()
        assert client.sessions[before:] == ["gap"], "a token outlived the logout"


async def position(world: World) -> Script:
    """Asked again, it tells where everything published from now on begins."""
    yield world.broadcaster.position(["t"], user="eve")
    eve = Client(world, "eve")
    eve.last_id = await world.broadcaster.position(["t"], user="eve")
    await world.publish("after")
    await eve.visit(lambda: bool(eve.got))
    assert (eve.sessions, eve.data()) == (["resumed"], ["after"])


# -- the Broadcaster's own life --------------------------------------------------------------------


async def drain(world: World) -> Script:
    """Once begun it goes on by itself: all are told, and nobody is let in."""
    yield world.broadcaster.drain()
    await world.broadcaster.drain()
    assert world.broadcaster.statistics().connections == 0
    await world.broadcaster.__aexit__(None, None, None)
    await world.again()


async def life(world: World) -> Script:
    """A Broadcaster that was interrupted on its way in, at work or on its way out holds nothing.

    It shares the log with the one of the world, which is closed by the last one to leave.
    """
    node = node_of(world.broadcaster)
    second = Broadcaster(broker=node.broker, clock=node.clock.time, heartbeat_interval=None)
    guest = Client(world, "eve", second)

    async def one_life() -> None:
        async with second:
            staying = asyncio.ensure_future(guest.visit(lambda: False))
            try:
                await asyncio.sleep(0.1)
            except BaseException:
                staying.cancel()
                raise
        await asyncio.gather(staying, return_exceptions=True)

    yield one_life()
    await asyncio.sleep(3.0)
    assert second.state is not BroadcasterState.RUNNING
    guest.got.clear()
    async with second:
        await second.publish("t", "second")
        world.owed.append("second")
        if guest.sessions:
            await guest.visit(lambda: bool(guest.got))
            assert (guest.sessions[-1], guest.data()) == ("resumed", ["second"])
        await guest.greeted()


async def periodic(world: World) -> Script:
    """The source and its schedule end with the task that runs them, wherever it was."""
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
        # The task that the Broadcaster itself runs is left alone; this is the same schedule.

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
