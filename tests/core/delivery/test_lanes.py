"""Delivery: lanes that are live or catch up. tests/model/ drives it together with all the rest."""

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


class Reader:
    """A connection without its runtime: real parts, and the reading that the outbox would do."""

    def __init__(self, *, live: bool, start: int = 0, capacity: int = 3, limit: int = 100) -> None:
        self.history = History(Retention(limit=limit))
        buffer = PriorityBuffer(capacity)
        at = Offset(start)
        catching_up = NO_LANE if live else EVERY_LANE
        self.delivery = Delivery(buffer, Cursor.at(at), catching_up=catching_up, farthest=at)
        self.position = Offset(0)
        self.room = 0
        """Bytes of a page that may be handed over at once."""
        self.passed: list[tuple[Message, Cursor]] = []

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
            self.passed += zip(replayed.page.messages, replayed.cursors(), strict=True)
        return True

    def take(self, now: float = 0.0) -> Message | Gap | None:
        while not self.passed and self.read_on():
            pass
        return self.passed.pop(0)[0] if self.passed else self.delivery.take(now)

    def rest(self, now: float = 0.0) -> list[int | str]:
        found: list[int | str] = []
        while (entry := self.take(now)) is not None:
            found.append(f"gap of {entry.count}" if isinstance(entry, Gap) else entry.offset)
        return found

    def cursor(self) -> str:
        return str(self.delivery.cursor(self.position))


def test_a_live_connection_that_keeps_up_has_one_number() -> None:
    """With nothing pending, all four marks are the node's position."""
    reader = Reader(live=True)
    reader.publish(LOW, CRITICAL)
    assert reader.rest() == [2, 1]
    assert reader.cursor() == "2"


def test_a_pending_message_holds_its_lane_back() -> None:
    """After an overtaking message the cursor still tells of what it overtook."""
    reader = Reader(live=True)
    reader.publish(LOW, CRITICAL)
    assert isinstance(reader.take(), Message)
    assert reader.cursor() == "2.2.2.0"


def test_an_overflow_evicts_and_is_read_again() -> None:
    """Ten messages through a buffer of three arrive, all of them, in order."""
    reader = Reader(live=True)
    reader.publish(*[NORMAL] * 10)
    reader.delivery.flush()
    assert not reader.delivery.is_live
    assert reader.rest() == list(range(1, 11))
    assert reader.delivery.is_live
    assert reader.delivery.buffer.statistics().evicted > 0


def test_an_overflow_costs_only_the_lowest_lane() -> None:
    """CRITICAL messages stay live while LOW goes back to the history."""
    reader = Reader(live=True)
    reader.publish(LOW, LOW, LOW, CRITICAL, CRITICAL, LOW)
    assert reader.rest() == [4, 5, 1, 2, 3, 6]


def test_what_was_trimmed_meanwhile_is_a_gap_in_its_lane() -> None:
    """A hole is told where it is, with its exact size."""
    reader = Reader(live=True, limit=2)
    reader.publish(*[LOW] * 7, CRITICAL)
    assert reader.rest() == [8, "gap of 5", 6, 7]


def test_a_gap_that_waits_counts_as_pending() -> None:
    """The cursor passes a hole only after the gap was taken."""
    reader = Reader(live=False, limit=2)
    reader.publish(LOW, fan_out=False)
    reader.publish(*[LOW] * 3, topic="b")
    first = reader.take()
    assert isinstance(first, Message)
    assert (first.offset, reader.cursor()) == (1, "4.4.4.1")
    assert isinstance(reader.take(), Gap)
    assert reader.cursor() == "4.4.4.2"


def test_no_gap_is_told_twice_when_several_give_way_at_once() -> None:
    """What is read again brings its gaps again, so none of those may have stayed behind."""
    reader = Reader(live=False, capacity=10, limit=2)
    reader.delivery.buffer.max_bytes = 10
    for topic in "ababaa":
        reader.publish(NORMAL, topic=topic, fan_out=False)
    reader.position = Offset(6)
    while reader.read_on():
        pass  # the page is held: gap, 2, gap, 4, 5, 6
    urgent = Message(Offset(7), "a", CRITICAL, b"[    ]", 0.0)  # needs the room of 2 and 4
    reader.history.append(urgent, 0.0)
    reader.delivery.offer(LiveBatch([urgent]))
    reader.position = urgent.offset
    assert reader.rest() == [7, "gap of 1", 2, "gap of 1", 4, 5, 6]


def test_a_replay_of_any_length_needs_one_page() -> None:
    """A thousand messages pass a buffer of three, which never holds more."""
    reader = Reader(live=False, limit=1000)
    reader.publish(*[NORMAL] * 1000, fan_out=False)
    reader.position = Offset(1000)
    assert reader.rest() == list(range(1, 1001))
    account = reader.delivery.buffer.statistics()
    assert (account.high_water, account.evicted) == (3, 0)


def test_a_better_lane_is_read_before_a_lower_one_is_sent() -> None:
    """While CRITICAL catches up, nothing of LOW leaves, though it is held already."""
    reader = Reader(live=False, limit=100)
    reader.publish(*itertools.repeat(CRITICAL, 5), LOW, fan_out=False)
    reader.position = Offset(6)
    assert reader.rest() == [1, 2, 3, 4, 5, 6]


def test_a_node_that_is_behind_its_client_waits() -> None:
    """Nothing is read or taken before the node has come to what the client has seen."""
    reader = Reader(live=False, start=3)
    reader.publish(*[NORMAL] * 4, fan_out=False)
    reader.position = Offset(2)
    assert reader.delivery.is_ahead_of(reader.position)
    assert reader.delivery.request(reader.position) is None
    reader.position = Offset(4)
    assert reader.rest() == [4]


def test_falling_behind_keeps_what_is_held_and_reads_the_rest() -> None:
    """A feed that was missed is read from the history, from where it was missed."""
    reader = Reader(live=True)
    reader.publish(NORMAL)
    reader.publish(NORMAL, NORMAL, fan_out=False)
    reader.delivery.rewind(reader.position)
    reader.position = Offset(3)
    assert reader.rest() == [1, 2, 3]


def test_a_message_too_large_for_the_buffer_is_a_gap_of_one() -> None:
    """What can never be held is declared, and does not stop the lane."""
    reader = Reader(live=False)
    reader.delivery.buffer.max_bytes = 2
    reader.publish(NORMAL, fan_out=False)
    huge = Message(Offset(2), "a", NORMAL, b"[ ]", 0.0)
    reader.history.append(huge, 0.0)
    reader.publish(NORMAL, fan_out=False)
    reader.position = Offset(3)
    assert reader.rest() == [1, "gap of 1", 3]


def test_a_late_answer_to_an_old_request_is_ignored() -> None:
    """A page that comes after its lane was moved changes nothing."""
    reader = Reader(live=False)
    reader.publish(NORMAL, NORMAL, fan_out=False)
    reader.position = Offset(2)
    while (request := reader.delivery.request(reader.position)) and request.lane is not NORMAL:
        reader.read_on()
    assert request is not None
    page = reader.history.page(request, BOTH, None, 0.0)
    for _ in range(2):
        assert reader.delivery.fill(request, page, reader.position, room=0) is None
    assert reader.rest() == [1, 2]


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


def as_run(script: Sequence[tuple[Priority, str, str | None, float | None]]) -> LiveBatch:
    """Messages with these lanes, topics, keys and ends."""
    return LiveBatch(
        [
            Message(Offset(offset), topic, lane, b"{}", 0.0, key=key, expires_at=expires_at)
            for offset, (lane, topic, key, expires_at) in enumerate(script, 1)
        ]
    )


@given(messages, st.integers(0, 3))
def test_run_that_passes_through_is_as_if_it_had_been_sorted(
    script: list[tuple[Priority, str, str | None, float | None]], split: int
) -> None:
    """What leaves, with which cursors, and the account: the same by either way."""
    run, position = as_run(script), Offset(len(script))
    passage = plan_delivery(run, position, 1.0)
    sorted_one, passed_one = (
        Delivery(PriorityBuffer(100), Cursor.at(0), catching_up=NO_LANE) for _ in range(2)
    )
    for part in (run.messages[:split], run.messages[split:]):
        if part:
            sorted_one.offer(LiveBatch(part))
            passed_one.offer(LiveBatch(part))
    steps: list[tuple[object, Cursor]] = []
    while (message := sorted_one.take(1.0)) is not None:
        steps.append((message, sorted_one.cursor(position)))
    assert steps == list(passage.steps)
    assert passed_one.is_live
    assert not passed_one.buffer
    passed_one.mark_sent(passage)
    assert passed_one.cursor(position) == sorted_one.cursor(position)
    one, other = passed_one.buffer.statistics(), sorted_one.buffer.statistics()
    assert replace(one, high_water=0) == replace(other, high_water=0)


@given(messages, st.data())
def test_what_could_not_be_handed_over_is_read_again(
    script: list[tuple[Priority, str, str | None, float | None]], data: st.DataObject
) -> None:
    """After any number of a run's messages, the others follow from history.

    What was handed over may follow again only if it had taken the place of an older value.
    """
    reader = Reader(live=True, capacity=100)
    for message in as_run(script).messages:
        reader.history.append(message, 1.0)
        reader.delivery.offer(LiveBatch([message]))
    reader.position = Offset(len(script))
    assert reader.delivery.pending_batch is not None
    passage = plan_delivery(reader.delivery.pending_batch, reader.position, 1.0)
    assume(passage.steps)
    handed_over = data.draw(st.integers(1, len(passage.steps)))
    reader.delivery.mark_sent(passage)
    reader.delivery.requeue(passage, handed_over)
    if handed_over < len(passage.steps):
        cursor = reader.delivery.cursor(reader.position)
        assert passage.steps[handed_over - 1][1] <= cursor
    sent = {each.offset: each.key for each, _ in passage.steps[:handed_over]}
    rest = reader.rest(now=1.0)
    assert all(sent[Offset(int(each))] is not None for each in rest if each in sent)
    unsent = [each.offset for each, _ in passage.steps[handed_over:]]
    assert sorted(int(each) for each in rest if each not in sent) == sorted(unsent)
    account = reader.delivery.buffer.statistics()
    assert account.offered == (
        account.taken + account.conflated + account.expired + account.evicted + account.refused
    )


@given(messages, st.integers(0, 12), st.sampled_from([1, 3, 100]))
def test_page_that_passes_is_as_if_it_had_been_held(
    script: list[tuple[Priority, str, str | None, float | None]], start: int, capacity: int
) -> None:
    """A replay is the same, cursors included, whether it goes through the buffer or not."""
    found: list[list[tuple[int | str, str]]] = []
    for room in (0, 1000):
        reader = Reader(live=False, start=min(start, len(script)), capacity=capacity, limit=3)
        reader.room = room
        for message in as_run(script).messages:
            reader.history.append(message, 1.0)
        reader.position = Offset(len(script))
        seen: list[tuple[int | str, str]] = []
        while True:
            while not reader.passed and reader.read_on():
                pass
            if reader.passed:
                message, cursor = reader.passed.pop(0)
                seen.append((message.offset, str(cursor)))
            elif (entry := reader.delivery.take(0.0)) is not None:
                name = "gap" if isinstance(entry, Gap) else entry.offset
                seen.append((name, reader.cursor()))
            else:
                break
        assert reader.delivery.is_live
        found.append(seen)
    assert found[0] == found[1]


def test_page_does_not_pass_what_waits() -> None:
    """A better message that came while the page was read is handed over first."""
    reader = Reader(live=True, capacity=2)
    reader.room = 1000
    reader.publish(*[LOW] * 5)
    reader.delivery.flush()
    request = reader.delivery.request(reader.position)
    while request is None:
        assert reader.delivery.take(0.0) is not None
        request = reader.delivery.request(reader.position)
    page = reader.history.page(request, BOTH, None, 0.0)
    reader.publish(CRITICAL)
    assert reader.delivery.fill(request, page, reader.position, room=1000) is None
    first = reader.delivery.take(0.0)
    assert isinstance(first, Message)
    assert first.priority is CRITICAL


def test_page_does_not_pass_while_a_better_lane_has_to_be_read() -> None:
    """A better lane that fell behind while a page was read is read before that page leaves."""
    reader = Reader(live=False, capacity=2)
    reader.publish(*[LOW] * 4, fan_out=False)
    reader.position = Offset(4)
    while (request := reader.delivery.request(reader.position)) and request.lane is not LOW:
        assert reader.read_on()
    assert request is not None
    page = reader.history.page(request, BOTH, None, 0.0)
    reader.publish(*[CRITICAL] * 5)
    assert reader.delivery.fill(request, page, reader.position, room=1000) is None


def test_a_run_has_a_bound() -> None:
    """What nobody looks at is sorted, and evicted, once it is more than the buffer's bytes."""
    delivery = Delivery(PriorityBuffer(3, max_bytes=10), Cursor.at(0), catching_up=NO_LANE)
    for offset in range(1, 20):
        run = LiveBatch([Message(Offset(offset), "a", NORMAL, b"{}", 0.0)])
        delivery.offer(run)
        held = delivery.pending_batch.size if delivery.pending_batch else 0
        assert held + delivery.buffer.statistics().held_bytes <= 20
    assert delivery.cursor(Offset(19)).marks[NORMAL] < 19


def test_runs_are_joined_once_for_all() -> None:
    """Connections that had the same run and get the same one after it share the joined one."""
    first, second, other = (as_run([(NORMAL, "a", None, None)]) for _ in range(3))
    assert first.joined_with(second) is first.joined_with(second)
    assert first.joined_with(other).messages == [*first.messages, *other.messages]


def observed(delivery: Delivery, position: Offset) -> tuple[object, ...]:
    """Return everything that a reader of the delivery can see, except its cursor."""
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
    script=st.lists(st.sampled_from([*Priority, "read", "take", "missed"]), max_size=12),
)
def test_cursor_is_a_query(live: bool, start: int, script: list[Priority | str]) -> None:
    """`cursor` changes nothing: a batch that is pending stays so, and the next call is equal."""
    reader = Reader(live=live, start=0 if live else start)
    for step in script:
        if isinstance(step, Priority):
            reader.publish(step)
        elif step == "read":
            reader.read_on()
        elif step == "take":
            reader.take()
        else:
            reader.delivery.rewind(reader.position)
        before = observed(reader.delivery, reader.position)
        cursor = reader.cursor()
        assert observed(reader.delivery, reader.position) == before
        assert reader.cursor() == cursor


@given(messages, st.integers(0, 11))
def test_cursor_is_the_same_for_a_pending_batch_and_for_the_buffer(
    script: list[tuple[Priority, str, str | None, float | None]], split: int
) -> None:
    """The marks of a batch that is pending are those that it has in the buffer."""
    batch, position = without_keys(script), Offset(len(script))
    pending, flushed = (
        Delivery(PriorityBuffer(100), Cursor.at(0), catching_up=NO_LANE) for _ in range(2)
    )
    for part in (batch.messages[:split], batch.messages[split:]):
        if part:
            pending.offer(LiveBatch(part))
            flushed.offer(LiveBatch(part))
    flushed.flush()
    assert pending.pending_batch is not None
    assert pending.cursor(position) == flushed.cursor(position)


def without_keys(
    script: Sequence[tuple[Priority, str, str | None, float | None]],
) -> LiveBatch:
    """Return messages that do not supersede each other."""
    return as_run([(lane, topic, None, expires_at) for lane, topic, _, expires_at in script])
