"""Compare PriorityBuffer with plain lists, and test each of its rules by itself."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.core.delivery.buffer import PriorityBuffer
from holdfast.core.message import BEST_FIRST, Gap, Message, Offset, Priority
from holdfast.errors import ConfigurationError
from tests.core.builders import CRITICAL, HIGH, LOW, NORMAL, gap, message

lanes = st.sampled_from([*Priority, NORMAL, NORMAL])
Held = tuple[Offset, Message | Gap]
Places = tuple[tuple[Priority, Offset], ...]


class Model:
    """The content of a buffer as one list of (place, entry) per lane, and its counters."""

    def __init__(self, capacity: int, max_bytes: int) -> None:
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.lanes: dict[Priority, list[Held]] = {lane: [] for lane in Priority}
        self.high_water = 0
        self.counts = dict.fromkeys(
            ["offered", "taken", "conflated", "expired", "evicted", "refused"], 0
        )

    def messages(self, lowest: Priority = LOW) -> list[Message]:
        return [
            entry
            for lane in BEST_FIRST
            if lane >= lowest
            for _, entry in self.lanes[lane]
            if isinstance(entry, Message)
        ]

    def size(self, lowest: Priority = LOW) -> int:
        return sum(each.size for each in self.messages(lowest))

    def pending(self, newcomer: Message) -> tuple[Priority, int, Message] | None:
        """Return lane, index and message of the pending value of the newcomer's key."""
        for lane in Priority:
            for index, (_, entry) in enumerate(self.lanes[lane]):
                if (
                    isinstance(entry, Message)
                    and newcomer.subject is not None
                    and newcomer.subject == entry.subject
                ):
                    return lane, index, entry
        return None

    def fits_beside_better(self, newcomer: Message) -> bool:
        better = [each for each in self.messages() if each.priority > newcomer.priority]
        size = sum(each.size for each in better)
        return len(better) < self.capacity and size + newcomer.size <= self.max_bytes

    def offer(self, newcomer: Message) -> Places:
        self.counts["offered"] += 1
        pending = self.pending(newcomer)
        if pending is not None:
            lane, index, older = pending
            self.counts["conflated"] += 1
            if older.offset >= newcomer.offset:
                return ()
            place, _ = self.lanes[lane].pop(index)
            if lane == newcomer.priority and self.size() + newcomer.size <= self.max_bytes:
                self.lanes[lane].insert(index, (place, newcomer))
                return ()
        if not self.fits_beside_better(newcomer):
            self.counts["refused"] += 1
            return ((newcomer.priority, newcomer.offset),)
        evicted = self.evict_for(1, newcomer.size)
        self.lanes[newcomer.priority].append((newcomer.offset, newcomer))
        self.high_water = max(self.high_water, len(self.messages()))
        return evicted

    def evict_for(self, count: int, size: int) -> Places:
        """Evict until `count` more messages of `size` bytes fit."""
        evicted = []
        while len(self.messages()) + count > self.capacity or self.size() + size > self.max_bytes:
            lane, index = next(
                (lane, index)
                for lane in Priority
                for index, (_, entry) in enumerate(self.lanes[lane])
                if isinstance(entry, Message)
            )
            evicted.append((lane, self.lanes[lane].pop(index)[0]))
        self.counts["evicted"] += len(evicted)
        return tuple(evicted)

    def add_gap(self, newcomer: Gap) -> None:
        self.lanes[newcomer.priority].append((newcomer.first, newcomer))

    def take(self, now: float) -> Message | Gap | None:
        for lane in BEST_FIRST:
            entries = self.lanes[lane]
            while entries:
                _, entry = entries.pop(0)
                if isinstance(entry, Gap):
                    while entries and isinstance(following := entries[0][1], Gap):
                        entry = entry.merged(following)
                        del entries[0]
                    return entry
                expired = entry.expires_at is not None and entry.expires_at <= now
                self.counts["expired" if expired else "taken"] += 1
                if not expired:
                    return entry
        return None

    def drop(self, unwanted: Callable[[Priority, Offset, Message | Gap], bool]) -> int:
        before = len(self.messages())
        for lane in Priority:
            self.lanes[lane] = [
                (place, entry)
                for place, entry in self.lanes[lane]
                if not unwanted(lane, place, entry)
            ]
        dropped = before - len(self.messages())
        self.counts["evicted"] += dropped
        return dropped

    def discard(self, topic: str) -> int:
        """Remove the messages of `topic`, and its part of each gap."""
        dropped = self.drop(
            lambda lane, place, entry: isinstance(entry, Message) and entry.topic == topic
        )
        self.drop(lambda lane, place, entry: isinstance(entry, Gap) and entry.topics == (topic,))
        for lane, entries in self.lanes.items():
            self.lanes[lane] = [
                (place, gap(entry.first, *sorted({*entry.topics} - {topic}),
                            lane=lane, last=entry.last, count=None))
                if isinstance(entry, Gap) and (topic in entry.topics or not entry.topics)
                else (place, entry)
                for place, entry in entries
            ]  # fmt: skip
        return dropped


class BufferMachine(RuleBasedStateMachine):
    """Run every operation in every order; check the invariants of the class after each."""

    @initialize(capacity=st.integers(1, 5), max_bytes=st.integers(20, 60))
    def begin(self, capacity: int, max_bytes: int) -> None:
        self.buffer = PriorityBuffer(capacity, max_bytes=max_bytes)
        self.model = Model(capacity, max_bytes)
        self.now = 0.0
        self.offsets = dict.fromkeys(Priority, 0)  # the last one offered, by lane

    def next_offset(self, lane: Priority, skipped: int) -> int:
        """Return an offset that only this lane has, as in a log."""
        self.offsets[lane] += 4 * (1 + skipped) + (lane - self.offsets[lane]) % 4
        return self.offsets[lane]

    @rule(
        lane=lanes,
        skipped=st.integers(0, 5),
        topic=st.sampled_from("ab"),
        key=st.sampled_from([None, None, "", "k"]),
        user=st.sampled_from([None, None, "u"]),
        size=st.integers(0, 25) | st.integers(0, 70),
        ttl=st.none() | st.integers(1, 4),
    )
    def offer(
        self,
        *,
        lane: Priority,
        skipped: int,
        topic: str,
        key: str | None,
        user: str | None,
        size: int,
        ttl: int | None,
    ) -> None:
        """Offer a message in any lane, with any key, of any size."""
        newcomer = message(
            self.next_offset(lane, skipped),
            topic,
            lane,
            key=key,
            size=size,
            expires_at=None if ttl is None else self.now + ttl,
            to_user=user,
        )
        conflates = self.model.pending(newcomer) is not None
        had_room = self.buffer.has_room_for(newcomer)
        evicted = self.buffer.offer(newcomer)
        assert evicted == self.model.offer(newcomer)
        harmless = all(victim < lane for victim, _ in evicted)
        assert harmless if had_room else conflates or not harmless
        assert all(victim <= lane for victim, _ in evicted)

    @rule(
        lane=lanes,
        skipped=st.integers(0, 5),
        topics=st.sampled_from([(), ("a",), ("b", "c"), ("a", "b")]),
        count=st.none() | st.integers(1, 9),
    )
    def add_gap(self, lane: Priority, skipped: int, topics: tuple[str, ...], count: int) -> None:
        """Add a gap at the tail of any lane."""
        first, last = self.offsets[lane] + 1, self.next_offset(lane, skipped)
        newcomer = gap(first, *topics, lane=lane, last=last, count=count)
        self.buffer.add_gap(newcomer)
        self.model.add_gap(newcomer)

    @rule()
    def take(self) -> None:
        """Both take the same message, or equal gaps, because merged gaps are new objects."""
        taken, expected = self.buffer.take(self.now), self.model.take(self.now)
        assert taken is expected or (isinstance(taken, Gap) and taken == expected)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        """Time passes, and some messages expire."""
        self.now += seconds

    @rule(data=st.data(), lane=lanes)
    def evict_after(self, data: st.DataObject, lane: Priority) -> None:
        """A lane goes back to before one of its messages, and is offered the rest again."""
        places = [p - 1 for p, entry in self.model.lanes[lane] if isinstance(entry, Message)]
        after = Offset(data.draw(st.sampled_from([0, *places, self.offsets[lane]])))
        self.buffer.evict_after(lane, after)
        self.model.drop(lambda of, place, _: of is lane and place > after)
        self.offsets[lane] = after

    @rule(topic=st.sampled_from("ab"))
    def discard(self, topic: str) -> None:
        """The messages of a topic are discarded, and its part of each gap."""
        count = self.buffer.discard(lambda each: each == topic)
        assert count == self.model.discard(topic)

    @invariant()
    def conserves(self) -> None:
        """`offered = taken + conflated + expired + evicted + refused + held`."""
        account = self.buffer.statistics()
        assert account.offered == (
            account.taken
            + account.conflated
            + account.expired
            + account.evicted
            + account.refused
            + account.held
        )
        assert {name: getattr(account, name) for name in self.model.counts} == self.model.counts
        assert account.high_water == self.model.high_water

    @invariant()
    def holds_what_the_lists_hold(self) -> None:
        """The buffer has the same entries in the same order, within its bounds."""
        held = [entry for lane in BEST_FIRST for _, entry in self.model.lanes[lane]]
        ours = list(self.buffer)
        assert ours == held  # messages are compared by identity
        sizes = [entry.size for entry in ours if isinstance(entry, Message)]
        assert len(self.buffer) == self.buffer.statistics().held == len(sizes)
        assert self.buffer.statistics().held_bytes == sum(sizes)
        assert len(sizes) <= self.buffer.capacity
        assert sum(sizes) <= self.buffer.max_bytes
        assert bool(self.buffer) is bool(held)

    @invariant()
    def knows_the_first_place_of_each_lane(self) -> None:
        """Places ascend within a lane, and the first is its low-water add_gap."""
        for lane, entries in self.model.lanes.items():
            places = [place for place, _ in entries]
            assert places == sorted(set(places))
            assert self.buffer.low_water(lane) == (places[0] if places else None)

    @invariant()
    def holds_one_value_of_a_key(self) -> None:
        """The buffer has at most one message per subject, over all lanes."""
        subjects = [
            entry.subject
            for entry in self.buffer
            if isinstance(entry, Message) and entry.subject is not None
        ]
        assert len(subjects) == len(set(subjects))


TestBuffer = BufferMachine.TestCase
TestBuffer.settings = settings(stateful_step_count=100)


def drain(buffer: PriorityBuffer, now: float = 0.0) -> list[Message | Gap]:
    """Take everything, in order."""
    return list(iter(lambda: buffer.take(now), None))


def filled(*messages: Message, capacity: int = 100, max_bytes: int = 1000) -> PriorityBuffer:
    """Return a buffer that was offered these messages."""
    buffer = PriorityBuffer(capacity, max_bytes=max_bytes)
    for each in messages:
        buffer.offer(each)
    return buffer


@pytest.mark.parametrize(("capacity", "max_bytes"), [(0, 1), (-1, 1), (1, 0), (1, -1)])
def test_buffer_holds_at_least_one_message_and_one_byte(capacity: int, max_bytes: int) -> None:
    """A bound below 1 raises."""
    with pytest.raises(ConfigurationError, match="over 0"):
        PriorityBuffer(capacity, max_bytes=max_bytes)


@given(st.lists(lanes, max_size=20))
def test_better_lanes_overtake_and_each_is_in_order(order: list[Priority]) -> None:
    """Messages leave best lane first, and in the order of arrival within a lane."""
    offered = [message(offset, lane=lane) for offset, lane in enumerate(order, 1)]
    expected = sorted(offered, key=lambda each: (-each.priority, each.offset))
    assert drain(filled(*offered)) == expected


def test_new_value_takes_the_place_of_the_old() -> None:
    """A key's newer value takes the place of the older one, before later messages."""
    between, newer = message(2), message(3, key="k")
    buffer = filled(message(1, key="k"), between, newer)
    assert buffer.low_water(NORMAL) == 1
    assert drain(buffer) == [newer, between]


def test_new_value_in_another_lane_stands_at_its_tail() -> None:
    """A key's newer value in a better lane removes the older one and joins the tail of its lane."""
    first, newer, other = message(2, lane=HIGH), message(3, lane=HIGH, key="k"), message(4)
    assert drain(filled(message(1, key="k"), first, newer, other)) == [first, newer, other]


def test_new_value_in_a_lower_lane_removes_the_urgent_old_one() -> None:
    """A newer value removes the outdated one even from a better lane."""
    newer = message(2, lane=LOW, key="k")
    assert drain(filled(message(1, lane=CRITICAL, key="k"), newer)) == [newer]


def test_old_value_that_comes_late_is_dropped() -> None:
    """An older value than the pending one is dropped, even in another lane."""
    newer = message(5, lane=HIGH, key="k")
    buffer = filled(newer)
    assert buffer.offer(message(1, lane=LOW, key="k")) == ()
    assert buffer.statistics().conflated == 1
    assert drain(buffer) == [newer]


def test_empty_key_conflates() -> None:
    """An empty key conflates, as any other key does."""
    newer = message(2, key="")
    assert drain(filled(message(1, key=""), newer)) == [newer]


def test_messages_without_a_key_never_conflate() -> None:
    """Messages without a key do not supersede each other."""
    assert len(filled(message(1), message(2), message(3, key=""))) == 3


@pytest.mark.parametrize(
    "other", [message(2, "b", key="k"), message(2, key="l"), message(2, key="k", to_user="u")]
)
def test_other_subjects_do_not_conflate(other: Message) -> None:
    """A message with another topic, key or user does not supersede."""
    assert len(filled(message(1, key="k"), other)) == 2


def test_oldest_of_the_lowest_lane_is_evicted() -> None:
    """On overflow the oldest message of the lowest lane is evicted, and its place returned."""
    buffer = filled(message(1, lane=HIGH), message(2, lane=LOW), message(3, lane=LOW), capacity=3)
    assert buffer.offer(message(4)) == ((LOW, Offset(2)),)


def test_newcomer_lower_than_all_is_refused() -> None:
    """A buffer full of better messages refuses a newcomer."""
    held = [message(1, lane=HIGH), message(2)]
    buffer = filled(*held, capacity=2)
    assert buffer.offer(message(3, lane=LOW)) == ((LOW, Offset(3)),)
    assert buffer.statistics().refused == 1
    assert drain(buffer) == held


@given(st.lists(lanes.filter(lambda lane: lane is not CRITICAL), max_size=20))
def test_critical_is_not_evicted_for_a_lower_lane(order: list[Priority]) -> None:
    """A critical message is not evicted by messages of lower lanes."""
    critical = [message(offset, lane=CRITICAL) for offset in (1, 2)]
    buffer = filled(*critical, capacity=2)
    for offset, lane in enumerate(order, 3):
        assert buffer.offer(message(offset, lane=lane)) == ((lane, Offset(offset)),)
    assert drain(buffer) == critical


def test_critical_evicts_the_oldest_critical() -> None:
    """In a buffer full of critical messages the newest evicts the oldest."""
    second, third = message(2, lane=CRITICAL), message(3, lane=CRITICAL)
    assert drain(filled(message(1, lane=CRITICAL), second, third, capacity=2)) == [second, third]


def test_message_over_the_bound_is_refused_and_evicts_nothing() -> None:
    """A message larger than the buffer is refused, and evicts nothing."""
    held = [message(1, lane=HIGH), message(2)]
    buffer = filled(*held, max_bytes=10)
    assert buffer.offer(message(3, lane=CRITICAL, size=11)) == ((CRITICAL, Offset(3)),)
    assert drain(buffer) == held


@pytest.mark.parametrize("better", [0, 5])
def test_value_that_cannot_fit_is_refused_in_place_too(better: int) -> None:
    """A key's newer value that cannot fit removes the older value, and nothing else."""
    urgent = message(1, lane=HIGH, size=better)
    others = [message(2, size=2), message(4, size=2), message(5, lane=LOW, size=1)]
    buffer = filled(urgent, others[0], message(3, key="k", size=0), *others[1:], max_bytes=10)
    assert buffer.offer(message(6, key="k", size=11 - better)) == ((NORMAL, Offset(6)),)
    assert drain(buffer) == [urgent, *others]


def test_message_of_exactly_the_bound_fits() -> None:
    """Both bounds are inclusive."""
    buffer = filled(message(1), message(2, size=9), capacity=2, max_bytes=10)
    assert (len(buffer), buffer.statistics().held_bytes) == (2, 10)


def test_value_that_grows_evicts_the_lower_lanes() -> None:
    """A key's newer and longer value evicts lower lanes, as any newcomer does."""
    newer = message(3, lane=HIGH, key="k", size=8)
    low = message(2, lane=LOW, size=5)
    buffer = filled(message(1, lane=HIGH, key="k"), low, max_bytes=10)
    assert buffer.offer(newer) == ((LOW, Offset(2)),)
    assert drain(buffer) == [newer]


def test_expired_message_is_dropped_when_taken() -> None:
    """An expired message is dropped when it is next, and counted as expired."""
    lasting = message(2)
    buffer = filled(message(1, expires_at=10.0), lasting)
    assert drain(buffer, now=10.0) == [lasting]
    assert buffer.statistics().expired == 1


def test_gap_is_not_evicted() -> None:
    """Overflow evicts the message after a gap, and the gap stays in its place."""
    buffer = filled(capacity=2)
    buffer.add_gap(gap(1, "a"))
    newest = [message(2), message(3), message(4)]
    for each in newest:
        buffer.offer(each)
    assert drain(buffer) == [gap(1, "a"), *newest[1:]]


def test_gap_keeps_the_first_place_of_its_lane() -> None:
    """A gap counts as pending in the low-water add_gap, also beside a neighbouring gap."""
    buffer = PriorityBuffer()
    buffer.add_gap(gap(4, "a"))
    buffer.add_gap(gap(9, "b"))
    assert buffer.low_water(NORMAL) == 4
    assert bool(buffer)
    assert len(buffer) == 0


def test_neighbouring_gaps_are_taken_as_one() -> None:
    """Two gaps with nothing left between them are taken as one."""
    buffer = PriorityBuffer()
    buffer.add_gap(gap(1, "b"))
    buffer.offer(message(2, topic="a"))
    buffer.add_gap(gap(3, "c", count=2))
    buffer.discard(lambda each: each == "a")
    assert drain(buffer) == [gap(1, "b", "c", last=3, count=3)]


def test_gap_of_a_discarded_topic_is_dropped() -> None:
    """A gap of a discarded topic is dropped, and a gap in other topics too keeps the rest."""
    buffer = PriorityBuffer()
    kept = message(2, topic="b")
    buffer.add_gap(gap(1, "a"))
    buffer.offer(kept)
    buffer.add_gap(gap(3, "a", "b", count=2))
    buffer.discard(lambda each: each == "a")
    assert drain(buffer) == [kept, gap(3, "b", count=None)]


def test_gaps_that_became_neighbours_are_discarded_by_topic() -> None:
    """An eviction between two gaps does not merge them, so each is discarded with its own topic.

    The state machine found this case: discarding "a" left a gap of both topics, with both counts.
    """
    buffer = filled(capacity=1)
    buffer.add_gap(gap(1, "b", last=9, count=3))
    buffer.offer(message(10, topic="b"))
    buffer.add_gap(gap(11, "a", last=13, count=2))
    newest = [message(14, topic="b"), message(15, topic="b")]
    for each in newest:
        buffer.offer(each)
    buffer.discard(lambda each: each == "a")
    assert drain(buffer) == [gap(1, "b", last=9, count=3), newest[1]]


def test_gaps_that_became_neighbours_are_evicted_by_place() -> None:
    """A lane that goes back drops the gaps beyond, and keeps the neighbouring gap before."""
    buffer = filled(max_bytes=2)
    buffer.add_gap(gap(1, "a"))
    buffer.offer(message(2))
    buffer.add_gap(gap(3, "a"))
    buffer.offer(message(4))
    buffer.offer(message(5, lane=HIGH, size=2))
    buffer.evict_after(NORMAL, Offset(1))
    assert drain(buffer)[1:] == [gap(1, "a")]


def test_gap_outlives_the_messages_around_it() -> None:
    """A gap is taken even if the messages around it have expired."""
    buffer = filled(message(1, expires_at=10.0))
    buffer.add_gap(gap(2, "a"))
    buffer.offer(message(3, expires_at=10.0))
    assert drain(buffer, now=10.0) == [gap(2, "a")]


def test_messages_of_a_lane_sent_back_can_be_offered_again() -> None:
    """A lane sent back keeps the entries up to the place, and accepts the others again."""
    first, second = message(1), message(2, key="k")
    buffer = filled(first, second)
    buffer.evict_after(NORMAL, Offset(1))
    assert list(buffer) == [first]
    assert buffer.offer(second) == ()
    assert drain(buffer) == [first, second]


def test_sending_a_lane_back_leaves_the_others() -> None:
    """Sending one lane back leaves the other lanes unchanged."""
    low, high = message(1, lane=LOW), message(3, lane=HIGH)
    buffer = filled(low, message(2), high)
    buffer.evict_after(NORMAL, Offset(0))
    assert drain(buffer) == [high, low]


def test_taking_from_an_empty_buffer_gives_nothing() -> None:
    """An empty buffer is false, and `take` returns None."""
    buffer = PriorityBuffer()
    assert not buffer
    assert buffer.take(0.0) is None


def test_emptied_buffer_gives_its_memory_back() -> None:
    """A buffer that was emptied uses as little memory as one that was never filled."""
    messages = [message(offset, key=f"{offset}") for offset in range(1, 101)]
    buffers = [PriorityBuffer() for _ in range(100)]
    tracemalloc.start()
    try:
        for buffer in buffers:
            for each in messages:
                buffer.offer(each)
            buffer.add_gap(gap(101, "a"))
        held, _ = tracemalloc.get_traced_memory()
        for buffer in buffers:
            drain(buffer)
        gc.collect()  # which empties the interpreter's own free lists, too
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / 100 < 500 < held / 100
