"""Connection: what leaves, in which order, with which id; cancellation; acks; conservation."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import Broadcaster, MemoryBroker, Priority, Reason
from holdfast.core import frames
from holdfast.core.cursor import Cursor, EventId
from holdfast.core.delivery.lanes import CHUNK_BYTES
from holdfast.runtime.connection import MAX_CONTROL_FRAMES
from holdfast.runtime.inline_send import InlineSender
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader, PlainFrameEncoder
from tests.support.node import node_of
from tests.support.virtual_loop import run_ready, run_virtual, wall_clock

if TYPE_CHECKING:
    from holdfast.runtime.connection import Connection


def cursor(event_id: str) -> Cursor:
    """The cursor of an event id."""
    parsed = EventId.parse(event_id)
    assert parsed is not None
    return parsed.cursor


class TestNext:
    """What `next` hands over."""

    async def test_first_frame_is_the_hello_with_an_id(self) -> None:
        """The first frame says what the session is, and its id resumes from just there."""
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
                again = (await reader.first_frame()).data
                assert (again["session"], again["replay"]) == ("resumed", 1)
                assert again["reconnectToken"] not in (first_frame.data["reconnectToken"], None)
                assert await reader.take(1) == [1]

    async def test_ids_are_low_water_marks(self) -> None:
        """After each frame the id covers what was handed over, and nothing that still waits."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            for lane in (Priority.LOW, Priority.NORMAL, Priority.CRITICAL, Priority.LOW):
                await broadcaster.publish("t", 0, priority=lane)
            await run_ready()
            seen = []
            for _ in range(4):
                await reader.take(1)
                seen.append(str(cursor(reader.last_id)))
            # critical.high.normal.low; offsets: low 1, normal 2, critical 3, low 4
            assert seen == ["4.4.1.0", "4.4.4.0", "4.4.4.3", "4"]

    async def test_control_frames_pass_messages_and_carry_their_place(self) -> None:
        """A control frame goes first, and its id does not cover the messages behind it."""
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

    async def test_chunks_are_bounded_so_that_better_can_overtake(self) -> None:
        """What waits leaves in pieces, and something urgent comes between two of them."""
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

    async def test_one_wake_hands_over_all_that_waits(self) -> None:
        """Messages published in one go are handed over in one go."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            await FrameReader(connection).first_frame()
            waiting = asyncio.ensure_future(connection.next_frames())
            await run_ready()
            for n in range(50):
                await broadcaster.publish("t", n)
            assert len(await waiting or []) == 50

    async def test_body_is_encoded_once_for_all(self) -> None:
        """All connections get the very same bytes object."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"]) as a,
            broadcaster.connect(topics=["**"]) as b,
        ):
            for connection in (a, b):
                await FrameReader(connection).first_frame()
            await broadcaster.publish("t", 1)
            (one,), (two,) = await a.next_frames() or [], await b.next_frames() or []
            assert one.body is two.body

    async def test_replay_longer_than_the_buffer_evicts_nothing(self) -> None:
        """A long replay needs one page of memory, and comes best lane first and whole."""
        async with Broadcaster(buffer_capacity=5) as broadcaster:
            async with broadcaster.connect(topics=["t"]) as connection:
                at = (await FrameReader(connection).first_frame()).id
            for n in range(400):
                await broadcaster.publish("t", n, priority=Priority(n % 4))
            await run_ready()
            async with broadcaster.connect(topics=["t"], last_event_id=at) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["replay"] == 400
                found = []
                for _ in range(400):
                    found += await reader.take(1)
                    assert len(connection.delivery.buffer) <= 5
                assert found == sorted(range(400), key=lambda n: (-(n % 4), n))
            assert broadcaster.statistics().evicted == 0

    async def test_closing_frame_is_the_last_and_has_its_place(self) -> None:
        """After close comes one closing frame, whose id does not cover what was not sent."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            await broadcaster.publish("t", 1)
            await run_ready()
            connection.close(Reason.IDLE)
            connection.close(Reason.FORBIDDEN)
            seen = await reader.rest()
            assert [frame.data for frame in seen] == [{"reason": "idle", "reconnect": True}]
            assert cursor(seen[0].id)[Priority.NORMAL] == 0
            assert await connection.next_frames() is None

    @pytest.mark.parametrize("end", ["replaced", "taken_over"])
    async def test_closing_frame_of_one_that_left_the_fan_out(self, end: str) -> None:
        """What was published after a connection left the fan-out is not behind its last id."""
        async with (
            Broadcaster(max_connections_per_user=1) as broadcaster,
            broadcaster.connect(user="ann", topics=["t"]) as connection,
        ):
            reader = FrameReader(connection)
            at = (await reader.first_frame()).id
            last = at if end == "taken_over" else None
            async with broadcaster.connect(user="ann", topics=["t"], last_event_id=last):
                await broadcaster.publish("t", "not sent to the old one")
                await run_ready()
                (closing,) = await reader.rest()
                assert closing.data["reason"] == end
                assert cursor(closing.id) == cursor(at)

    @pytest.mark.parametrize("lane", [Priority.LOW, Priority.CRITICAL])
    @pytest.mark.parametrize("replayed", [False, True])
    async def test_cancelled_next_takes_nothing_out(self, lane: Priority, replayed: bool) -> None:
        """Cancelled at whichever turn of the loop, live or in a replay, `next` loses nothing."""
        async with Broadcaster(broker=DelayedBroker()) as broadcaster:
            at = await broadcaster.position(["t"])
            if not replayed:
                await run_ready()
            async with broadcaster.connect(topics=["t"], last_event_id=at) as connection:
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

    async def test_lost_ends_next_at_once(self) -> None:
        """When the peer is gone, a waiting `next` ends, and so does every later one."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            await FrameReader(connection).first_frame()
            waiting = asyncio.ensure_future(connection.next_frames())
            await run_ready()
            connection.mark_lost()
            assert await asyncio.wait_for(waiting, 1.0) is None
            await broadcaster.publish("t", 1)
            assert await asyncio.wait_for(connection.next_frames(), 1.0) is None

    async def test_lost_before_the_first_frame(self) -> None:
        """A client that left before anything was sent ends the connection like any other."""
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(topics=["t"]) as connection:
                connection.mark_lost()
                assert await connection.next_frames() is None
            assert broadcaster.statistics().connections == 0

    async def test_too_many_answers_close_the_connection(self) -> None:
        """A client that asks faster than it reads the answers is closed, memory stays bounded."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            for _ in range(10 * MAX_CONTROL_FRAMES):
                connection.put_control(frames.control("pong", 0.0))
            seen = await FrameReader(connection).rest()
            assert len(seen) <= MAX_CONTROL_FRAMES + 2
            assert seen[-1].data == {"reason": "too_many_messages", "reconnect": False}

    async def test_withdrawn_while_a_page_is_read(self) -> None:
        """What is unsubscribed while a replay page is on its way is not handed over any more."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            async with broadcaster.connect(user="ann", topics=["t", "u"]) as connection:
                at = (await FrameReader(connection).first_frame()).id
            await broadcaster.publish("t", "secret", priority=Priority.CRITICAL)
            await broadcaster.publish("u", "open", priority=Priority.CRITICAL)
            await run_ready()
            async with broadcaster.connect(
                user="ann", topics=["t", "u"], last_event_id=at
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
    """Acks of the client."""

    async def test_ack_is_the_stored_resume_point(self) -> None:
        """A token alone resumes from the last ack, without a gap."""
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(topics=["t"]) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                for n in range(5):
                    await broadcaster.publish("t", n)
                await reader.take(2)
                assert connection.acknowledge(reader.last_id)
                await reader.take(3)
            async with broadcaster.connect(topics=["t"], reconnect_token=connection.token) as again:
                reader = FrameReader(again)
                first_frame = await reader.first_frame()
                assert (first_frame.data["session"], first_frame.data["replay"]) == ("resumed", 3)
                assert await reader.take(3) == [2, 3, 4]

    async def test_bad_acks_change_nothing(self) -> None:
        """From the future, the past, another log, another connection, or nonsense: refused."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
            broadcaster.connect(topics=["t"]) as other,
        ):
            reader, theirs = FrameReader(connection), FrameReader(other)
            first = (await reader.first_frame()).id
            await theirs.first_frame()
            for n in range(3):
                await broadcaster.publish("t", n)
            await theirs.take(3)
            await reader.take(2)
            await broadcaster.publish("t", "waits")
            await run_ready()
            epoch, token = node_of(broadcaster).log.epoch, connection.token
            assert connection.acknowledge(reader.last_id)
            session = connection.session
            before = session.position
            for bad in (
                f"{epoch}~4~{token}", f"{epoch}~{2**63 - 1}~{token}", f"{epoch}~{2**64}~{token}",
                f"{epoch}~-1~{token}", f"{epoch}~2.2.4.2~{token}", f"{'x' * 12}~2~{token}",
                first, theirs.last_id, "", "0", "é", "\0", "~~", "9" * 5000, "\ud800",
                f"{epoch}~2~{token}\n", f"{epoch}~٢~{token}",
            ):  # fmt: skip
                assert not connection.acknowledge(bad), bad
                assert session.position == before
            assert connection.acknowledge(reader.last_id), "an ack repeated is no harm"

    async def test_ack_of_one_that_was_taken_over(self) -> None:
        """The ghost of a session that moved on cannot set its position back."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(user="ann", topics=["t"]) as ghost,
        ):
            old = FrameReader(ghost)
            at = (await old.first_frame()).id
            async with broadcaster.connect(
                user="ann", topics=["t"], last_event_id=at
            ) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                await broadcaster.publish("t", 1)
                await reader.take(1)
                assert connection.acknowledge(reader.last_id)
                position = connection.session.position
                assert not ghost.acknowledge(at)
                assert connection.session.position == position


# -- scripts: whatever is cut or cancelled wherever, what is owed arrives exactly once -------------

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
        st.tuples(st.just("missed"), st.just(0)),
    ),
    max_size=30,
)


class Client:
    """A client that loses its connection again and again, and what it has received."""

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
        """The data of all messages received."""
        here = [body["data"] for body, _ in self._frames if body["type"] == "message"]
        return self._before + here

    async def connect(self, cancel_after: int | None = None) -> None:
        """Connect, resuming; cancelled after so many turns of the loop."""

        async def enter() -> None:
            self.connection = await self._stack.enter_async_context(
                self.broadcaster.connect(user="ann", topics=["t"], last_event_id=self.last_id)
            )

        self._frames, self._last_batch = [], 0
        await run_or_cancel(enter(), cancel_after)

    async def read(self, cancel_after: int | None = None) -> int | None:
        """One `next`, cancelled after so many turns of the loop.

        Returns the number of frames, 0 when a second passed without any, `None` at the end.
        """
        connection = self.connection
        assert connection is not None
        found: list[Any] = []

        async def once() -> None:
            found.append(await asyncio.wait_for(connection.next_frames(), 1.0))

        with contextlib.suppress(TimeoutError):
            await run_or_cancel(once(), cancel_after)
        if found == [None]:
            return None
        for frame in found[0] if found else []:
            body = json.loads(frame.body)
            if not self._frames:
                expected = "fresh" if self.last_id is None else "resumed"
                assert body["data"]["session"] == expected, body
            assert body["type"] in ("connection_established", "message", "closing"), body
            self._frames.append((body, frame.id))
        if found:
            self._last_batch = len(found[0])
            connection.mark_sent()
        return self._last_batch if found else 0

    async def cut(self, unread: int) -> None:
        """Leave, with so many frames of the last batch on the way and never received."""
        unread = min(unread, self._last_batch) if self.last_id else 0
        del self._frames[len(self._frames) - unread :]
        self._before = self.received
        if self._frames:
            self.last_id = self._frames[-1][1]
        self._frames, self._last_batch = [], 0
        await self._stack.aclose()
        self.connection = None


async def run_or_cancel(work: Any, turns: int | None) -> bool:
    """Run to its end, or cancel it after so many turns of the loop; whether it got to its end."""
    task = asyncio.ensure_future(work)
    if turns is not None:
        await run_ready(turns)
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


@pytest.mark.parametrize("late", [False, True])
@settings(max_examples=150)
@given(steps=STEPS, capacity=st.integers(1, 6))
def test_whatever_is_cut_or_cancelled_what_is_owed_arrives(
    late: bool, steps: list[tuple[Any, ...]], capacity: int
) -> None:
    """Each message arrives exactly once, or is superseded; each lane in order; nothing hangs."""

    def make() -> MemoryBroker:
        return MemoryBroker(clock=wall_clock)

    async def script() -> None:
        broker = DelayedBroker(make=make) if late else make()
        published: list[tuple[int, Priority, str | None]] = []
        async with Broadcaster(
            broker=broker, buffer_capacity=capacity, clock=wall_clock
        ) as broadcaster:
            client = Client(broadcaster)
            await client.connect()
            await client.read()
            for step in [*steps, ("cut", 0, None)]:
                if client.connection is None and step[0] not in ("publish", "yield", "missed"):
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
                    case ("missed", _):
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
            of_lane = [n for n in plain if lane_of[n] is lane]
            assert of_lane == sorted(of_lane)

    run_virtual(script())


async def test_page_that_expired_in_the_buffer_does_not_end_the_reading() -> None:
    """When everything that was held has expired, the lane is read on at once."""
    broadcaster = Broadcaster(clock=wall_clock, heartbeat_interval=None, history_limit=120)
    async with broadcaster, broadcaster.connect(topics=["t"], acknowledges=True) as connection:
        await connection.next_frames()
        # Overflows the buffer: the lane goes back to the history, and a page that begins with a
        # gap goes through the buffer, as much at a time as the window takes.
        for _ in range(150):
            await broadcaster.publish("t", "x" * 2000, ttl=5.0)
        await broadcaster.publish("t", "still good")
        await run_ready()
        chunk = await connection.next_frames()
        assert chunk is not None
        await asyncio.sleep(10.0)
        assert connection.delivery.buffer, "the rest of the page waits, and has expired"
        assert connection.acknowledge(chunk[-1].id)
        frames = await asyncio.wait_for(connection.next_frames(), 1.0)
        assert frames is not None
        assert [json.loads(frame.body)["data"] for frame in frames] == ["still good"]


async def test_page_does_not_leave_after_the_end() -> None:
    """A replay that is under way when the connection is told to end stops there."""
    broadcaster = Broadcaster(heartbeat_interval=None, history_limit=1000)
    async with broadcaster:
        id = await broadcaster.position(["t"], user="ann")
        for number in range(500):
            await broadcaster.publish("t", number)
        await run_ready()
        async with broadcaster.connect(user="ann", topics=["t"], last_event_id=id) as connection:
            await connection.next_frames()
            assert len(await connection.next_frames() or []) > 1
            reading = asyncio.ensure_future(connection.next_frames())
            await asyncio.sleep(0)
            await broadcaster.disconnect_user("ann")
            frames = await reading
            assert frames is not None
            assert [json.loads(frame.body)["type"] for frame in frames] == ["closing"]


async def test_page_that_comes_after_the_end_does_not_leave() -> None:
    """The same when the broker's answer, the page of the first lane, was under way."""
    broker = DelayedBroker()
    async with Broadcaster(broker=broker, heartbeat_interval=None) as broadcaster:
        id = await broadcaster.position(["t"])
        for number in range(50):
            await broadcaster.publish("t", number, priority=Priority.CRITICAL)
        await run_ready()
        async with broadcaster.connect(topics=["t"], last_event_id=id) as connection:
            await connection.next_frames()
            broker.answer_gate.clear()
            reading = asyncio.ensure_future(connection.next_frames())
            await run_ready()
            connection.close(Reason.FORBIDDEN)
            broker.answer_gate.set()
            frames = await reading
            assert frames is not None
            assert [json.loads(frame.body)["type"] for frame in frames] == ["closing"]


async def test_heartbeats_come_though_everything_expires() -> None:
    """What is not sent is no sign of life."""
    broadcaster = Broadcaster(heartbeat_interval=5.0, clock=wall_clock)
    async with broadcaster, broadcaster.connect(topics=["t"]) as connection:
        seen: list[str] = []

        async def send(frame: Any) -> None:
            seen.append(json.loads(frame.body)["type"])

        async def own() -> None:
            sender = InlineSender(send, PlainFrameEncoder(), connection.token)
            connection.attach_sender(sender)
            while (frames := await connection.next_frames()) is not None:
                for frame in frames:
                    await sender.send(cast("Any", frame))
                connection.mark_sent()

        task = asyncio.ensure_future(own())
        for _ in range(60):
            await broadcaster.publish("t", 1, ttl=1e-9)
            await asyncio.sleep(1.0)
        assert seen.count("heartbeat") >= 8
        task.cancel()
        await asyncio.wait([task])
