"""TopicLog beside plain lists: what is here, and what is known of that which is gone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.core.log.topic_log import TopicLog
from holdfast.core.message import Message, Offset
from tests.core.builders import message


class TopicLogMachine(RuleBasedStateMachine):
    """Appending, superseding and trimming; offsets have holes, as other topics share them."""

    @initialize(floor=st.integers(0, 5), remembered=st.integers(1, 20))
    def begin(self, floor: int, remembered: int) -> None:
        self.log = TopicLog(Offset(floor))
        self.floor = floor
        self.remembered = remembered
        self.head = floor
        self.held: list[Message] = []
        self.trimmed: list[int] = []
        self.gone: list[int] = []  # superseded or expired: no loss

    @rule(
        count=st.integers(1, 30),
        skipped=st.integers(0, 2),
        expires_at=st.none() | st.floats(0, 9),
    )
    def append(self, count: int, skipped: int, expires_at: float | None) -> None:
        """Some messages."""
        for _ in range(count):
            self.head += 1 + skipped
            newest = message(self.head, size=self.head % 5, expires_at=expires_at)
            self.log.append(newest)
            self.held.append(newest)

    @rule(data=st.data(), count=st.integers(1, 20))
    def supersede(self, data: st.DataObject, count: int) -> None:
        """Some messages are outdated, from anywhere in the log."""
        for _ in range(min(count, len(self.held))):
            index = data.draw(st.integers(0, len(self.held) - 1))
            self.gone.append(self.held[index].offset)
            self.log.remove(self.held.pop(index).offset)

    @rule(offset=st.integers(0, 200))
    def supersede_what_is_not_here(self, offset: int) -> None:
        """An offset of another log, or of a message that is gone."""
        if offset not in [each.offset for each in self.held]:
            self.log.remove(Offset(offset))

    @rule(count=st.integers(1, 30), expired=st.booleans())
    def pop(self, count: int, expired: bool) -> None:
        """The oldest leave; those that have not expired are lost."""
        for _ in range(count):
            oldest = self.held.pop(0) if self.held else None
            assert self.log.oldest() is oldest
            assert self.log.pop_oldest() is oldest
            if oldest is not None and not expired:
                self.log.add_trimmed(oldest.offset, self.remembered)
                self.trimmed.append(oldest.offset)

    @rule(after=st.integers(0, 300), length=st.integers(0, 300))
    def count_lost(self, after: int, length: int) -> None:
        """The number of those that were trimmed is exact, or unknown for the old ones."""
        up_to = after + length
        lost = [each for each in self.trimmed if after < each <= up_to]
        told = self.log.count_trimmed(Offset(after), Offset(up_to))
        if told is not None:
            assert told == len(lost)
        else:
            assert after < self.log.uncounted_through

    @invariant()
    def holds_what_the_list_holds(self) -> None:
        """The same messages from wherever one reads, counted right, with few holes kept."""
        assert self.log.held == len(self.held)
        assert self.log.held_bytes == sum(each.size for each in self.held)
        for offset in {0, self.head // 2, self.head - 1, self.head}:
            expected = [each for each in self.held if each.offset > offset]
            assert list(self.log.messages_after(Offset(offset))) == expected
            alive = [each for each in expected if not each.has_expired(5.0)]
            assert self.log.count_after(Offset(offset), 5.0) == len(alive)
        assert self.log.oldest() is (self.held[0] if self.held else None)

    @invariant()
    def knows_how_far_it_was_trimmed(self) -> None:
        """The last that was lost, and no more memory than the bound says."""
        assert self.log.trimmed_through == max([self.floor, *self.trimmed[-1:]])
        assert self.log.last_offset >= max(
            [self.floor, *self.trimmed, *(m.offset for m in self.held)]
        )
        assert self.log.last_offset <= max([self.floor, self.head])
        assert len(self.log.trimmed_offsets) <= 2 * self.remembered
        recent = self.trimmed[-self.remembered :]
        if recent:
            assert self.log.count_trimmed(Offset(recent[0] - 1), Offset(self.head)) == len(recent)
        elif self.floor:
            assert self.log.uncounted_through == self.floor


TestTopicLog = TopicLogMachine.TestCase
TestTopicLog.settings = settings(stateful_step_count=40)


@given(
    kinds=st.lists(st.sampled_from(["trimmed", "between", "other"]), max_size=30),
    floor=st.integers(0, 12),
    remembered=st.integers(1, 3) | st.integers(1, 20),
    after=st.integers(0, 3) | st.integers(0, 35),
    length=st.integers(0, 40),
)
def test_runs_cover_what_is_lost_and_nothing_between(
    kinds: list[str], floor: int, remembered: int, after: int, length: int
) -> None:
    """Each lost offset is in one run; runs are ascending, apart, exact, and reach over no other."""
    log, up_to = TopicLog(Offset(floor)), after + length
    trimmed = [each for each, kind in enumerate(kinds, 1) if kind == "trimmed" and each > floor]
    between = [each for each, kind in enumerate(kinds, 1) if kind == "between"]
    for each in trimmed:
        log.add_trimmed(Offset(each), remembered)
    wanted = [Offset(each) for each in between if after < each <= up_to]
    runs = list(log.trimmed_ranges(Offset(after), Offset(up_to), wanted))
    told = [offset for first, last, _ in runs for offset in range(first, last + 1)]
    assert told == sorted(set(told) - set(wanted))
    unknown = [
        offset for first, last, count in runs if count is None for offset in range(first, last + 1)
    ]
    forgotten = range(after + 1, min(log.uncounted_through, up_to) + 1)
    assert unknown == [offset for offset in forgotten if offset not in wanted]
    known = [(first, last, count) for first, last, count in runs if count is not None]
    lost = [each for each in trimmed if max(after, log.uncounted_through) < each <= up_to]
    for first, last, count in known:
        within = [each for each in lost if first <= each <= last]
        assert (first, last, count) == (within[0], within[-1], len(within))
    assert sum(count for _, _, count in known) == len(lost)


def test_holes_are_closed() -> None:
    """A log whose messages were all superseded but one keeps no room for the others."""
    log = TopicLog(Offset(0))
    for offset in range(1, 1001):
        log.append(message(offset))
        if offset > 1:
            log.remove(Offset(offset - 1))
    assert len(log.messages) == len(log.offsets) < 40
    assert [each.offset for each in log.messages_after(Offset(0))] == [1000]
