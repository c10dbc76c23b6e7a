"""Interrupted operations: publishing, connecting and reading (see `interruption`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from holdfast import Refused
from holdfast.reasons import Reason
from tests.faults.interruption import World, WorldClient
from tests.support.node import node_of

Script = AsyncGenerator[Coroutine[Any, Any, Any], bool]


def seen(world: World, data: Any) -> int:
    """Return how often the connected listener received `data`."""
    return world.listeners[0].data().count(data)


# -- publishing ------------------------------------------------------------------------------------


async def publish(world: World) -> Script:
    """An interrupted publish happens as a whole or not at all."""
    finished = yield world.publish("maybe", expected=False)
    await asyncio.sleep(3.0)
    times = seen(world, "maybe")
    assert times == 1 or (times == 0 and not finished)
    world.expected += ["maybe"] * times


async def publish_with_idempotency_key(world: World) -> Script:
    """A publish that is repeated with its key happens exactly once."""

    def once() -> Coroutine[Any, Any, Any]:
        return world.broadcaster.publish("t", "maybe", idempotency_key="one")

    yield once()
    await once()
    await asyncio.sleep(3.0)
    assert seen(world, "maybe") == 1
    world.expected.append("maybe")


async def publish_to_user(world: World) -> Script:
    """A private message reaches all connections of its user or none, and no other user."""
    bob, stranger = world.listeners
    finished = yield world.broadcaster.publish_to_user("bob", "maybe")
    await asyncio.sleep(3.0)
    times = seen(world, "maybe")
    assert times == 1 or (times == 0 and not finished)
    assert stranger.data().count("maybe") == 0
    bob.received = [(priority, data) for priority, data in bob.received if data != "maybe"]


# -- connecting ------------------------------------------------------------------------------------


async def connect_fresh(world: World) -> Script:
    """An interrupted first connection leaves no trace."""
    visitor = WorldClient(world, "eve")
    yield visitor.read_first_frame()
    assert visitor.sessions in ([], ["fresh"])


async def connect_with_id(world: World) -> Script:
    """An interrupted replay continues where it stopped."""
    ada = world.ada
    finished = yield ada.read(lambda: len(ada.received) >= len(world.expected))
    assert len(ada.received) == len(world.expected) or not finished


async def connect_with_id_and_no_topics(world: World) -> Script:
    """A resume without topics keeps the subscriptions of the session."""
    ada = world.ada
    yield ada.read(lambda: len(ada.received) >= len(world.expected), topics=())


async def connect_with_token(world: World) -> Script:
    """A reconnect token alone opens the session; the event id opens it afterwards."""
    ada = world.ada
    token = str(ada.last_id).rpartition("~")[2]
    yield ada.read_first_frame(last_event_id=None, reconnect_token=token)


async def connect_with_foreign_token(world: World) -> Script:
    """A refused token of another user has no effect on its owner."""
    thief = WorldClient(world, "eve")
    yield thief.read_first_frame(last_event_id=world.ada.last_id)
    assert thief.sessions in ([], ["gap"])


async def connect_after_log_was_lost(world: World) -> Script:
    """An event id of a lost log is answered with a reported reset."""
    eve = WorldClient(world, "eve")
    await eve.read_first_frame()
    eve.last_id = "A" * 12 + str(eve.last_id)[12:]
    yield eve.read_first_frame()
    assert eve.sessions in (["fresh"], ["fresh", "gap"])


async def connect_refused(world: World) -> Script:
    """No client can connect during a drain, at whatever point the handshake is."""
    visitor = WorldClient(world, "eve")
    refusals: list[str] = []

    async def try_it() -> None:
        coming = asyncio.ensure_future(visitor.read_first_frame())
        try:
            await asyncio.sleep(0)
            node_of(world.broadcaster)._is_accepting = False
            await asyncio.wait_for(coming, 1.0)
        except Refused as refusal:
            refusals.append(refusal.reason.word)
        finally:
            coming.cancel()

    yield try_it()
    node_of(world.broadcaster)._is_accepting = True
    assert refusals in ([], ["drain"])
    assert visitor.sessions in ([], ["fresh"])


async def connect_while_the_old_one_is_alive(world: World) -> Script:
    """A takeover ends the old connection, and the next connection resumes."""
    ada = world.ada
    old = asyncio.ensure_future(ada.read(lambda: False))
    world.own.add(old)
    await asyncio.sleep(0.1)
    again = WorldClient(world)
    again.last_id, again.received = ada.last_id, ada.received
    yield again.read(lambda: bool(again.sessions))
    await asyncio.sleep(1.0)
    if not old.done():
        old.cancel()
        await asyncio.wait([old])
    if again.sessions:
        world.ada = again


# -- reading ---------------------------------------------------------------------------------------


async def next_live(world: World) -> Script:
    """A message that arrives during an interrupted wait is delivered by the next one."""
    ada = world.ada
    await ada.read(lambda: len(ada.received) >= len(world.expected))

    async def read() -> None:
        await ada.read(lambda: len(ada.received) >= len(world.expected) > 8)

    async def feed() -> None:
        for n in range(6, 10):
            await asyncio.sleep(0.01)
            await world.publish(n)

    feeding = asyncio.ensure_future(feed())
    world.own.add(feeding)
    yield read()
    await asyncio.wait([feeding])


async def next_taken_out_by_hand(world: World) -> Script:
    """A cancelled `next` takes nothing: the following call on the connection returns it."""
    ada = world.ada
    async with world.broadcaster.connect(user="ada", last_event_id=ada.last_id) as connection:
        taken: list[str] = []

        async def all_of_it() -> None:
            while len(taken) < 1 + len(world.expected):
                taken.extend(frame.id for frame in await connection.next_frames() or ())
                connection.mark_sent()

        world.remaining_connections += 1
        yield all_of_it()
        await asyncio.wait_for(all_of_it(), 5.0)
        assert len(taken) == len({*taken}) == 1 + len(world.expected)
        world.remaining_connections -= 1


async def next_with_a_close_pending(world: World) -> Script:
    """An interrupted close delivers the closing frame once, and then the end."""
    ada = world.ada
    async with world.broadcaster.connect(user="ada", last_event_id=ada.last_id) as connection:
        bodies: list[bytes] = []

        async def to_the_end() -> None:
            while (frames := await connection.next_frames()) is not None:
                await ada.send()
                bodies.extend(frame.body for frame in frames)
                connection.mark_sent()

        async def closed_meanwhile() -> None:
            reading = asyncio.ensure_future(to_the_end())
            try:
                await asyncio.sleep(0.01)
                connection.close(Reason.REQUESTED)
                await reading
            finally:
                reading.cancel()

        yield closed_meanwhile()
        connection.close(Reason.REQUESTED)
        await asyncio.wait_for(to_the_end(), 5.0)
        assert sum(b'"closing"' in body for body in bodies) <= 1
