"""Compare TopicLog with plain lists of held and trimmed messages."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.core.log.topic_log import TopicLog
from holdfast.core.message import Message, Offset
from tests.core.builders import message


class TopicLogMachine(RuleBasedStateMachine):
    """Append, supersede and trim; offsets have holes, because other topics use them."""

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
        """Append some messages."""
        for _ in range(count):
            self.head += 1 + skipped
            newest = message(self.head, size=self.head % 5, expires_at=expires_at)
            self.log.append(newest)
            self.held.append(newest)

    @rule(data=st.data(), count=st.integers(1, 20))
    def supersede(self, data: st.DataObject, count: int) -> None:
        """Remove some messages from anywhere in the log."""
        for _ in range(min(count, len(self.held))):
            index = data.draw(st.integers(0, len(self.held) - 1))
            self.gone.append(self.held[index].offset)
            self.log.remove(self.held.pop(index).offset)

    @rule(offset=st.integers(0, 200))
    def supersede_what_is_not_here(self, offset: int) -> None:
        """Removing an offset that the log does not hold changes nothing."""
        if offset not in [each.offset for each in self.held]:
            self.log.remove(Offset(offset))

    @rule(count=st.integers(1, 30), expired=st.booleans())
    def pop(self, count: int, expired: bool) -> None:
        """Pop the oldest messages; those that have not expired are losses."""
        for _ in range(count):
            oldest = self.held.pop(0) if self.held else None
            assert self.log.oldest() is oldest
            assert self.log.pop_oldest() is oldest
            if oldest is not None and not expired:
                self.log.add_trimmed(oldest.offset, self.remembered)
                self.trimmed.append(oldest.offset)

    @rule(after=st.integers(0, 300), length=st.integers(0, 300))
    def count_lost(self, after: int, length: int) -> None:
        """The count of trimmed messages is exact, or `None` for old ones."""
        up_to = after + length
        lost = [each for each in self.trimmed if after < each <= up_to]
        counted = self.log.count_trimmed(Offset(after), Offset(up_to))
        if counted is not None:
            assert counted == len(lost)
        else:
            assert after < self.log.uncounted_through

    @invariant()
    def holds_what_the_list_holds(self) -> None:
        """The log holds the messages of the list, counts them, and keeps few empty entries."""
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
        """`trimmed_through` is the newest loss, and the trimmed offsets are bounded."""
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
    kinds=st.lists(st.sampled_from(["trimmed", "boundary", "other"]), max_size=30),
    floor=st.integers(0, 12),
    remembered=st.integers(1, 3) | st.integers(1, 20),
    after=st.integers(0, 3) | st.integers(0, 35),
    length=st.integers(0, 40),
)
def test_ranges_cover_the_losses_and_no_boundary(
    kinds: list[str], floor: int, remembered: int, after: int, length: int
) -> None:
    """The ranges contain each lost offset once, ascend, have exact counts, and no boundary."""
    log, up_to = TopicLog(Offset(floor)), after + length
    trimmed = [each for each, kind in enumerate(kinds, 1) if kind == "trimmed" and each > floor]
    boundaries = [each for each, kind in enumerate(kinds, 1) if kind == "boundary"]
    for each in trimmed:
        log.add_trimmed(Offset(each), remembered)
    on_page = [Offset(each) for each in boundaries if after < each <= up_to]
    ranges = list(log.trimmed_ranges(Offset(after), Offset(up_to), on_page))
    counted = [offset for first, last, _ in ranges for offset in range(first, last + 1)]
    assert counted == sorted(set(counted) - set(on_page))
    without_count = [range(first, last + 1) for first, last, count in ranges if count is None]
    unknown = [offset for each in without_count for offset in each]
    uncounted = range(after + 1, min(log.uncounted_through, up_to) + 1)
    assert unknown == [offset for offset in uncounted if offset not in on_page]
    known = [(first, last, count) for first, last, count in ranges if count is not None]
    lost = [each for each in trimmed if max(after, log.uncounted_through) < each <= up_to]
    for first, last, count in known:
        within = [each for each in lost if first <= each <= last]
        assert (first, last, count) == (within[0], within[-1], len(within))
    assert sum(count for _, _, count in known) == len(lost)


def test_holes_are_closed() -> None:
    """A log whose messages were nearly all superseded frees their entries."""
    log = TopicLog(Offset(0))
    for offset in range(1, 1001):
        log.append(message(offset))
        if offset > 1:
            log.remove(Offset(offset - 1))
    assert len(log.messages) == len(log.offsets) < 40
    assert [each.offset for each in log.messages_after(Offset(0))] == [1000]
