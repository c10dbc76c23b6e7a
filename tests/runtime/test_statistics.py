"""Statistics: the accounts add up, while connections live and after they have gone."""

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


async def test_counts_of_a_busy_day() -> None:
    """Each thing that happens is in its count, also after the connections have gone."""
    async with Broadcaster(clock=wall_clock, buffer_capacity=4, history_limit=6) as broadcaster:

        def check(seen: Statistics) -> None:
            assert seen.published == 24
            assert (seen.opened, seen.resumed, seen.tokens_refused) == (3, 1, 1)
            assert seen.conflated == 2
            assert seen.expired == 1
            assert seen.gaps >= 1
            assert seen.lost >= 1
            assert seen.position == 24

        async with broadcaster.connect(user="ann", topics=["t"]) as connection:
            reader = FrameReader(connection)
            at = (await reader.first_frame()).id
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
            broadcaster.connect(user="ann", topics=["t"], last_event_id=at),
            broadcaster.connect(
                user="bob", topics=["t"], reconnect_token="A" * 22, transport="websocket"
            ),
        ):
            now = broadcaster.statistics()
            assert (now.connections, now.users) == (2, 2)
            assert now.transports == {"custom": 1, "websocket": 1}
            check(now)
        later = broadcaster.statistics()
        assert (later.connections, later.users, later.transports) == (0, 0, {})
        check(later)


async def test_handed_over_counts_what_was_handed_over() -> None:
    """Frames and bytes are those that left, of all connections together."""
    async with Broadcaster() as broadcaster:
        frames = size = 0
        async with broadcaster.connect(topics=["t"]) as a, broadcaster.connect(topics=["t"]) as b:
            await broadcaster.publish("t", "x")
            await run_ready()
            for connection in (a, b, a):
                for frame in await connection.next_frames() or []:
                    frames, size = frames + 1, size + len(frame.body)
            (one, two) = broadcaster.connection_statistics()
            assert one.frames_sent + two.frames_sent == frames == 3
        seen = broadcaster.statistics()
        assert (seen.frames_sent, seen.bytes_sent) == (frames, size)


async def test_account_of_a_buffer_adds_up() -> None:
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
            account = broadcaster.connection_statistics()[0].buffer
            assert account.offered == (
                account.taken + account.conflated + account.expired + account.evicted
                + account.refused + account.held
            )  # fmt: skip
            assert account.held <= 5


async def test_connection_by_connection() -> None:
    """Each connection is reported with who, how, how long, and how much waits."""
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
        (seen,) = broadcaster.connection_statistics()
        assert seen.connection_id == connection.id
        assert (seen.user, seen.transport, seen.state) == ("ann", "sse", "open")
        assert [seen.age, seen.idle] == pytest.approx([15.0, 5.0])
        assert (seen.topics, seen.live, seen.buffer.held) == (3, True, 1)


async def test_before_start_and_as_json() -> None:
    """Statistics can be asked for at any time, are frozen, and are JSON; no token is in them."""
    broadcaster = Broadcaster()
    assert (broadcaster.statistics().state, broadcaster.statistics().uptime) == ("new", 0.0)
    async with broadcaster, broadcaster.connect(user="ann", topics=["t"]) as connection:
        await asyncio.sleep(7.0)
        seen = broadcaster.statistics()
        assert seen.state == "running"
        assert seen.uptime == pytest.approx(7.0)
        with pytest.raises(FrozenInstanceError):
            seen.opened = 5  # type: ignore[misc]
        text = json.dumps(seen.as_dict())
        assert connection.token not in text + repr(broadcaster.connection_statistics())
    assert broadcaster.statistics().state == "closed"
