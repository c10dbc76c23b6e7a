"""The window: the unacknowledged bytes of a client, their limit, and their timeout."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import Broadcaster, Priority, Reason
from holdfast.core.delivery.window import MIN_BYTES
from holdfast.core.frames import Frame
from holdfast.runtime.connection import Connection
from tests.support.frame_reader import FrameReader, send_frames
from tests.support.virtual_loop import run_ready

SIZE = MIN_BYTES // 4
"""Bytes of each message: four fill the smallest window."""


async def publish(broadcaster: Broadcaster, count: int, **options: Any) -> None:
    """Publish `count` messages, and let the fan-out offer them."""
    for _ in range(count):
        await broadcaster.publish("t", "x" * SIZE, **options)
    await run_ready()


class Client:
    """A client that reads by inline sends, as the transports do."""

    def __init__(self, connection: Connection) -> None:
        self.frames: list[Frame] = []
        self.acknowledged: list[bool] = []
        self.task = asyncio.ensure_future(send_frames(connection, self.send))

    async def send(self, frame: Any) -> None:
        self.frames.append(frame)


async def next_ids(connection: Connection) -> list[str]:
    """Return the event ids of the messages that `next_frames` returns without waiting."""
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
    """Clients that acknowledge, and clients that do not."""

    async def test_messages_beyond_the_window_wait(self) -> None:
        """An acknowledging client gets one window of messages, and more as it acknowledges."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            first_frame = await FrameReader(connection).first_frame()
            assert first_frame.data["window"] == MIN_BYTES
            await publish(broadcaster, 20, priority=Priority.LOW)
            first = await next_ids(connection)
            assert len(first) == 4
            assert connection.acknowledge(first[0])
            assert 1 <= len(await next_ids(connection)) <= 2

    async def test_client_that_does_not_acknowledge_has_no_window(self) -> None:
        """A client that never acknowledges gets all messages."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            first_frame = await FrameReader(connection).first_frame()
            assert "window" not in first_frame.data
            await publish(broadcaster, 20)
            assert len(await next_ids(connection)) == 20

    async def test_first_acknowledgement_opens_a_window(self) -> None:
        """A client that acknowledges without an announcement has a window from then on."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            first_frame = await FrameReader(connection).first_frame()
            assert connection.acknowledge(first_frame.id)
            await publish(broadcaster, 20)
            assert len(await next_ids(connection)) < 10

    @pytest.mark.parametrize("limit", [None, 100])
    async def test_window_bytes_limits_the_window(self, limit: int | None) -> None:
        """`window_bytes` is the largest number of unacknowledged bytes; None disables it."""
        async with (
            Broadcaster(window_bytes=limit) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            first_frame = await FrameReader(connection).first_frame()
            assert first_frame.data.get("window") == limit
            await publish(broadcaster, 20)
            assert len(await next_ids(connection)) == (20 if limit is None else 1)

    async def test_critical_message_overtakes_waiting_messages(self) -> None:
        """A critical message overtakes messages that wait for an acknowledgement."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            await FrameReader(connection).first_frame()
            await publish(broadcaster, 200, priority=Priority.LOW)
            ids = await next_ids(connection)
            await publish(broadcaster, 1, priority=Priority.CRITICAL)
            connection.acknowledge(ids[-1])
            reader = FrameReader(connection)
            frame = await reader.frame()
            assert frame is not None
            assert frame.body["priority"] == "critical"

    @pytest.mark.parametrize("inline", [True, False], ids=["inline", "by its own task"])
    async def test_counts_the_frame_with_its_id(self, inline: bool) -> None:
        """The bytes of a sent message and of its event id count, by either way of sending."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            client = Client(connection) if inline else None
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

    async def test_acknowledging_client_gets_every_message(self) -> None:
        """A client that acknowledges gets every message once, through an overflow of its buffer."""
        async with (
            Broadcaster(buffer_capacity=10) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            reader = FrameReader(connection)
            await reader.first_frame()
            for number in range(300):
                await broadcaster.publish("t", [number, "x" * 500], priority=Priority(number % 4))
            numbers = []
            for _ in range(300):
                [[number, _]] = await reader.take(1)
                numbers.append(number)
                assert connection.acknowledge(reader.last_id)
            assert sorted(numbers) == list(range(300))
            assert connection._window is not None
            assert connection._window.unacknowledged == 0

    async def test_waiting_messages_are_replayed(self) -> None:
        """A client that is cut while its window is full gets the waiting messages at the resume."""
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(topics=["t"], acknowledges=True) as connection:
                await FrameReader(connection).first_frame()
                await publish(broadcaster, 20)
                ids = await next_ids(connection)
            async with broadcaster.connect(topics=["t"], last_event_id=ids[-1]) as connection:
                first_frame = await FrameReader(connection).first_frame()
                assert (first_frame.data["session"], first_frame.data["replay"]) == (
                    "resumed",
                    20 - len(ids),
                )
                assert len(await next_ids(connection)) == 20 - len(ids)

    async def test_control_frames_ignore_the_window(self) -> None:
        """A heartbeat is sent though the window is full; its acknowledgement opens the window."""
        async with (
            Broadcaster(heartbeat_interval=5.0) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            reader = FrameReader(connection, timeout=20.0)
            await reader.first_frame()
            await publish(broadcaster, 20)
            await next_ids(connection)
            frame = await reader.frame()
            assert frame is not None
            assert frame.type == "heartbeat"
            assert connection.acknowledge(frame.id)
            assert len(await next_ids(connection)) > 1

    async def test_full_window_times_out(self) -> None:
        """A window that stays full for `send_timeout` ends the connection, and loses no message."""
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

    async def test_slowly_acknowledging_client_stays_connected(self) -> None:
        """Each acknowledgement extends the timeout, also of one message among many."""
        async with (
            Broadcaster(send_timeout=10.0, heartbeat_interval=None) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            client = Client(connection)
            await run_ready()
            for number in range(100):
                await broadcaster.publish("t", [number, "x" * SIZE])
            await run_ready(50)
            for _ in range(99):
                await asyncio.sleep(4.0)
                index = len(client.acknowledged) + 1
                client.acknowledged.append(connection.acknowledge(client.frames[index].id))
                await run_ready(50)
            assert all(client.acknowledged)
            assert connection.close_reason is None
            assert len(client.frames) == 101
            client.task.cancel()
            await asyncio.wait([client.task])

    async def test_full_window_leaves_no_pending_batch(self) -> None:
        """Messages for a client whose window is full are put into its buffer at once."""
        async with (
            Broadcaster(heartbeat_interval=None) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            client = Client(connection)
            await run_ready()
            await publish(broadcaster, 20)
            for _ in range(500):
                await broadcaster.publish("t", "small")
                await run_ready(5)
            assert connection.delivery.pending_batch is None
            assert len(connection.delivery.buffer) <= 100
            client.task.cancel()
            await asyncio.wait([client.task])

    async def test_window_with_room_does_not_time_out(self) -> None:
        """A client with room in its window may leave messages unacknowledged."""
        async with (
            Broadcaster(send_timeout=10.0, heartbeat_interval=None) as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
        ):
            await FrameReader(connection).first_frame()
            await publish(broadcaster, 2)
            await next_ids(connection)
            await asyncio.sleep(100.0)
            assert connection.close_reason is None

    async def test_unacknowledged_bytes_are_in_the_statistics(self) -> None:
        """The statistics of a connection contain its unacknowledged bytes."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"], acknowledges=True) as connection,
            broadcaster.connect(topics=["t"]),
        ):
            await FrameReader(connection).first_frame()
            await publish(broadcaster, 2)
            await next_ids(connection)
            with_window, without = broadcaster.connection_statistics()
            assert with_window.unacknowledged is not None
            assert 2 * SIZE < with_window.unacknowledged < 3 * SIZE
            assert without.unacknowledged is None
