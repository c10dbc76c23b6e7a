"""Statistics: the counts add up, while connections are open and after they have ended."""

from __future__ import annotations

import asyncio
import json
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING

import pytest

from holdfast import Broadcaster, Priority
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import run_ready, wall_clock

if TYPE_CHECKING:
    from holdfast import Statistics


async def test_every_event_is_counted() -> None:
    """Every event is in its count, also after its connection has ended."""
    async with Broadcaster(clock=wall_clock, buffer_capacity=4, history_limit=6) as broadcaster:

        def check(counts: Statistics) -> None:
            assert counts.published == 24
            assert (counts.opened, counts.resumed, counts.tokens_refused) == (3, 1, 1)
            assert counts.conflated == 2
            assert counts.expired == 1
            assert counts.gaps >= 1
            assert counts.lost >= 1
            assert counts.offset == 24

        async with broadcaster.connect(user="ann", topics=["t"]) as connection:
            reader = FrameReader(connection)
            event_id = (await reader.first_frame()).id
            for n in range(3):
                await broadcaster.publish("t", n, key="k")
            await broadcaster.publish("t", "brief", ttl=1.0)
            await run_ready()
            await asyncio.sleep(2.0)
            assert await reader.take(1) == [2]
            for n in range(20):
                await broadcaster.publish("t", n, priority=Priority.LOW)
            await run_ready()
            while (frame := await reader.frame()) is not None and frame.data != 19:
                pass
        async with (
            broadcaster.connect(user="ann", topics=["t"], last_event_id=event_id),
            broadcaster.connect(
                user="bob", topics=["t"], reconnect_token="A" * 22, transport="websocket"
            ),
        ):
            open_counts = broadcaster.statistics()
            assert (open_counts.connections, open_counts.users) == (2, 2)
            assert open_counts.transports == {"custom": 1, "websocket": 1}
            check(open_counts)
        closed_counts = broadcaster.statistics()
        assert (closed_counts.connections, closed_counts.users, closed_counts.transports) == (
            0,
            0,
            {},
        )
        check(closed_counts)


async def test_sent_frames_and_bytes_are_counted() -> None:
    """`frames_sent` and `bytes_sent` are those of all connections together."""
    async with Broadcaster() as broadcaster:
        frames = size = 0
        async with (
            broadcaster.connect(topics=["t"]) as first,
            broadcaster.connect(topics=["t"]) as second,
        ):
            await broadcaster.publish("t", "x")
            await run_ready()
            for connection in (first, second, first):
                for frame in await connection.next_frames() or []:
                    frames, size = frames + 1, size + len(frame.body)
            (first_counts, second_counts) = broadcaster.connection_statistics()
            assert first_counts.frames_sent + second_counts.frames_sent == frames == 3
        counted = broadcaster.statistics()
        assert (counted.frames_sent, counted.bytes_sent) == (frames, size)


async def test_counts_of_a_buffer_add_up() -> None:
    """For every connection, offered = taken + conflated + expired + evicted + refused + held."""
    async with (
        Broadcaster(buffer_capacity=5, clock=wall_clock) as broadcaster,
        broadcaster.connect(topics=["t"]) as connection,
    ):
        reader = FrameReader(connection)
        await reader.first_frame()
        for n in range(60):
            await broadcaster.publish(
                "t", n, priority=Priority(n % 4), key="k" if n % 5 == 0 else None,
                ttl=0.5 if n % 7 == 0 else None,
            )  # fmt: skip
            if n % 8 == 0:
                await asyncio.sleep(0.3)
                await reader.frame()
            counts = broadcaster.connection_statistics()[0].buffer
            assert counts.offered == (
                counts.taken + counts.conflated + counts.expired + counts.evicted
                + counts.refused + counts.held
            )  # fmt: skip
            assert counts.held <= 5


async def test_each_connection_has_its_own_statistics() -> None:
    """A connection's statistics have its user, transport, age, idle time and buffer."""
    async with (
        Broadcaster() as broadcaster,
        broadcaster.connect(user="ann", topics=["t", "u"], transport="sse") as connection,
    ):
        await FrameReader(connection).first_frame()
        await asyncio.sleep(10.0)
        connection.mark_seen()
        await asyncio.sleep(5.0)
        await broadcaster.publish("t", 1)
        await run_ready()
        (row,) = broadcaster.connection_statistics()
        assert row.connection_id == connection.id
        assert (row.user, row.transport, row.state) == ("ann", "sse", "open")
        assert [row.age, row.idle] == pytest.approx([15.0, 5.0])
        assert (row.topics, row.live, row.buffer.held) == (3, True, 1)


async def test_statistics_are_frozen_and_json() -> None:
    """Statistics can be read in every state, are frozen, and are JSON without a token."""
    broadcaster = Broadcaster()
    assert (broadcaster.statistics().state, broadcaster.statistics().uptime) == ("new", 0.0)
    async with broadcaster, broadcaster.connect(user="ann", topics=["t"]) as connection:
        await asyncio.sleep(7.0)
        statistics = broadcaster.statistics()
        assert statistics.state == "running"
        assert statistics.uptime == pytest.approx(7.0)
        with pytest.raises(FrozenInstanceError):
            statistics.opened = 5  # type: ignore[misc]
        text = json.dumps(statistics.as_dict())
        assert connection.token not in text + repr(broadcaster.connection_statistics())
    assert broadcaster.statistics().state == "closed"
