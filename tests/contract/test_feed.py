"""The contract of every Broker: the feed, its start and its close."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import NotRunning, Priority
from holdfast.brokers.protocol import Broker
from holdfast.core.cursor import Head
from holdfast.core.message import Offset
from tests.contract.implementations import CLOCK, Make
from tests.contract.reading import bodies, draft, follow_messages, read
from tests.support.virtual_loop import run_ready


class TestFollow:
    """The live feed."""

    async def test_follow_returns_later_messages(self, broker: Broker) -> None:
        """`follow` returns all later messages of all topics and lanes, in order."""
        start = await broker.head()
        for n, lane in enumerate(Priority):
            await broker.publish(draft(n, topic=f"t{n}", priority=lane))
        messages = await follow_messages(broker, start, 4)
        assert [message.body for message in messages] == [b"0", b"1", b"2", b"3"]
        batch = await broker.follow(start)
        assert (batch.head, batch.truncated) == (await broker.head(), False)
        middle = Head(start.epoch, Offset(start.offset + 2))
        assert [message.body for message in (await broker.follow(middle)).messages] == [b"2", b"3"]

    async def test_follow_waits_for_the_next_message(self, broker: Broker) -> None:
        """A follower at the head returns with the next message."""
        following = asyncio.ensure_future(broker.follow(await broker.head()))
        await run_ready()
        assert not following.done()
        await broker.publish(draft(1))
        assert [message.body for message in (await asyncio.wait_for(following, 5)).messages] == [
            b"1"
        ]

    async def test_superseded_and_expired_are_in_the_feed(self, broker: Broker) -> None:
        """The feed contains every message, because each connection conflates by itself."""
        start = await broker.head()
        for n in range(3):
            await broker.publish(draft(n, key="k", expires_at=CLOCK() + 0.001))
        assert len(await follow_messages(broker, start, 3)) == 3

    async def test_every_follower_gets_every_message(self, broker: Broker) -> None:
        """Several followers at one position each get the message."""
        start = await broker.head()
        first = asyncio.ensure_future(broker.follow(start))
        second = asyncio.ensure_future(broker.follow(start))
        await run_ready()
        await broker.publish(draft(1))
        third = asyncio.ensure_future(broker.follow(start))
        batches = await asyncio.wait_for(asyncio.gather(first, second, third), 5)
        assert [[message.body for message in batch.messages] for batch in batches] == [[b"1"]] * 3

    async def test_cancelled_follow_loses_no_message(self, broker: Broker) -> None:
        """A follow after a cancelled one returns its messages."""
        start = await broker.head()
        for moment in ("waiting", "woken"):
            following = asyncio.ensure_future(broker.follow(start))
            await run_ready()
            if moment == "woken":
                await broker.publish(draft(1))
            following.cancel()
            await asyncio.wait([following])
        batch = await asyncio.wait_for(broker.follow(start), 5)
        assert [message.body for message in batch.messages] == [b"1"]

    async def test_batch_is_truncated(self, broker: Broker) -> None:
        """A follower far behind gets a truncated batch, and the history has the other messages."""
        start = await broker.head()
        body = b"x" * 100_000
        for _ in range(100):
            await broker.publish(draft(body=body))
        head = await broker.head()
        await read(broker)  # the history is complete up to its head
        batch = await broker.follow(start)
        assert batch.truncated
        assert batch.head == head
        offsets = [message.offset for message in batch.messages]
        assert offsets == list(range(batch.head.offset - len(offsets) + 1, batch.head.offset + 1))
        assert len(bodies(await read(broker, max_bytes=100_000_000))) == 100

    async def test_batch_is_complete_up_to_its_head(self, make: Make) -> None:
        """Batches follow each other without a hole, also while messages are published."""
        broker = make()
        await broker.start()
        position = await broker.head()
        first, offsets = position.offset, list[int]()

        async def follow() -> None:
            nonlocal position
            while len(offsets) < 60:
                batch = await broker.follow(position)
                offsets.extend(message.offset for message in batch.messages)
                assert not batch.truncated
                assert batch.head.offset == offsets[-1]
                position = batch.head
                await asyncio.sleep(0)

        async def publish() -> None:
            for n in range(20):
                await broker.publish(draft(n))
                if n % 3 == 0:
                    await asyncio.sleep(0)

        await asyncio.wait_for(asyncio.gather(follow(), publish(), publish(), publish()), 5)
        assert offsets == list(range(first + 1, first + 61))


class TestStartAndClose:
    """The start and the close of a broker."""

    async def test_close_wakes_waiting_tasks(self, broker: Broker) -> None:
        """A task that waits in `follow` when the broker closes gets NotRunning."""
        following = [asyncio.ensure_future(broker.follow(await broker.head())) for _ in range(3)]
        await run_ready()
        await broker.close()
        done, _ = await asyncio.wait(following, timeout=5)
        assert [type(each.exception()) for each in done] == [NotRunning] * 3

    async def test_unusable_before_start_and_after_close(self, make: Make) -> None:
        """`publish` and `head` raise NotRunning before the start and after the close."""
        broker = make()
        for _ in range(2):
            with pytest.raises(NotRunning):
                await broker.publish(draft(1))
            with pytest.raises(NotRunning):
                await broker.head()
            await broker.start()
            await broker.close()

    async def test_second_start_continues_the_log(self, make: Make) -> None:
        """After a close and a start, the log has the same epoch, messages and next offset."""
        broker = make()
        await broker.start()
        first_head = await broker.publish(draft(1))
        await broker.close()
        await broker.start()
        assert await broker.head() == first_head
        second_head = await broker.publish(draft(2))
        assert second_head == Head(first_head.epoch, Offset(first_head.offset + 1))
        assert bodies(await read(broker)) == [b"1", b"2"]
        await broker.close()

    async def test_broker_started_twice_closes_at_the_second_close(self, make: Make) -> None:
        """A broker that was started twice runs until it is closed twice."""
        broker = make()
        await broker.start()
        await broker.start()
        await broker.close()
        await broker.publish(draft(1))
        await broker.close()
        with pytest.raises(NotRunning):
            await broker.publish(draft(2))

    async def test_epochs_differ(self, make: Make) -> None:
        """Each log has its own epoch of 12 characters that need no escaping."""
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
