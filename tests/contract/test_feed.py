"""The contract of every Broker: the feed, its start and its close."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import NotRunning, Priority
from holdfast.brokers.protocol import Broker
from holdfast.core.cursor import Head
from holdfast.core.message import Offset
from tests.contract.implementations import CLOCK, Make
from tests.contract.reading import bodies, draft, followed, read
from tests.support.virtual_loop import run_ready


class TestFollow:
    """The live feed."""

    async def test_returns_what_follows(self, broker: Broker) -> None:
        """All that is after a position comes, in log order, of all topics and lanes."""
        begin = await broker.head()
        for n, lane in enumerate(Priority):
            await broker.publish(draft(n, topic=f"t{n}", priority=lane))
        found = await followed(broker, begin, 4)
        assert [m.body for m in found] == [b"0", b"1", b"2", b"3"]
        batch = await broker.follow(begin)
        assert (batch.head, batch.truncated) == (await broker.head(), False)
        middle = Head(begin.epoch, Offset(begin.offset + 2))
        assert [m.body for m in (await broker.follow(middle)).messages] == [b"2", b"3"]

    async def test_waits_for_what_comes(self, broker: Broker) -> None:
        """A follower at the head waits, and is woken by the next message."""
        following = asyncio.ensure_future(broker.follow(await broker.head()))
        await run_ready()
        assert not following.done()
        await broker.publish(draft(1))
        assert [m.body for m in (await asyncio.wait_for(following, 5)).messages] == [b"1"]

    async def test_superseded_and_expired_are_in_the_feed(self, broker: Broker) -> None:
        """The feed has every message: who conflates is the connection."""
        begin = await broker.head()
        for n in range(3):
            await broker.publish(draft(n, key="k", expires_at=CLOCK() + 0.001))
        assert len(await followed(broker, begin, 3)) == 3

    async def test_every_follower_gets_everything(self, broker: Broker) -> None:
        """Several followers, at positions of their own, lose nothing to each other."""
        begin = await broker.head()
        first = asyncio.ensure_future(broker.follow(begin))
        second = asyncio.ensure_future(broker.follow(begin))
        await run_ready()
        await broker.publish(draft(1))
        third = asyncio.ensure_future(broker.follow(begin))
        batches = await asyncio.wait_for(asyncio.gather(first, second, third), 5)
        assert [[m.body for m in batch.messages] for batch in batches] == [[b"1"]] * 3

    async def test_cancelled_follow_loses_nothing(self, broker: Broker) -> None:
        """A follower that is cancelled, also in the moment of waking, gets it the next time."""
        begin = await broker.head()
        for moment in ("waiting", "woken"):
            following = asyncio.ensure_future(broker.follow(begin))
            await run_ready()
            if moment == "woken":
                await broker.publish(draft(1))
            following.cancel()
            await asyncio.wait([following])
        batch = await asyncio.wait_for(broker.follow(begin), 5)
        assert [m.body for m in batch.messages] == [b"1"]

    async def test_a_batch_says_that_it_is_truncated(self, broker: Broker) -> None:
        """A follower too far behind gets `truncated`, and history has the rest."""
        begin = await broker.head()
        body = b"x" * 100_000
        for _ in range(100):
            await broker.publish(draft(body=body))
        head = await broker.head()
        await read(broker)  # which is there as far as its head was
        batch = await broker.follow(begin)
        assert batch.truncated
        assert batch.head == head
        offsets = [m.offset for m in batch.messages]
        assert offsets == list(range(batch.head.offset - len(offsets) + 1, batch.head.offset + 1))
        assert len(bodies(await read(broker, max_bytes=100_000_000))) == 100

    async def test_a_batch_is_complete_up_to_its_head(self, make: Make) -> None:
        """Batches follow each other without a hole, also while messages are published."""
        broker = make()
        await broker.start()
        position = await broker.head()
        first, seen = position.offset, list[int]()

        async def follow() -> None:
            nonlocal position
            while len(seen) < 60:
                batch = await broker.follow(position)
                seen.extend(m.offset for m in batch.messages)
                assert not batch.truncated
                assert batch.head.offset == seen[-1]
                position = batch.head
                await asyncio.sleep(0)

        async def publish() -> None:
            for n in range(20):
                await broker.publish(draft(n))
                if n % 3 == 0:
                    await asyncio.sleep(0)

        await asyncio.wait_for(asyncio.gather(follow(), publish(), publish(), publish()), 5)
        assert seen == list(range(first + 1, first + 61))


class TestLife:
    """Start, close, start again."""

    async def test_close_wakes_waiting_tasks(self, broker: Broker) -> None:
        """A task that waits in `follow` when the broker closes gets `NotRunning`."""
        following = [asyncio.ensure_future(broker.follow(await broker.head())) for _ in range(3)]
        await run_ready()
        await broker.close()
        done, _ = await asyncio.wait(following, timeout=5)
        assert [type(each.exception()) for each in done] == [NotRunning] * 3

    async def test_unusable_before_start_and_after_close(self, make: Make) -> None:
        """Publishing and looking at the head before start or after close is a clear error."""
        broker = make()
        for _ in range(2):
            with pytest.raises(NotRunning):
                await broker.publish(draft(1))
            with pytest.raises(NotRunning):
                await broker.head()
            await broker.start()
            await broker.close()

    async def test_starting_again_continues(self, make: Make) -> None:
        """After close and start the log goes on: same epoch, same messages, next offset."""
        broker = make()
        await broker.start()
        before = await broker.publish(draft(1))
        await broker.close()
        await broker.start()
        assert await broker.head() == before
        after = await broker.publish(draft(2))
        assert after == Head(before.epoch, Offset(before.offset + 1))
        assert bodies(await read(broker)) == [b"1", b"2"]
        await broker.close()

    async def test_a_broker_started_twice_closes_at_the_second_close(self, make: Make) -> None:
        """A broker that was started twice runs until it is closed twice."""
        broker = make()
        await broker.start()
        await broker.start()
        await broker.close()
        await broker.publish(draft(1))
        await broker.close()
        with pytest.raises(NotRunning):
            await broker.publish(draft(2))

    async def test_epochs_are_unlike(self, make: Make) -> None:
        """Each log has an epoch of its own, of 12 characters that need no escaping."""
        epochs = set()
        for _ in range(20):
            broker = make()
            await broker.start()
            epochs.add((await broker.head()).epoch)
        assert len(epochs) == 20
        assert all(
            len(epoch) == 12 and set(epoch) <= set("-_" + "".join(map(chr, range(48, 123))))
            for epoch in epochs
        )
