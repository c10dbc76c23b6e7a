"""The acknowledged window: what is held back, what lets it go on, and what ends it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from holdfast import Broadcaster, Priority, Reason
from holdfast.core.delivery.window import MIN_BYTES
from holdfast.core.frames import Frame
from holdfast.runtime.connection import Connection
from holdfast.runtime.inline_send import InlineSender
from tests.support.frame_reader import FrameReader, PlainFrameEncoder
from tests.support.virtual_loop import run_ready

SIZE = MIN_BYTES // 4
"""Bytes of each message: four fill the least window."""


async def publish(broadcaster: Broadcaster, count: int, **options: Any) -> None:
    """Publish so many messages, and let them be fanned out."""
    for _ in range(count):
        await broadcaster.publish("t", "x" * SIZE, **options)
    await run_ready()


class Client:
    """Reads by a pipe, as the transports do."""

    def __init__(self, connection: Connection) -> None:
        self.frames: list[Frame] = []
        self.acknowledged: list[bool] = []
        self.task = asyncio.ensure_future(self._run(connection))

    async def _run(self, connection: Connection) -> None:
        async def send(frame: Any) -> None:
            self.frames.append(frame)

        sender = InlineSender(send, PlainFrameEncoder(), connection.token)
        connection.attach_sender(sender)
        while (frames := await connection.next_frames()) is not None:
            for frame in frames:
                await sender.send(cast("Any", frame))
            connection.mark_sent()


async def taken(connection: Connection) -> list[str]:
    """The event ids of the messages that the outbox hands over now, without waiting."""
    ids: list[str] = []
    while True:
        try:
            async with asyncio.timeout(0.1):
                frames = await connection.next_frames()
        except TimeoutError:
            return ids
        assert frames is not None
        connection.mark_sent()
        ids += [frame.id for frame in frames]


class TestWindow:
    """A client that acknowledges, and one that does not."""

    async def test_holds_back_what_goes_beyond_it(self) -> None:
        """Who announced to acknowledge gets a window's worth, and the rest as it acknowledges."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            first_frame = await FrameReader(connection).first_frame()
            assert first_frame.data["window"] == MIN_BYTES
            await publish(broadcaster, 20, priority=Priority.LOW)
            first = await taken(connection)
            assert len(first) == 4
            assert connection.acknowledge(first[0])
            assert 1 <= len(await taken(connection)) <= 2

    async def test_client_that_does_not_acknowledge_has_none(self) -> None:
        """Nothing is held back from a client that never acknowledges."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            first_frame = await FrameReader(connection).first_frame()
            assert "window" not in first_frame.data
            await publish(broadcaster, 20)
            assert len(await taken(connection)) == 20

    async def test_first_acknowledgement_opens_it(self) -> None:
        """Who acknowledges without having said so is served with a window from then on."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            first_frame = await FrameReader(connection).first_frame()
            assert connection.acknowledge(first_frame.id)
            await publish(broadcaster, 20)
            assert len(await taken(connection)) < 10

    @pytest.mark.parametrize("limit", [None, 100])
    async def test_option_bounds_it_or_switches_it_off(self, limit: int | None) -> None:
        """`window_bytes` is the most that may be unacknowledged; `None` is no window."""
        async with (
            Broadcaster(window_bytes=limit) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            first_frame = await FrameReader(connection).first_frame()
            assert first_frame.data.get("window") == limit
            await publish(broadcaster, 20)
            assert len(await taken(connection)) == (20 if limit is None else 1)

    async def test_critical_overtakes_what_is_held_back(self) -> None:
        """What waits for an acknowledgement waits where priorities count."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            await FrameReader(connection).first_frame()
            await publish(broadcaster, 200, priority=Priority.LOW)
            ids = await taken(connection)
            await publish(broadcaster, 1, priority=Priority.CRITICAL)
            connection.acknowledge(ids[-1])
            reader = FrameReader(connection)
            seen = await reader.frame()
            assert seen is not None
            assert seen.body["priority"] == "critical"

    @pytest.mark.parametrize("by_pipe", [True, False], ids=["on the spot", "by its own task"])
    async def test_counts_the_frame_with_its_id(self, by_pipe: bool) -> None:
        """Whoever hands a message over, its body and its event id are unacknowledged."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            client = Client(connection) if by_pipe else None
            sent = list[Frame]() if client is None else client.frames
            if client is None:
                await FrameReader(connection).first_frame()
            await run_ready()
            sent.clear()
            await broadcaster.publish("t", 1)
            await run_ready()
            if client is None:
                sent += await connection.next_frames() or []
            assert len(sent) == 1
            assert connection._window is not None
            size = sum(len(frame.body) + len(frame.id) for frame in sent)
            assert connection._window.unacknowledged == size

    async def test_everything_arrives_in_the_end(self) -> None:
        """A client that goes on acknowledging gets every message once, through any overflow."""
        async with (
            Broadcaster(buffer_capacity=10) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            reader = FrameReader(connection)
            await reader.first_frame()
            for number in range(300):
                await broadcaster.publish("t", [number, "x" * 500], priority=Priority(number % 4))
            seen = []
            for _ in range(300):
                [[number, _]] = await reader.take(1)
                seen.append(number)
                assert connection.acknowledge(reader.last_id)
            assert sorted(seen) == list(range(300))
            assert connection._window is not None
            assert connection._window.unacknowledged == 0

    async def test_what_is_held_back_is_not_settled(self) -> None:
        """A client that is cut while the window is full comes back and gets what was held back."""
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(topics=["t"], acknowledges=True) as connection:
                await FrameReader(connection).first_frame()
                await publish(broadcaster, 20)
                ids = await taken(connection)
            async with broadcaster.connect(topics=["t"], last_event_id=ids[-1]) as connection:
                first_frame = await FrameReader(connection).first_frame()
                assert (first_frame.data["session"], first_frame.data["replay"]) == (
                    "resumed",
                    20 - len(ids),
                )
                assert len(await taken(connection)) == 20 - len(ids)

    async def test_control_frames_are_not_held_back(self) -> None:
        """A heartbeat goes out though the window is full, and its echo opens the window."""
        async with (
            Broadcaster(heartbeat_interval=5.0) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            reader = FrameReader(connection, timeout=20.0)
            await reader.first_frame()
            await publish(broadcaster, 20)
            await taken(connection)
            seen = await reader.frame()
            assert seen is not None
            assert seen.type == "heartbeat"
            assert connection.acknowledge(seen.id)
            assert len(await taken(connection)) > 1

    async def test_client_that_stops_acknowledging_is_asked_to_come_back(self) -> None:
        """A window that stays full for `send_timeout` ends the connection; nothing is lost."""
        async with Broadcaster(send_timeout=10.0, heartbeat_interval=None) as broadcaster:
            async with broadcaster.connect(topics=["t"], acknowledges=True) as connection:
                reader = FrameReader(connection, timeout=60.0)
                await reader.first_frame()
                await publish(broadcaster, 20)
                frames = await reader.rest()
                assert connection.close_reason is Reason.SLOW
                assert (frames[-1].type, frames[-1].data["reconnect"]) == ("closing", True)
            async with broadcaster.connect(
                topics=["t"], last_event_id=reader.last_id
            ) as connection:
                first_frame = await FrameReader(connection).first_frame()
                assert first_frame.data["replay"] == 20 - (len(frames) - 1)

    async def test_client_that_acknowledges_slowly_is_kept(self) -> None:
        """Each acknowledgement counts, also of one message among many that left at once."""
        async with (
            Broadcaster(send_timeout=10.0, heartbeat_interval=None) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            made = Client(connection)
            await run_ready()
            for number in range(100):
                await broadcaster.publish("t", [number, "x" * SIZE])
            await run_ready(50)
            for _ in range(99):
                await asyncio.sleep(4.0)
                at = len(made.acknowledged) + 1
                made.acknowledged.append(connection.acknowledge(made.frames[at].id))
                await run_ready(50)
            assert all(made.acknowledged)
            assert connection.close_reason is None
            assert len(made.frames) == 101
            made.task.cancel()
            await asyncio.wait([made.task])

    async def test_full_window_makes_nobody_elses_publish_dearer(self) -> None:
        """What a client that never acknowledges is offered goes into its buffer, and no further."""
        async with (
            Broadcaster(heartbeat_interval=None) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            made = Client(connection)
            await run_ready()
            await publish(broadcaster, 20)
            for _ in range(500):
                await broadcaster.publish("t", "small")
                await run_ready(5)
            assert connection.delivery.pending_batch is None
            assert len(connection.delivery.buffer) <= 100
            made.task.cancel()
            await asyncio.wait([made.task])

    async def test_quiet_client_with_room_is_left_alone(self) -> None:
        """Not acknowledging the last few messages is no offence while there is room."""
        async with (
            Broadcaster(send_timeout=10.0, heartbeat_interval=None) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            await FrameReader(connection).first_frame()
            await publish(broadcaster, 2)
            await taken(connection)
            await asyncio.sleep(100.0)
            assert connection.close_reason is None

    async def test_statistics_tell_it(self) -> None:
        """What is unacknowledged is in the connection's statistics."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
            broadcaster.connect(topics=["t"]),
        ):
            await FrameReader(connection).first_frame()
            await publish(broadcaster, 2)
            await taken(connection)
            with_window, without = broadcaster.connection_statistics()
            assert with_window.unacknowledged is not None
            assert 2 * SIZE < with_window.unacknowledged < 3 * SIZE
            assert without.unacknowledged is None
