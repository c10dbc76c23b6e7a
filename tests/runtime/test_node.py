"""Node: the fan-out, and who is known to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import Broadcaster, MemoryBroker, Priority, Retention
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import run_ready, wall_clock

REAL = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For tests with threads: a virtual clock would not wait for them."""


class TestFanOut:
    """Who gets what."""

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
        """A connection gets the topics that its expression covers, each message once."""
        topics = [expression, *expected[:1]]
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=topics) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            for topic in ("a", "a.b", "a.c", "a.b.c", "x.b"):
                await broadcaster.publish(topic, topic)
            assert await reader.take(len(expected)) == expected
            await reader.assert_no_frame()

    async def test_to_user(self) -> None:
        """A message to a user reaches that user's subscribers, and neither others nor a replay."""
        async with Broadcaster() as broadcaster:
            readers: dict[str | None, FrameReader] = {}
            ids = {}
            async with (
                broadcaster.connect(user="ann", topics=["t"]) as a,
                broadcaster.connect(user="bob", topics=["t"]) as b,
                broadcaster.connect(topics=["t"]) as c,
                broadcaster.connect(user="ann", topics=["other"]) as d,
            ):
                for name, connection in (("ann", a), ("bob", b), (None, c), ("ann2", d)):
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

    async def test_publish_to_user_reaches_all_of_the_users_connections(self) -> None:
        """The personal topic needs no subscription, and is nobody else's."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(user="ann") as a,
            broadcaster.connect(user="ann", topics=["t"]) as b,
            broadcaster.connect(user="bob", topics=["**"]) as c,
            broadcaster.connect(topics=["**"]) as d,
        ):
            readers = [FrameReader(connection) for connection in (a, b, c, d)]
            for reader in readers:
                await reader.first_frame()
            await broadcaster.publish_to_user("ann", 1)
            assert [await reader.take(1) for reader in readers[:2]] == [[1], [1]]
            for reader in readers[2:]:
                await reader.assert_no_frame()

    async def test_better_lanes_overtake(self) -> None:
        """What waits leaves best lane first, and inside a lane in publish order."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            for n in range(12):
                await broadcaster.publish("t", n, priority=Priority(n % 4))
            await run_ready()
            assert await reader.take(12) == sorted(range(12), key=lambda n: (-(n % 4), n))

    async def test_conflated_while_it_waits(self) -> None:
        """Of a key that changes while the client is slow, only the newest value is sent."""
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

    async def test_expired_while_it_waits(self) -> None:
        """A message whose ttl passes while the client is slow is not sent, and is counted."""
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

    async def test_slow_client_costs_the_others_nothing(self) -> None:
        """One that does not read holds a bounded buffer, and catches up from history."""
        async with (
            Broadcaster(buffer_capacity=10) as broadcaster,
            broadcaster.connect(topics=["t"]) as slow,
            broadcaster.connect(topics=["t"]) as quick,
        ):
            slow_reader, reader = FrameReader(slow), FrameReader(quick)
            await slow_reader.first_frame()
            await reader.first_frame()
            for n in range(300):
                await broadcaster.publish("t", n)
                assert await reader.take(1) == [n]
            assert len(slow.delivery.buffer) <= 10
            assert await slow_reader.take(300) == list(range(300))
            assert broadcaster.statistics().gaps == 0

    async def test_beyond_history_is_declared_in_its_place(self) -> None:
        """A slow client that history has left behind gets a gap with the count, then the rest."""
        async with (
            Broadcaster(buffer_capacity=4, history_limit=10) as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
        ):
            reader = FrameReader(connection)
            await reader.first_frame()
            for n in range(40):
                await broadcaster.publish("t", n)
            await run_ready()
            seen: list[Any] = []
            lost = 0
            while sum(1 for s in seen if not isinstance(s, dict)) + lost < 40:
                frame = await reader.frame()
                assert frame is not None
                seen.append(frame.data)
                if frame.type == "gap":
                    assert frame.data["topics"] == ["t"]
                    assert frame.data["cause"] == "trimmed"
                    lost += frame.data["count"]
            numbers = [s for s in seen if not isinstance(s, dict)]
            assert numbers == sorted(numbers)
            assert numbers[-10:] == list(range(30, 40))
            assert lost > 0

    async def test_burst_beyond_the_feed_loses_nothing(self) -> None:
        """When a node falls behind what the feed keeps, its clients read on from history."""
        broker = DelayedBroker(make=lambda: MemoryBroker(retention=Retention(limit=10_000)))
        async with (
            Broadcaster(broker=broker) as broadcaster,
            broadcaster.connect(topics=["t"]) as a,
            broadcaster.connect(topics=["t", "u"]) as b,
        ):
            readers = [FrameReader(a), FrameReader(b)]
            for reader in readers:
                await reader.first_frame()
            await broadcaster.publish("t", -2)
            await run_ready()
            broker.feed_gate.clear()
            for n in range(5000):
                await broadcaster.publish("t", n, priority=Priority(n % 2 + 1))
            broker.release()
            for reader in readers:
                found = await reader.take(5001)
                assert sorted(found) == [-2, *range(5000)]
                for lane in (0, 1):
                    inside = [n for n in found if n % 2 == lane]
                    assert inside == sorted(inside)
            assert broadcaster.statistics().gaps == 0

    async def test_flush_interval_batches(self) -> None:
        """With a flush interval, what is published in between comes in one piece."""
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
            begun = asyncio.get_running_loop().time()
            assert len(await connection.next_frames() or []) == 5
            assert asyncio.get_running_loop().time() - begun <= 1.0
