"""Delivery: lanes that are live or catch up. tests/model/ tests it with the whole runtime."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.core.cursor import Cursor
from holdfast.core.delivery.buffer import PriorityBuffer
from holdfast.core.delivery.lanes import EVERY_LANE, NO_LANE, Delivery, LiveBatch, plan_delivery
from holdfast.core.log.history import History
from holdfast.core.log.retention import Retention
from holdfast.core.message import Gap, Message, Offset, Priority

CRITICAL, NORMAL, LOW = Priority.CRITICAL, Priority.NORMAL, Priority.LOW
BOTH = {"a": Offset(0), "b": Offset(0)}


class Client:
    """A connection without its runtime: a history, a Delivery, and the reading of pages."""

    def __init__(self, *, live: bool, start: int = 0, capacity: int = 3, limit: int = 100) -> None:
        self.history = History(Retention(limit=limit))
        buffer = PriorityBuffer(capacity)
        offset = Offset(start)
        catching_up = NO_LANE if live else EVERY_LANE
        self.delivery = Delivery(
            buffer, Cursor.at(offset), catching_up=catching_up, farthest=offset
        )
        self.position = Offset(0)
        self.room = 0
        """Bytes of a page that may be sent without the buffer."""
        self.direct: list[tuple[Message, Cursor]] = []

    def publish(self, *lanes: Priority, topic: str = "a", fan_out: bool = True) -> None:
        for lane in lanes:
            offset = Offset(self.history.head + 1)
            message = Message(offset, topic, lane, b"{}", 0.0)
            self.history.append(message, 0.0)
            if fan_out:
                self.delivery.offer(LiveBatch([message]))
                self.position = offset

    def read_on(self) -> bool:
        request = self.delivery.request(self.position)
        if request is None:
            return False
        page = self.history.page(request, BOTH, None, 0.0)
        replayed = self.delivery.fill(request, page, self.position, room=self.room)
        if replayed is not None:
            self.direct += zip(replayed.page.messages, replayed.cursors(), strict=True)
        return True

    def take(self, now: float = 0.0) -> Message | Gap | None:
        while not self.direct and self.read_on():
            pass
        return self.direct.pop(0)[0] if self.direct else self.delivery.take(now)

    def rest(self, now: float = 0.0) -> list[int | str]:
        found: list[int | str] = []
        while (entry := self.take(now)) is not None:
            found.append(f"gap of {entry.count}" if isinstance(entry, Gap) else entry.offset)
        return found

    def cursor(self) -> str:
        return str(self.delivery.cursor(self.position))


def test_cursor_without_pending_messages_is_the_position() -> None:
    """Without pending messages, all four marks are the node's position."""
    client = Client(live=True)
    client.publish(LOW, CRITICAL)
    assert client.rest() == [2, 1]
    assert client.cursor() == "2"


def test_cursor_does_not_cover_a_pending_message() -> None:
    """After an overtaking message, the cursor does not cover the overtaken one."""
    client = Client(live=True)
    client.publish(LOW, CRITICAL)
    assert isinstance(client.take(), Message)
    assert client.cursor() == "2.2.2.0"


def test_evicted_messages_are_read_again() -> None:
    """Ten messages through a buffer of three arrive in order."""
    client = Client(live=True)
    client.publish(*[NORMAL] * 10)
    client.delivery.flush()
    assert not client.delivery.is_live
    assert client.rest() == list(range(1, 11))
    assert client.delivery.is_live
    assert client.delivery.buffer.statistics().evicted > 0


def test_overflow_evicts_the_least_urgent_lane() -> None:
    """CRITICAL messages stay live while LOW is read from the history."""
    client = Client(live=True)
    client.publish(LOW, LOW, LOW, CRITICAL, CRITICAL, LOW)
    assert client.rest() == [4, 5, 1, 2, 3, 6]


def test_trimmed_messages_are_a_gap_in_their_lane() -> None:
    """Trimmed messages are reported in their place, with their exact count."""
    client = Client(live=True, limit=2)
    client.publish(*[LOW] * 7, CRITICAL)
    assert client.rest() == [8, "gap of 5", 6, 7]


def test_cursor_does_not_cover_a_pending_gap() -> None:
    """The cursor covers trimmed messages only after their gap was taken."""
    client = Client(live=False, limit=2)
    client.publish(LOW, fan_out=False)
    client.publish(*[LOW] * 3, topic="b")
    first = client.take()
    assert isinstance(first, Message)
    assert (first.offset, client.cursor()) == (1, "4.4.4.1")
    assert isinstance(client.take(), Gap)
    assert client.cursor() == "4.4.4.2"


def test_evicted_gaps_are_reported_once() -> None:
    """Gaps that are evicted with their messages are read again, and reported once."""
    client = Client(live=False, capacity=10, limit=2)
    client.delivery.buffer.max_bytes = 10
    for topic in "ababaa":
        client.publish(NORMAL, topic=topic, fan_out=False)
    client.position = Offset(6)
    while client.read_on():
        pass  # the page is held: gap, 2, gap, 4, 5, 6
    urgent = Message(Offset(7), "a", CRITICAL, b"[    ]", 0.0)  # needs the room of 2 and 4
    client.history.append(urgent, 0.0)
    client.delivery.offer(LiveBatch([urgent]))
    client.position = urgent.offset
    assert client.rest() == [7, "gap of 1", 2, "gap of 1", 4, 5, 6]


def test_long_replay_needs_one_page() -> None:
    """A replay of a thousand messages fills a buffer of three, and evicts none."""
    client = Client(live=False, limit=1000)
    client.publish(*[NORMAL] * 1000, fan_out=False)
    client.position = Offset(1000)
    assert client.rest() == list(range(1, 1001))
    counts = client.delivery.buffer.statistics()
    assert (counts.high_water, counts.evicted) == (3, 0)


def test_urgent_lane_is_read_before_another_is_sent() -> None:
    """While CRITICAL catches up, no LOW message is sent."""
    client = Client(live=False, limit=100)
    client.publish(*itertools.repeat(CRITICAL, 5), LOW, fan_out=False)
    client.position = Offset(6)
    assert client.rest() == [1, 2, 3, 4, 5, 6]


def test_node_behind_its_client_waits() -> None:
    """No message is read or taken before the node has reached the client's position."""
    client = Client(live=False, start=3)
    client.publish(*[NORMAL] * 4, fan_out=False)
    client.position = Offset(2)
    assert client.delivery.is_ahead_of(client.position)
    assert client.delivery.request(client.position) is None
    client.position = Offset(4)
    assert client.rest() == [4]


def test_rewound_lane_keeps_its_messages_and_reads_on() -> None:
    """Messages that the feed missed are read from the history."""
    client = Client(live=True)
    client.publish(NORMAL)
    client.publish(NORMAL, NORMAL, fan_out=False)
    client.delivery.rewind(client.position)
    client.position = Offset(3)
    assert client.rest() == [1, 2, 3]


def test_message_too_large_for_the_buffer_is_a_gap() -> None:
    """A message that is too large for the buffer is reported, and the lane continues."""
    client = Client(live=False)
    client.delivery.buffer.max_bytes = 2
    client.publish(NORMAL, fan_out=False)
    huge = Message(Offset(2), "a", NORMAL, b"[ ]", 0.0)
    client.history.append(huge, 0.0)
    client.publish(NORMAL, fan_out=False)
    client.position = Offset(3)
    assert client.rest() == [1, "gap of 1", 3]


def test_page_of_an_old_request_is_ignored() -> None:
    """A second page for the same request changes nothing."""
    client = Client(live=False)
    client.publish(NORMAL, NORMAL, fan_out=False)
    client.position = Offset(2)
    while (request := client.delivery.request(client.position)) and request.lane is not NORMAL:
        client.read_on()
    assert request is not None
    page = client.history.page(request, BOTH, None, 0.0)
    for _ in range(2):
        assert client.delivery.fill(request, page, client.position, room=0) is None
    assert client.rest() == [1, 2]


messages = st.lists(
    st.tuples(
        st.sampled_from(Priority),
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, None, "k", "l"]),
        st.sampled_from([None, None, 0.0, 5.0]),
    ),
    min_size=1,
    max_size=12,
)


def batch_of(script: Sequence[tuple[Priority, str, str | None, float | None]]) -> LiveBatch:
    """Return a batch of messages with these lanes, topics, keys and expiry times."""
    return LiveBatch(
        [
            Message(Offset(offset), topic, lane, b"{}", 0.0, key=key, expires_at=expires_at)
            for offset, (lane, topic, key, expires_at) in enumerate(script, 1)
        ]
    )


def delivery_of(batch: LiveBatch, split: int) -> Delivery:
    """Return a live Delivery that was offered the batch in two parts."""
    delivery = Delivery(PriorityBuffer(100), Cursor.at(0), catching_up=NO_LANE)
    for part in (batch.messages[:split], batch.messages[split:]):
        if part:
            delivery.offer(LiveBatch(part))
    return delivery


@given(messages, st.integers(0, 3))
def test_planned_batch_equals_a_buffered_one(
    script: list[tuple[Priority, str, str | None, float | None]], split: int
) -> None:
    """Both ways send the same messages with the same cursors, and count the same."""
    batch, position = batch_of(script), Offset(len(script))
    plan = plan_delivery(batch, position, 1.0)
    buffered, planned = delivery_of(batch, split), delivery_of(batch, split)
    steps: list[tuple[object, Cursor]] = []
    while (message := buffered.take(1.0)) is not None:
        steps.append((message, buffered.cursor(position)))
    assert steps == list(plan.steps)
    assert planned.is_live
    assert not planned.buffer
    planned.mark_sent(plan)
    assert planned.cursor(position) == buffered.cursor(position)
    planned_counts, buffered_counts = planned.buffer.statistics(), buffered.buffer.statistics()
    assert replace(planned_counts, high_water=0) == replace(buffered_counts, high_water=0)


@given(messages, st.data())
def test_unsent_messages_of_a_batch_are_read_again(
    script: list[tuple[Priority, str, str | None, float | None]], data: st.DataObject
) -> None:
    """After any number of sent messages, the others are read from the history.

    A sent message may be sent again only if it superseded another one.
    """
    client = Client(live=True, capacity=100)
    for message in batch_of(script).messages:
        client.history.append(message, 1.0)
        client.delivery.offer(LiveBatch([message]))
    client.position = Offset(len(script))
    assert client.delivery.pending_batch is not None
    plan = plan_delivery(client.delivery.pending_batch, client.position, 1.0)
    assume(plan.steps)
    sent_count = data.draw(st.integers(1, len(plan.steps)))
    client.delivery.mark_sent(plan)
    client.delivery.requeue(plan, sent_count)
    if sent_count < len(plan.steps):
        cursor = client.delivery.cursor(client.position)
        assert plan.steps[sent_count - 1][1] <= cursor
    sent = {each.offset: each.key for each, _ in plan.steps[:sent_count]}
    rest = client.rest(now=1.0)
    assert all(sent[Offset(int(each))] is not None for each in rest if each in sent)
    unsent = [each.offset for each, _ in plan.steps[sent_count:]]
    assert sorted(int(each) for each in rest if each not in sent) == sorted(unsent)
    counts = client.delivery.buffer.statistics()
    assert counts.offered == (
        counts.taken + counts.conflated + counts.expired + counts.evicted + counts.refused
    )


@given(messages, st.integers(0, 12), st.sampled_from([1, 3, 100]))
def test_direct_page_equals_a_buffered_one(
    script: list[tuple[Priority, str, str | None, float | None]], start: int, capacity: int
) -> None:
    """A replay sends the same messages and cursors with and without the buffer."""
    results: list[list[tuple[int | str, str]]] = []
    for room in (0, 1000):
        client = Client(live=False, start=min(start, len(script)), capacity=capacity, limit=3)
        client.room = room
        for message in batch_of(script).messages:
            client.history.append(message, 1.0)
        client.position = Offset(len(script))
        received: list[tuple[int | str, str]] = []
        while True:
            while not client.direct and client.read_on():
                pass
            if client.direct:
                message, cursor = client.direct.pop(0)
                received.append((message.offset, str(cursor)))
            elif (entry := client.delivery.take(0.0)) is not None:
                name = "gap" if isinstance(entry, Gap) else entry.offset
                received.append((name, client.cursor()))
            else:
                break
        assert client.delivery.is_live
        results.append(received)
    assert results[0] == results[1]


def test_pending_urgent_message_precedes_a_page() -> None:
    """An urgent message that came while a page was read is sent first."""
    client = Client(live=True, capacity=2)
    client.room = 1000
    client.publish(*[LOW] * 5)
    client.delivery.flush()
    request = client.delivery.request(client.position)
    while request is None:
        assert client.delivery.take(0.0) is not None
        request = client.delivery.request(client.position)
    page = client.history.page(request, BOTH, None, 0.0)
    client.publish(CRITICAL)
    assert client.delivery.fill(request, page, client.position, room=1000) is None
    first = client.delivery.take(0.0)
    assert isinstance(first, Message)
    assert first.priority is CRITICAL


def test_urgent_lane_is_read_before_a_page_is_sent() -> None:
    """An urgent lane that catches up is read before a page that was read earlier is sent."""
    client = Client(live=False, capacity=2)
    client.publish(*[LOW] * 4, fan_out=False)
    client.position = Offset(4)
    while (request := client.delivery.request(client.position)) and request.lane is not LOW:
        assert client.read_on()
    assert request is not None
    page = client.history.page(request, BOTH, None, 0.0)
    client.publish(*[CRITICAL] * 5)
    assert client.delivery.fill(request, page, client.position, room=1000) is None


def test_pending_batch_has_a_limit() -> None:
    """A pending batch that exceeds the bytes of the buffer is flushed."""
    delivery = Delivery(PriorityBuffer(3, max_bytes=10), Cursor.at(0), catching_up=NO_LANE)
    for offset in range(1, 20):
        batch = LiveBatch([Message(Offset(offset), "a", NORMAL, b"{}", 0.0)])
        delivery.offer(batch)
        held = delivery.pending_batch.size if delivery.pending_batch else 0
        assert held + delivery.buffer.statistics().held_bytes <= 20
    assert delivery.cursor(Offset(19)).marks[NORMAL] < 19


def test_joined_batch_is_shared() -> None:
    """Connections with the same two batches share the joined one."""
    first, second, other = (batch_of([(NORMAL, "a", None, None)]) for _ in range(3))
    assert first.joined_with(second) is first.joined_with(second)
    assert first.joined_with(other).messages == [*first.messages, *other.messages]


def observed(delivery: Delivery, position: Offset) -> tuple[object, ...]:
    """Return the observable state of the delivery, except its cursor."""
    buffer = delivery.buffer
    return (
        delivery.pending_batch,
        delivery.is_live,
        delivery.is_empty,
        delivery.is_ahead_of(position),
        delivery.request(position),
        delivery.subscribe_offset(position),
        list(buffer),
        [buffer.low_water(lane) for lane in Priority],
        buffer.statistics(),
    )


@given(
    live=st.booleans(),
    start=st.integers(0, 3),
    script=st.lists(st.sampled_from([*Priority, "read", "take", "rewind"]), max_size=12),
)
def test_cursor_is_a_query(live: bool, start: int, script: list[Priority | str]) -> None:
    """`cursor` changes nothing, and a second call returns the same."""
    client = Client(live=live, start=0 if live else start)
    for step in script:
        if isinstance(step, Priority):
            client.publish(step)
        elif step == "read":
            client.read_on()
        elif step == "take":
            client.take()
        else:
            client.delivery.rewind(client.position)
        before = observed(client.delivery, client.position)
        cursor = client.cursor()
        assert observed(client.delivery, client.position) == before
        assert client.cursor() == cursor


@given(messages, st.integers(0, 11))
def test_cursor_is_the_same_for_a_pending_batch_and_for_the_buffer(
    script: list[tuple[Priority, str, str | None, float | None]], split: int
) -> None:
    """A pending batch has the marks that it has in the buffer."""
    batch, position = without_keys(script), Offset(len(script))
    pending, flushed = delivery_of(batch, split), delivery_of(batch, split)
    flushed.flush()
    assert pending.pending_batch is not None
    assert pending.cursor(position) == flushed.cursor(position)


def without_keys(
    script: Sequence[tuple[Priority, str, str | None, float | None]],
) -> LiveBatch:
    """Return messages that do not supersede each other."""
    return batch_of([(lane, topic, None, expires_at) for lane, topic, _, expires_at in script])
