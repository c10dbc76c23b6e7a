"""Connection: the frames, their order and ids, cancellation, and acknowledgements."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import Broadcaster, MemoryBroker, Priority, Reason
from holdfast.core import frames
from holdfast.core.cursor import Cursor, EventId
from holdfast.core.delivery.lanes import CHUNK_BYTES
from holdfast.runtime.connection import MAX_CONTROL_FRAMES
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader, send_frames
from tests.support.node import node_of
from tests.support.virtual_loop import run_ready, run_virtual, wall_clock

if TYPE_CHECKING:
    from holdfast.runtime.connection import Connection


def cursor(event_id: str) -> Cursor:
    """Return the cursor of an event id."""
    parsed = EventId.parse(event_id)
    assert parsed is not None
    return parsed.cursor


class TestNext:
    """The frames that `next_frames` returns."""

    async def test_first_frame_describes_the_session(self) -> None:
        """The first frame describes the session, and its id resumes from there."""
        async with Broadcaster(clock=lambda: 1000.0) as broadcaster:
            async with broadcaster.connect(topics=["t", "t", "u"]) as connection:
                first_frame = await FrameReader(connection).first_frame()
                assert first_frame.body["timestamp"] == 1000.0
                assert first_frame.data == {
                    "connectionId": connection.id,
                    "reconnectToken": connection.token,
                    "resumableUntil": 1000.0 + 3600.0,
                    "session": "fresh",
                    "topics": ["t", "u"],
                    "rejected": [],
                    "heartbeatInterval": 30.0,
                }
                await broadcaster.publish("t", 1)
            async with broadcaster.connect(
                topics=["t", "u"], last_event_id=first_frame.id
            ) as connection:
                reader = FrameReader(connection)
                resumed = (await reader.first_frame()).data
                assert (resumed["session"], resumed["replay"]) == ("resumed", 1)
                assert resumed["reconnectToken"] not in (first_frame.data["reconnectToken"], None)
                assert await reader.take(1) == [1]

    async def test_ids_are_low_water_marks(self) -> None:
        """The id of a frame covers the sent messages, and no pending message."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            for lane in (Priority.LOW, Priority.NORMAL, Priority.CRITICAL, Priority.LOW):
                await broadcaster.publish("t", 0, priority=lane)
            await run_ready()
            cursors = []
            for _ in range(4):
                await reader.take(1)
                cursors.append(str(cursor(reader.last_id)))
            # critical.high.normal.low; offsets: low 1, normal 2, critical 3, low 4
            assert cursors == ["4.4.1.0", "4.4.4.0", "4.4.4.3", "4"]

    async def test_control_frame_overtakes_messages(self) -> None:
        """A control frame is sent first, and its id does not cover the messages behind it."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            await broadcaster.publish("t", 1)
            await run_ready()
            connection.put_control(frames.control("pong", 0.0))
            pong = await reader.frame()
            assert pong is not None
            assert (pong.type, cursor(pong.id)[Priority.NORMAL]) == ("pong", 0)
            assert await reader.take(1) == [1]

    async def test_urgent_message_is_sent_between_two_chunks(self) -> None:
        """Pending messages are sent in chunks, and an urgent message comes between two of them."""
        async with (
            Broadcaster(buffer_capacity=1000) as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
        ):
            reader = FrameReader(connection)
            await reader.first_frame()
            for _ in range(100):
                await broadcaster.publish("t", "x" * 10_000, priority=Priority.LOW)
            await run_ready()
            first = await connection.next_frames() or []
            assert CHUNK_BYTES <= sum(len(frame.body) for frame in first) <= CHUNK_BYTES + 11_000
            connection.mark_sent()
            await broadcaster.publish("t", "urgent", priority=Priority.CRITICAL)
            await run_ready()
            assert await reader.take(1) == ["urgent"]

    async def test_one_call_returns_all_pending_messages(self) -> None:
        """Messages that are published in one turn of the loop are returned by one call."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            await FrameReader(connection).first_frame()
            waiting = asyncio.ensure_future(connection.next_frames())
            await run_ready()
            for n in range(50):
                await broadcaster.publish("t", n)
            assert len(await waiting or []) == 50

    async def test_body_is_encoded_once(self) -> None:
        """All connections get the same bytes object."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"]) as first,
            broadcaster.connect(topics=["**"]) as second,
        ):
            for connection in (first, second):
                await FrameReader(connection).first_frame()
            await broadcaster.publish("t", 1)
            (first_message,), (second_message,) = (
                await first.next_frames() or [],
                await second.next_frames() or [],
            )
            assert first_message.body is second_message.body

    async def test_replay_longer_than_the_buffer_evicts_nothing(self) -> None:
        """A replay of 400 messages through a buffer of 5 is complete, most urgent lane first."""
        async with Broadcaster(buffer_capacity=5) as broadcaster:
            async with broadcaster.connect(topics=["t"]) as connection:
                event_id = (await FrameReader(connection).first_frame()).id
            for n in range(400):
                await broadcaster.publish("t", n, priority=Priority(n % 4))
            await run_ready()
            async with broadcaster.connect(topics=["t"], last_event_id=event_id) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["replay"] == 400
                received = []
                for _ in range(400):
                    received += await reader.take(1)
                    assert len(connection.delivery.buffer) <= 5
                assert received == sorted(range(400), key=lambda n: (-(n % 4), n))
            assert broadcaster.statistics().evicted == 0

    async def test_closing_frame_is_the_last(self) -> None:
        """After `close` there is one closing frame, whose id does not cover unsent messages."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            await broadcaster.publish("t", 1)
            await run_ready()
            connection.close(Reason.IDLE)
            connection.close(Reason.FORBIDDEN)
            received = await reader.rest()
            assert [frame.data for frame in received] == [{"reason": "idle", "reconnect": True}]
            assert cursor(received[0].id)[Priority.NORMAL] == 0
            assert await connection.next_frames() is None

    @pytest.mark.parametrize("reason", ["replaced", "taken_over"])
    async def test_closing_id_does_not_cover_messages_after_the_end(self, reason: str) -> None:
        """The closing id does not cover messages that are published after the close."""
        async with (
            Broadcaster(max_connections_per_user=1) as broadcaster,
            broadcaster.connect(user="ann", topics=["t"]) as connection,
        ):
            reader = FrameReader(connection)
            event_id = (await reader.first_frame()).id
            last_event_id = event_id if reason == "taken_over" else None
            async with broadcaster.connect(user="ann", topics=["t"], last_event_id=last_event_id):
                await broadcaster.publish("t", "published after the end")
                await run_ready()
                (closing,) = await reader.rest()
                assert closing.data["reason"] == reason
                assert cursor(closing.id) == cursor(event_id)

    @pytest.mark.parametrize("lane", [Priority.LOW, Priority.CRITICAL])
    @pytest.mark.parametrize("replayed", [False, True])
    async def test_cancelled_next_loses_no_message(self, lane: Priority, replayed: bool) -> None:
        """`next_frames` loses no message if it is cancelled, live or in a replay."""
        async with Broadcaster(broker=DelayedBroker()) as broadcaster:
            event_id = await broadcaster.position(["t"])
            if not replayed:
                await run_ready()
            async with broadcaster.connect(topics=["t"], last_event_id=event_id) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                for turns in range(12):
                    if replayed:
                        connection.delivery.rewind(node_of(broadcaster).log.delivered_offset)
                    await broadcaster.publish("t", turns, priority=lane)
                    await run_ready()
                    reading = asyncio.ensure_future(connection.next_frames())
                    await run_ready(turns)
                    if reading.done():
                        connection.mark_sent()
                        assert json.loads((reading.result() or [])[0].body)["data"] == turns
                        continue
                    reading.cancel()
                    await asyncio.wait([reading])
                    assert await reader.take(1) == [turns], f"cancelled after {turns} turns"

    async def test_lost_client_ends_next_at_once(self) -> None:
        """If the client is lost, a waiting `next_frames` returns None, and so does a later call."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            await FrameReader(connection).first_frame()
            waiting = asyncio.ensure_future(connection.next_frames())
            await run_ready()
            connection.mark_lost()
            assert await asyncio.wait_for(waiting, 1.0) is None
            await broadcaster.publish("t", 1)
            assert await asyncio.wait_for(connection.next_frames(), 1.0) is None

    async def test_client_lost_before_the_first_frame(self) -> None:
        """A client that is lost before the first frame ends its connection."""
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(topics=["t"]) as connection:
                connection.mark_lost()
                assert await connection.next_frames() is None
            assert broadcaster.statistics().connections == 0

    async def test_too_many_answers_close_the_connection(self) -> None:
        """A client that does not read its answers is closed with too_many_messages."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            for _ in range(10 * MAX_CONTROL_FRAMES):
                connection.put_control(frames.control("pong", 0.0))
            received = await FrameReader(connection).rest()
            assert len(received) <= MAX_CONTROL_FRAMES + 2
            assert received[-1].data == {"reason": "too_many_messages", "reconnect": False}

    async def test_unsubscribed_while_a_page_is_read(self) -> None:
        """A topic that is unsubscribed while a page is read is not delivered."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            async with broadcaster.connect(user="ann", topics=["t", "u"]) as connection:
                event_id = (await FrameReader(connection).first_frame()).id
            await broadcaster.publish("t", "secret", priority=Priority.CRITICAL)
            await broadcaster.publish("u", "open", priority=Priority.CRITICAL)
            await run_ready()
            async with broadcaster.connect(
                user="ann", topics=["t", "u"], last_event_id=event_id
            ) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                broker.answer_gate.clear()
                reading = asyncio.ensure_future(reader.take(1))
                await run_ready()
                dropping = asyncio.ensure_future(broadcaster.unsubscribe(connection, ["t"]))
                await run_ready()
                broker.release()
                await dropping
                assert await reading == ["open"]
                await reader.assert_no_frame()


class TestAcknowledge:
    """Acknowledgements of the client."""

    async def test_acknowledged_position_is_the_resume_point(self) -> None:
        """A reconnect token alone resumes from the last acknowledgement, without a gap."""
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(topics=["t"]) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                for n in range(5):
                    await broadcaster.publish("t", n)
                await reader.take(2)
                assert connection.acknowledge(reader.last_id)
                await reader.take(3)
            async with broadcaster.connect(
                topics=["t"], reconnect_token=connection.token
            ) as resumed:
                reader = FrameReader(resumed)
                first_frame = await reader.first_frame()
                assert (first_frame.data["session"], first_frame.data["replay"]) == ("resumed", 3)
                assert await reader.take(3) == [2, 3, 4]

    async def test_invalid_acknowledgement_changes_nothing(self) -> None:
        """An id that the client cannot have received is refused."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
            broadcaster.connect(topics=["t"]) as other,
        ):
            reader, other_reader = FrameReader(connection), FrameReader(other)
            first_id = (await reader.first_frame()).id
            await other_reader.first_frame()
            for n in range(3):
                await broadcaster.publish("t", n)
            await other_reader.take(3)
            await reader.take(2)
            await broadcaster.publish("t", "waits")
            await run_ready()
            epoch, token = node_of(broadcaster).log.epoch, connection.token
            assert connection.acknowledge(reader.last_id)
            session = connection.session
            before = session.position
            for event_id in (
                f"{epoch}~4~{token}", f"{epoch}~{2**63 - 1}~{token}", f"{epoch}~{2**64}~{token}",
                f"{epoch}~-1~{token}", f"{epoch}~2.2.4.2~{token}", f"{'x' * 12}~2~{token}",
                first_id, other_reader.last_id, "", "0", "é", "\0", "~~", "9" * 5000, "\ud800",
                f"{epoch}~2~{token}\n", f"{epoch}~٢~{token}",
            ):  # fmt: skip
                assert not connection.acknowledge(event_id), event_id
                assert session.position == before
            assert connection.acknowledge(reader.last_id), "a repeated acknowledgement is accepted"

    async def test_taken_over_connection_cannot_acknowledge(self) -> None:
        """A connection that was taken over cannot set the position of its session back."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(user="ann", topics=["t"]) as taken_over,
        ):
            old_reader = FrameReader(taken_over)
            event_id = (await old_reader.first_frame()).id
            async with broadcaster.connect(
                user="ann", topics=["t"], last_event_id=event_id
            ) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                await broadcaster.publish("t", 1)
                await reader.take(1)
                assert connection.acknowledge(reader.last_id)
                position = connection.session.position
                assert not taken_over.acknowledge(event_id)
                assert connection.session.position == position


# -- scripts of cuts and cancellations -----------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("publish"),
            st.sampled_from(list(Priority)),
            st.sampled_from([None, None, None, "k", "l"]),
            st.integers(1, 4),
        ),
        st.tuples(st.just("yield"), st.integers(0, 6)),
        st.tuples(st.just("next"), st.none() | st.integers(0, 8)),
        st.tuples(st.just("cut"), st.integers(0, 3), st.none() | st.integers(0, 12)),
        st.tuples(st.just("lost")),
        st.tuples(st.just("close")),
        st.tuples(st.just("rewind"), st.just(0)),
    ),
    max_size=30,
)


class Client:
    """A client that is cut repeatedly, and the messages that it has received."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self.broadcaster = broadcaster
        self.connection: Connection | None = None
        self.last_id: str | None = None
        self._stack = contextlib.AsyncExitStack()
        self._before: list[Any] = []
        self._frames: list[tuple[dict[str, Any], str]] = []
        self._last_batch = 0

    @property
    def received(self) -> list[Any]:
        """Return the data of all received messages."""
        current = [body["data"] for body, _ in self._frames if body["type"] == "message"]
        return self._before + current

    async def connect(self, cancel_after: int | None = None) -> None:
        """Connect, or resume. The call is cancelled after `cancel_after` turns of the loop."""

        async def enter() -> None:
            self.connection = await self._stack.enter_async_context(
                self.broadcaster.connect(user="ann", topics=["t"], last_event_id=self.last_id)
            )

        self._frames, self._last_batch = [], 0
        await run_or_cancel(enter(), cancel_after)

    async def read(self, cancel_after: int | None = None) -> int | None:
        """Call `next_frames` once. The call is cancelled after `cancel_after` turns of the loop.

        Returns the number of frames, 0 if none came within a second, None at the end.
        """
        connection = self.connection
        assert connection is not None
        batches: list[Any] = []

        async def read_batch() -> None:
            batches.append(await asyncio.wait_for(connection.next_frames(), 1.0))

        with contextlib.suppress(TimeoutError):
            await run_or_cancel(read_batch(), cancel_after)
        if batches == [None]:
            return None
        for frame in batches[0] if batches else []:
            body = json.loads(frame.body)
            if not self._frames:
                expected = "fresh" if self.last_id is None else "resumed"
                assert body["data"]["session"] == expected, body
            assert body["type"] in ("connection_established", "message", "closing"), body
            self._frames.append((body, frame.id))
        if batches:
            self._last_batch = len(batches[0])
            connection.mark_sent()
        return self._last_batch if batches else 0

    async def cut(self, unread_frames: int) -> None:
        """Disconnect. The last `unread_frames` of the last batch never reach the client."""
        unread_frames = min(unread_frames, self._last_batch) if self.last_id else 0
        del self._frames[len(self._frames) - unread_frames :]
        self._before = self.received
        if self._frames:
            self.last_id = self._frames[-1][1]
        self._frames, self._last_batch = [], 0
        await self._stack.aclose()
        self.connection = None


async def run_or_cancel(work: Any, turns: int | None) -> bool:
    """Await `work`, cancelled after `turns` turns of the loop. Returns whether it completed."""
    task = asyncio.ensure_future(work)
    if turns is not None:
        await run_ready(turns)
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("delayed", [False, True])
@settings(max_examples=150)
@given(steps=STEPS, capacity=st.integers(1, 6))
def test_cuts_and_cancellations_lose_no_message(
    delayed: bool, steps: list[tuple[Any, ...]], capacity: int
) -> None:
    """Each message arrives exactly once, or is superseded; each lane is in order."""

    def make() -> MemoryBroker:
        return MemoryBroker(clock=wall_clock)

    async def script() -> None:
        broker = DelayedBroker(make=make) if delayed else make()
        published: list[tuple[int, Priority, str | None]] = []
        async with Broadcaster(
            broker=broker, buffer_capacity=capacity, clock=wall_clock
        ) as broadcaster:
            client = Client(broadcaster)
            await client.connect()
            await client.read()
            for step in [*steps, ("cut", 0, None)]:
                if client.connection is None and step[0] not in ("publish", "yield", "rewind"):
                    await client.connect()
                match step:
                    case ("publish", lane, key, count):
                        for _ in range(count):
                            number = len(published)
                            published.append((number, lane, key))
                            await broadcaster.publish("t", number, priority=lane, key=key)
                    case ("yield", turns):
                        await run_ready(turns)
                    case ("next", cancel_after):
                        if await client.read(cancel_after) is None:
                            await client.cut(0)
                    case ("cut", unread, cancel_after):
                        await client.cut(unread)
                        await client.connect(cancel_after)
                    case ("lost",):
                        assert client.connection is not None
                        client.connection.mark_lost()
                    case ("close",):
                        assert client.connection is not None
                        client.connection.close(Reason.REQUESTED)
                    case ("rewind", _):
                        for connection in node_of(broadcaster).connections:
                            connection.delivery.rewind(node_of(broadcaster).log.delivered_offset)
            if client.connection is None:
                await client.connect()
            while (count := await client.read()) != 0:
                if count is None:
                    await client.cut(0)
                    await client.connect()
            await client.cut(0)
        received = client.received
        for number, _lane, key in published:
            times = received.count(number)
            if key is None:
                assert times == 1, f"{number} came {times} times: {received}"
            elif number == max(n for n, _, k in published if k == key):
                assert times >= 1, f"the newest of {key} did not come: {received}"
        lane_of = {number: lane for number, lane, _ in published}
        plain = [n for n in received if published[n][2] is None]
        for lane in Priority:
            in_lane = [n for n in plain if lane_of[n] is lane]
            assert in_lane == sorted(in_lane)

    run_virtual(script())


async def test_lane_is_read_on_after_a_page_expired() -> None:
    """If all messages of a page expire in the buffer, the next page is read at once."""
    broadcaster = Broadcaster(clock=wall_clock, heartbeat_interval=None, history_limit=120)
    async with broadcaster, broadcaster.connect(topics=["t"], acknowledges=True) as connection:
        await connection.next_frames()
        # The messages overflow the buffer, so the lane is read from the history. The page begins
        # with a gap, so it goes through the buffer, limited by the window.
        for _ in range(150):
            await broadcaster.publish("t", "x" * 2000, ttl=5.0)
        await broadcaster.publish("t", "still good")
        await run_ready()
        chunk = await connection.next_frames()
        assert chunk is not None
        await asyncio.sleep(10.0)
        assert connection.delivery.buffer, "the rest of the page is held, and has expired"
        assert connection.acknowledge(chunk[-1].id)
        frames = await asyncio.wait_for(connection.next_frames(), 1.0)
        assert frames is not None
        assert [json.loads(frame.body)["data"] for frame in frames] == ["still good"]


async def test_page_is_not_sent_after_the_close() -> None:
    """A replay stops when its connection is closed."""
    broadcaster = Broadcaster(heartbeat_interval=None, history_limit=1000)
    async with broadcaster:
        event_id = await broadcaster.position(["t"], user="ann")
        for number in range(500):
            await broadcaster.publish("t", number)
        await run_ready()
        async with broadcaster.connect(
            user="ann", topics=["t"], last_event_id=event_id
        ) as connection:
            await connection.next_frames()
            assert len(await connection.next_frames() or []) > 1
            reading = asyncio.ensure_future(connection.next_frames())
            await asyncio.sleep(0)
            await broadcaster.disconnect_user("ann")
            frames = await reading
            assert frames is not None
            assert [json.loads(frame.body)["type"] for frame in frames] == ["closing"]


async def test_page_that_is_read_after_the_close_is_not_sent() -> None:
    """A page that the broker returns after the close is not sent."""
    broker = DelayedBroker()
    async with Broadcaster(broker=broker, heartbeat_interval=None) as broadcaster:
        event_id = await broadcaster.position(["t"])
        for number in range(50):
            await broadcaster.publish("t", number, priority=Priority.CRITICAL)
        await run_ready()
        async with broadcaster.connect(topics=["t"], last_event_id=event_id) as connection:
            await connection.next_frames()
            broker.answer_gate.clear()
            reading = asyncio.ensure_future(connection.next_frames())
            await run_ready()
            connection.close(Reason.FORBIDDEN)
            broker.answer_gate.set()
            frames = await reading
            assert frames is not None
            assert [json.loads(frame.body)["type"] for frame in frames] == ["closing"]


async def test_expired_messages_do_not_delay_heartbeats() -> None:
    """Heartbeats are sent although every published message expires before it is sent."""
    broadcaster = Broadcaster(heartbeat_interval=5.0, clock=wall_clock)
    async with broadcaster, broadcaster.connect(topics=["t"]) as connection:
        types: list[str] = []

        async def send(frame: Any) -> None:
            types.append(json.loads(frame.body)["type"])

        task = asyncio.ensure_future(send_frames(connection, send))
        for _ in range(60):
            await broadcaster.publish("t", 1, ttl=1e-9)
            await asyncio.sleep(1.0)
        assert types.count("heartbeat") >= 8
        task.cancel()
        await asyncio.wait([task])
