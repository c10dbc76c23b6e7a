"""Node: the messages that its connections get."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import Broadcaster, MemoryBroker, Priority, Retention
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import run_ready, wall_clock


class TestFanOut:
    """The recipients of a message, and the order in which they get it."""

    @pytest.mark.parametrize(
        ("expression", "expected"),
        [
            ("a.b", ["a.b"]),
            ("a.*", ["a.b", "a.c"]),
            ("*.b", ["a.b", "x.b"]),
            ("a.**", ["a.b", "a.c", "a.b.c"]),
            ("**", ["a", "a.b", "a.c", "a.b.c", "x.b"]),
            ("*", ["a"]),
            ("a", ["a"]),
            ("b", []),
        ],
    )
    async def test_by_topic_and_pattern(self, expression: str, expected: list[str]) -> None:
        """A connection gets the messages of the topics that it covers, each once."""
        topics = [expression, *expected[:1]]
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=topics) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            for topic in ("a", "a.b", "a.c", "a.b.c", "x.b"):
                await broadcaster.publish(topic, topic)
            assert await reader.take(len(expected)) == expected
            await reader.assert_no_frame()

    async def test_to_user(self) -> None:
        """A message to a user reaches only that user's subscribers, live and in a replay."""
        async with Broadcaster() as broadcaster:
            readers: dict[str | None, FrameReader] = {}
            ids = {}
            async with (
                broadcaster.connect(user="ann", topics=["t"]) as ann,
                broadcaster.connect(user="bob", topics=["t"]) as bob,
                broadcaster.connect(topics=["t"]) as unidentified,
                broadcaster.connect(user="ann", topics=["other"]) as not_subscribed,
            ):
                for name, connection in (
                    ("ann", ann),
                    ("bob", bob),
                    (None, unidentified),
                    ("ann2", not_subscribed),
                ):
                    readers[name] = FrameReader(connection)
                    ids[name] = (await readers[name].first_frame()).id
                await broadcaster.publish("t", "for ann", to_user="ann")
                await broadcaster.publish("t", "for all")
                assert await readers["ann"].take(2) == ["for ann", "for all"]
                assert await readers["bob"].take(1) == ["for all"]
                assert await readers[None].take(1) == ["for all"]
                await readers["ann2"].assert_no_frame()
            for name, expected in (("ann", ["for ann", "for all"]), ("bob", ["for all"])):
                async with broadcaster.connect(
                    user=name, topics=["t"], last_event_id=ids[name]
                ) as connection:
                    reader = FrameReader(connection)
                    assert (await reader.first_frame()).data["replay"] == len(expected)
                    assert await reader.take(len(expected)) == expected

    async def test_personal_topic_reaches_all_connections_of_its_user(self) -> None:
        """The personal topic needs no subscription, and reaches no other user."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(user="ann") as first,
            broadcaster.connect(user="ann", topics=["t"]) as second,
            broadcaster.connect(user="bob", topics=["**"]) as other,
            broadcaster.connect(topics=["**"]) as unidentified,
        ):
            readers = [
                FrameReader(connection) for connection in (first, second, other, unidentified)
            ]
            for reader in readers:
                await reader.first_frame()
            await broadcaster.publish_to_user("ann", 1)
            assert [await reader.take(1) for reader in readers[:2]] == [[1], [1]]
            for reader in readers[2:]:
                await reader.assert_no_frame()

    async def test_urgent_lanes_overtake(self) -> None:
        """Pending messages are sent by lane, most urgent first, and in order within a lane."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            for n in range(12):
                await broadcaster.publish("t", n, priority=Priority(n % 4))
            await run_ready()
            assert await reader.take(12) == sorted(range(12), key=lambda n: (-(n % 4), n))

    async def test_pending_messages_are_conflated(self) -> None:
        """A pending message is superseded by a newer message of its key."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t", "u"]) as connection,
        ):
            reader = FrameReader(connection)
            await reader.first_frame()
            await broadcaster.publish("t", "old", key="k", priority=Priority.HIGH)
            await broadcaster.publish("t", "between")
            await broadcaster.publish("u", "other topic", key="k")
            await broadcaster.publish("t", "new", key="k", priority=Priority.LOW)
            await run_ready()
            assert await reader.take(3) == ["between", "other topic", "new"]
            await reader.assert_no_frame()
            assert broadcaster.statistics().conflated == 1

    async def test_pending_message_expires(self) -> None:
        """A pending message whose ttl ends is not sent, and is counted."""
        async with (
            Broadcaster(clock=wall_clock) as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
        ):
            reader = FrameReader(connection)
            await reader.first_frame()
            await broadcaster.publish("t", 1, ttl=5.0)
            await broadcaster.publish("t", 2, ttl=7.0)
            await asyncio.sleep(6.0)
            assert await reader.take(1) == [2]
            assert broadcaster.statistics().expired == 1

    async def test_slow_client_delays_no_other(self) -> None:
        """A slow client has a bounded buffer, and catches up from the history."""
        async with (
            Broadcaster(buffer_capacity=10) as broadcaster,
            broadcaster.connect(topics=["t"]) as slow,
            broadcaster.connect(topics=["t"]) as fast,
        ):
            slow_reader, reader = FrameReader(slow), FrameReader(fast)
            await slow_reader.first_frame()
            await reader.first_frame()
            for n in range(300):
                await broadcaster.publish("t", n)
                assert await reader.take(1) == [n]
            assert len(slow.delivery.buffer) <= 10
            assert await slow_reader.take(300) == list(range(300))
            assert broadcaster.statistics().gaps == 0

    async def test_trimmed_messages_are_a_gap_in_their_place(self) -> None:
        """A slow client gets a gap with the count of the trimmed messages, in their place."""
        async with (
            Broadcaster(buffer_capacity=4, history_limit=10) as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
        ):
            reader = FrameReader(connection)
            await reader.first_frame()
            for n in range(40):
                await broadcaster.publish("t", n)
            await run_ready()
            received: list[Any] = []
            lost = 0
            while sum(1 for data in received if not isinstance(data, dict)) + lost < 40:
                frame = await reader.frame()
                assert frame is not None
                received.append(frame.data)
                if frame.type == "gap":
                    assert frame.data["topics"] == ["t"]
                    assert frame.data["cause"] == "trimmed"
                    lost += frame.data["count"]
            numbers = [data for data in received if not isinstance(data, dict)]
            assert numbers == sorted(numbers)
            assert numbers[-10:] == list(range(30, 40))
            assert lost > 0

    async def test_burst_beyond_the_feed_loses_no_message(self) -> None:
        """If a node falls behind the feed, its clients are served from the history."""
        broker = DelayedBroker(make=lambda: MemoryBroker(retention=Retention(limit=10_000)))
        async with (
            Broadcaster(broker=broker) as broadcaster,
            broadcaster.connect(topics=["t"]) as first,
            broadcaster.connect(topics=["t", "u"]) as second,
        ):
            readers = [FrameReader(first), FrameReader(second)]
            for reader in readers:
                await reader.first_frame()
            await broadcaster.publish("t", -2)
            await run_ready()
            broker.feed_gate.clear()
            for n in range(5000):
                await broadcaster.publish("t", n, priority=Priority(n % 2 + 1))
            broker.release()
            for reader in readers:
                received = await reader.take(5001)
                assert sorted(received) == [-2, *range(5000)]
                for lane in (0, 1):
                    in_lane = [n for n in received if n % 2 == lane]
                    assert in_lane == sorted(in_lane)
            assert broadcaster.statistics().gaps == 0

    async def test_flush_interval_batches(self) -> None:
        """Messages within one flush interval are returned in one batch."""
        async with (
            Broadcaster(flush_interval=1.0) as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
        ):
            await FrameReader(connection).first_frame()
            await broadcaster.publish("t", 0)
            assert len(await connection.next_frames() or []) == 1
            connection.mark_sent()
            for n in range(5):
                await asyncio.sleep(0.1)
                await broadcaster.publish("t", n)
            start = asyncio.get_running_loop().time()
            assert len(await connection.next_frames() or []) == 5
            assert asyncio.get_running_loop().time() - start <= 1.0
