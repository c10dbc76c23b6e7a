"""Publishing, connecting, reading: each to be interrupted (see `interrupted`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from holdfast import Refused
from holdfast.reasons import Reason
from tests.faults.interrupted import Client, World
from tests.support.inside import node_of

Script = AsyncGenerator[Coroutine[Any, Any, Any], bool]


def seen(world: World, data: Any) -> int:
    """How many times the one who listens all the time got it."""
    return world.listeners[0].data().count(data)


# -- publishing ------------------------------------------------------------------------------------


async def publish(world: World) -> Script:
    """Happens entirely or not at all; that it happened does not hang on the answer."""
    finished = yield world.publish("maybe", owed=False)
    await asyncio.sleep(3.0)
    times = seen(world, "maybe")
    assert times == 1 or (times == 0 and not finished)
    world.owed += ["maybe"] * times


async def publish_with_idempotency_key(world: World) -> Script:
    """Repeated with its key it happens exactly once."""

    def once() -> Coroutine[Any, Any, Any]:
        return world.broadcaster.publish("t", "maybe", idempotency_key="one")

    yield once()
    await once()
    await asyncio.sleep(3.0)
    assert seen(world, "maybe") == 1
    world.owed.append("maybe")


async def publish_to_user(world: World) -> Script:
    """The same for one user: all connections of theirs, or none, and nobody else."""
    bob, stranger = world.listeners
    finished = yield world.broadcaster.publish_to_user("bob", "maybe")
    await asyncio.sleep(3.0)
    times = seen(world, "maybe")
    assert times == 1 or (times == 0 and not finished)
    assert stranger.data().count("maybe") == 0
    bob.got = [(priority, data) for priority, data in bob.got if data != "maybe"]


# -- connecting ------------------------------------------------------------------------------------


async def connect_fresh(world: World) -> Script:
    """Whoever was not let in is not there."""
    visitor = Client(world, "eve")
    yield visitor.greeted()
    assert visitor.sessions in ([], ["fresh"])


async def connect_with_id(world: World) -> Script:
    """The replay goes on where it was broken off."""
    ada = world.ada
    finished = yield ada.visit(lambda: len(ada.got) >= len(world.owed))
    assert len(ada.got) == len(world.owed) or not finished


async def connect_with_id_and_no_topics(world: World) -> Script:
    """The same, with the subscriptions that the session has."""
    ada = world.ada
    yield ada.visit(lambda: len(ada.got) >= len(world.owed), topics=())


async def connect_with_token(world: World) -> Script:
    """A token alone gives the session; the id that was kept beside it opens it afterwards."""
    ada = world.ada
    token = str(ada.last_id).rpartition("~")[2]
    yield ada.greeted(last_event_id=None, token=token)


async def connect_with_foreign_token(world: World) -> Script:
    """What is refused changes nothing for the one whose token it is."""
    thief = Client(world, "eve")
    yield thief.greeted(last_event_id=world.ada.last_id)
    assert thief.sessions in ([], ["gap"])


async def connect_after_log_was_lost(world: World) -> Script:
    """An id of a log that is gone: a declared reset, or nothing."""
    eve = Client(world, "eve")
    await eve.greeted()
    eve.last_id = "A" * 12 + str(eve.last_id)[12:]
    yield eve.greeted()
    assert eve.sessions in (["fresh"], ["fresh", "gap"])


async def connect_refused(world: World) -> Script:
    """Nobody is let in while draining, at whatever point it began."""
    visitor = Client(world, "eve")
    refusals: list[str] = []

    async def try_it() -> None:
        coming = asyncio.ensure_future(visitor.greeted())
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
    """A takeover ends the old connection, and the client's next try goes on."""
    ada = world.ada
    old = asyncio.ensure_future(ada.visit(lambda: False))
    world.own.add(old)
    await asyncio.sleep(0.1)
    again = Client(world)
    again.last_id, again.got = ada.last_id, ada.got
    yield again.visit(lambda: bool(again.sessions))
    await asyncio.sleep(1.0)
    if not old.done():
        old.cancel()
        await asyncio.wait([old])
    if again.sessions:
        world.ada = again


# -- reading ---------------------------------------------------------------------------------------


async def next_live(world: World) -> Script:
    """What arrives while one waits is handed over, or is still there."""
    ada = world.ada
    await ada.visit(lambda: len(ada.got) >= len(world.owed))

    async def read() -> None:
        await ada.visit(lambda: len(ada.got) >= len(world.owed) > 8)

    async def feed() -> None:
        for n in range(6, 10):
            await asyncio.sleep(0.01)
            await world.publish(n)

    feeding = asyncio.ensure_future(feed())
    world.own.add(feeding)
    yield read()
    await asyncio.wait([feeding])


async def next_taken_out_by_hand(world: World) -> Script:
    """A `next` that was cancelled took nothing out: the following one on the same outbox has it."""
    ada = world.ada
    async with world.broadcaster.connect(user="ada", last_event_id=ada.last_id) as outbox:
        taken: list[str] = []

        async def all_of_it() -> None:
            while len(taken) < 1 + len(world.owed):
                taken.extend(frame.id for frame in await outbox.next_frames() or ())
                outbox.mark_sent()

        world.staying += 1
        yield all_of_it()
        await asyncio.wait_for(all_of_it(), 5.0)
        assert len(taken) == len({*taken}) == 1 + len(world.owed)
        world.staying -= 1


async def next_with_a_close_pending(world: World) -> Script:
    """The closing frame comes once, and then the end, however often the wait was broken off."""
    ada = world.ada
    async with world.broadcaster.connect(user="ada", last_event_id=ada.last_id) as outbox:
        bodies: list[bytes] = []

        async def to_the_end() -> None:
            while (frames := await outbox.next_frames()) is not None:
                await ada.send()
                bodies.extend(frame.body for frame in frames)
                outbox.mark_sent()

        async def closed_meanwhile() -> None:
            reading = asyncio.ensure_future(to_the_end())
            try:
                await asyncio.sleep(0.01)
                outbox.close(Reason.REQUESTED)
                await reading
            finally:
                reading.cancel()

        yield closed_meanwhile()
        outbox.close(Reason.REQUESTED)
        await asyncio.wait_for(to_the_end(), 5.0)
        assert sum(b'"closing"' in body for body in bodies) <= 1
