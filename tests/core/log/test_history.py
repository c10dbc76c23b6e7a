"""Compare History with a plain list of everything that was ever published."""

from __future__ import annotations

from collections import defaultdict
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.core.cursor import Cursor
from holdfast.core.log.history import History
from holdfast.core.log.pages import Page
from holdfast.core.log.retention import Retention
from holdfast.core.message import Gap, Message, Offset, Priority, UserId
from holdfast.core.topics import matches
from tests.core.builders import (
    CRITICAL,
    EVERYTHING,
    HIGH,
    LOW,
    NORMAL,
    gaps,
    message,
    messages,
    page,
)

ANN, BOB = UserId("ann"), UserId("bob")
TOPICS, USERS = ["a", "b", "c.d", "c.e"], [None, ANN, BOB]

Log = tuple[str, UserId | None, Priority]
Read = tuple[Message | Gap, ...]

# Mostly one lane, shared messages, and readers from the beginning, so that things meet.
lanes = st.sampled_from([LOW, NORMAL, NORMAL, NORMAL, HIGH, CRITICAL])
begins = st.just(0) | st.integers(0, 9) | st.integers(0, 40)
subscriptions = st.one_of(
    st.just(dict.fromkeys(TOPICS, 0)),
    st.dictionaries(st.sampled_from([*TOPICS, "*", "c.*", "**"]), begins, min_size=1),
)

Draft = tuple[str, Priority, str | None, UserId | None, int, int | None]
drafts: st.SearchStrategy[Draft] = st.tuples(
    st.sampled_from(TOPICS),
    lanes,
    st.sampled_from([*[None] * 4, "", "k"]),
    st.sampled_from([*[None] * 6, ANN, BOB]),
    st.integers(1, 5) | st.integers(1, 20),
    st.sampled_from([*[None] * 6, 1, 4]),
)


class Reader:
    """A user with subscriptions, and the messages that they may have."""

    def __init__(self, held: dict[str, int], user: UserId | None) -> None:
        self.held = held
        self.user = user

    def may_have(self, published: Message) -> bool:
        since = min(
            (since for name, since in self.held.items() if matches(name, published.topic)),
            default=EVERYTHING,
        )
        return published.offset > since and published.to_user in (None, self.user)


readers = st.builds(Reader, subscriptions, st.sampled_from(USERS))


class HistoryMachine(RuleBasedStateMachine):
    """Publish, trim and read; the model records the fate of every message."""

    max_logs = st.just(1000)
    remembered = 1000

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("holdfast.core.log.history.MIN_TRIMMED_OFFSETS", self.remembered)

    @initialize(
        data=st.data(),
        limit=st.integers(1, 6),
        age=st.sampled_from([None, None, 3, 9]),
        max_bytes=st.integers(4, 40),
        total_bytes=st.integers(10, 200),
    )
    def begin(
        self, data: st.DataObject, limit: int, age: int | None, max_bytes: int, total_bytes: int
    ) -> None:
        self.keep = Retention(
            limit=limit,
            age=age,
            max_bytes=max_bytes,
            total_bytes=total_bytes,
            max_logs=data.draw(self.max_logs, label="max_logs"),
        )
        self.history = History(self.keep)
        self.now = 0.0
        self.published: list[Message] = []
        self.superseded: set[Message] = set()
        self.expired: set[Message] = set()  # dropped after their ttl
        self.lost: set[Message] = set()  # trimmed before it, while the newest of their key
        self.held: dict[Log, list[Message]] = defaultdict(list)
        self.addresses: dict[tuple[str, UserId | None], None] = {}  # last written to is last

    # -- the model -----------------------------------------------------------------------------

    @property
    def head(self) -> int:
        return len(self.published)

    def drop(self, log: Log, count: int = 1) -> None:
        for oldest in self.held[log][:count]:
            (self.expired if oldest.has_expired(self.now) else self.lost).add(oldest)
        del self.held[log][:count]

    def bound(self, log: Log) -> None:
        held = self.held[log]
        while len(held) > self.keep.limit or sum(map(len_of, held)) > self.keep.max_bytes:
            self.drop(log)
        while held and self.keep.age is not None and held[0].timestamp + self.keep.age <= self.now:
            self.drop(log)

    def size(self) -> int:
        return sum(len_of(each) for held in self.held.values() for each in held)

    def actual(self, log: Log) -> list[Message]:
        """Return the messages that the history holds in a log, expired or not."""
        topic, user, lane = log
        read = page(self.history, lane, 0, {topic: 0}, user, now=-inf).entries
        return [each for each in messages(read) if each.to_user == user]

    # -- what happens --------------------------------------------------------------------------

    @rule(batch=st.lists(drafts, min_size=1, max_size=8))
    def publish(self, batch: list[Draft]) -> None:
        """Publish messages, which may supersede others and trim others."""
        for topic, lane, key, user, size, ttl in batch:
            newest = message(
                self.head + 1,
                topic,
                lane,
                key=key,
                size=size,
                at=self.now,
                expires_at=None if ttl is None else self.now + ttl,
                to_user=user,
            )
            self.history.append(newest, self.now)
            self.follow(newest)

    def follow(self, newest: Message) -> None:
        if newest.subject is not None:
            older = {each for each in self.published if each.subject == newest.subject}
            self.superseded |= older
            for held in self.held.values():
                held[:] = [each for each in held if each not in older]
        self.published.append(newest)
        log = (newest.topic, newest.to_user, newest.priority)
        self.held[log].append(newest)
        self.bound(log)
        self.addresses.pop(log[:2], None)
        self.addresses[log[:2]] = None
        while len(self.addresses) > self.keep.max_logs:
            oldest = next(iter(self.addresses))
            del self.addresses[oldest]
            for lane in Priority:
                self.drop((*oldest, lane), EVERYTHING)
        if self.size() > self.keep.total_bytes:
            self.squeeze()

    def squeeze(self) -> None:
        """Follow the bound on the total bytes.

        The model leaves open which logs are trimmed, as long as the lowest lane is trimmed first.
        """
        paid = {log: len(held) - len(self.actual(log)) for log, held in self.held.items()}
        for log, count in paid.items():
            self.drop(log, count)
        assert self.size() <= self.keep.total_bytes
        highest = max(lane for (_, _, lane), count in paid.items() if count)
        assert not any(held for (_, _, lane), held in self.held.items() if lane < highest)

    @rule()
    def trim(self) -> None:
        """The sweep applies the bound by age to every log."""
        self.history.trim(self.now)
        for log in list(self.held):
            self.bound(log)
        assert self.keep.age is None or all(
            each.timestamp + self.keep.age > self.now
            for held in self.held.values()
            for each in held
        )

    @rule(seconds=st.integers(1, 4))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.now += seconds

    # -- what is read --------------------------------------------------------------------------

    @rule(
        lane=lanes,
        after=begins,
        up_to=st.just(EVERYTHING) | st.integers(0, 40),
        reader=readers,
        limit=st.integers(1, 5),
        max_bytes=st.integers(1, 30),
    )
    def read(self, *, lane: Priority, after: int, reader: Reader, **bounds: int) -> None:
        """Read one page of one lane, with any bounds, for any user."""
        self.read_by(reader, lane, after, **bounds)

    def read_by(self, reader: Reader, lane: Priority, after: int = 0, **bounds: int) -> None:
        got = page(self.history, lane, after, reader.held, reader.user, now=self.now, **bounds)
        assert got.lane is lane
        self.check_extent(got, reader, after, **bounds)
        self.check_messages(got, reader, after)
        self.check_gaps(got, reader, after)
        self.check_nothing_is_missing(got, reader, after)

    def check_extent(
        self,
        got: Page,
        reader: Reader,
        after: int,
        *,
        up_to: int = EVERYTHING,
        limit: int = EVERYTHING,
        max_bytes: int = EVERYTHING,
    ) -> None:
        """The page reaches the requested end or is full, and is full only with a message."""
        read = messages(got.entries)
        size = sum(map(len_of, read))
        assert len(read) <= limit
        assert size <= max_bytes or len(read) == 1
        end = max(after, min(up_to, self.head))
        if got.complete:
            assert got.up_to == end
            return
        assert got.up_to == read[-1].offset
        following = next(
            each
            for each in self.published[got.up_to : end]
            if each.priority is got.lane and self.is_readable(each) and reader.may_have(each)
        )
        assert len(read) == limit or size + following.size > max_bytes

    def is_readable(self, published: Message) -> bool:
        log = (published.topic, published.to_user, published.priority)
        return published in self.held[log] and not published.has_expired(self.now)

    def check_messages(self, got: Page, reader: Reader, after: int) -> None:
        """The page has readable messages of the lane only, the newest of each key, in order."""
        position = after
        for entry in got.entries:
            first, last = (
                (entry.first, entry.last)
                if isinstance(entry, Gap)
                else (entry.offset, entry.offset)
            )
            assert position < first <= last <= got.up_to
            assert entry.priority is got.lane
            position = last
        for each in messages(got.entries):
            assert reader.may_have(each)
            assert self.is_readable(each)
            assert each not in self.superseded

    def check_gaps(self, got: Page, reader: Reader, after: int) -> None:
        """Every gap has a cause, and a count that is known is exact."""
        lost = [
            each
            for each in self.lost
            if each.priority is got.lane and reader.may_have(each) and each.offset > after
        ]
        for gap in gaps(got.entries):
            if gap.count is None:
                self.check_unknown(gap)
                continue
            within = [each for each in lost if gap.first <= each.offset <= gap.last]
            assert gap.count == len(within) > 0
            assert gap.topics == tuple(sorted({each.topic for each in within}))

    def check_unknown(self, gap: Gap) -> None:
        """Every count must be known, because little was published in this machine."""
        raise AssertionError(gap)

    def check_nothing_is_missing(self, got: Page, reader: Reader, after: int) -> None:
        """Each message is on the page, superseded, expired, or within a gap of its topic."""
        for each in self.published[after : got.up_to]:
            if each.priority is got.lane and reader.may_have(each):
                assert (
                    each in got.entries
                    or each in self.superseded
                    or each.has_expired(self.now)
                    or any(covers(gap, each) for gap in gaps(got.entries))
                )

    @rule(lane=lanes, after=begins, reader=readers, limit=st.integers(1, 4))
    def read_on(self, lane: Priority, after: int, reader: Reader, limit: int) -> None:
        """Consecutive small pages give the same entries as one large page."""
        whole = page(self.history, lane, after, reader.held, reader.user, now=self.now)
        entries: Read = ()
        position, complete = after, False
        while not complete:
            got = page(
                self.history, lane, position, reader.held, reader.user, limit=limit, now=self.now
            )
            assert got.up_to > position or got.complete
            position, complete, entries = got.up_to, got.complete, entries + got.entries
        assert entries == whole.entries
        assert position == whole.up_to

    @rule(marks=st.tuples(*[begins] * 4), reader=readers)
    def summarize(self, marks: tuple[int, int, int, int], reader: Reader) -> None:
        """A summary counts exactly the entries that a resume then reads."""
        cursor = Cursor(tuple(map(Offset, marks)))  # type: ignore[arg-type]
        summary = self.history.summarize(
            cursor,
            {name: Offset(since) for name, since in reader.held.items()},
            reader.user,
            self.now,
        )
        by_lane = {
            lane: page(
                self.history, lane, cursor[lane], reader.held, reader.user, now=self.now
            ).entries
            for lane in Priority
        }
        assert summary.empty_lanes == {lane for lane, entries in by_lane.items() if not entries}
        assert summary.empty_up_to == self.history.head
        read = sum(by_lane.values(), ())
        assert summary.replay == len(messages(read))
        lost = gaps(read)
        assert (summary.gap is None) is (not lost)
        if summary.gap is not None:
            counts = [each.count for each in lost]
            assert summary.gap.count == (None if None in counts else sum(filter(None, counts)))
            assert set(summary.gap.topics) == {topic for each in lost for topic in each.topics}

    # -- at every step -------------------------------------------------------------------------

    @invariant()
    def is_read_from_the_beginning(self) -> None:
        """A reader of everything gets each message of every lane, or a gap that covers it."""
        for lane in Priority:
            self.read_by(Reader(dict.fromkeys(TOPICS, 0), ANN), lane)

    @invariant()
    def holds_what_the_lists_hold(self) -> None:
        """Each log holds the newest messages within its bounds, and all logs within theirs."""
        for log, held in self.held.items():
            assert self.actual(log) == held
            assert len(held) <= self.keep.limit
            assert sum(map(len_of, held)) <= self.keep.max_bytes
        assert self.history.held_bytes == self.size() <= self.keep.total_bytes
        assert len(self.history) == sum(map(len, self.held.values()))
        assert self.history.head == self.head

    @invariant()
    def knows_how_far_each_log_was_trimmed(self) -> None:
        """`trimmed_through` is the newest lost message, or an offset beyond it in the subclass."""
        for log in self.held:
            topic, user, lane = log
            newest = max((each.offset for each in self.lost if log_of(each) == log), default=0)
            self.check_trimmed(self.history.trimmed_through(topic, lane, user), newest)

    def check_trimmed(self, actual: int, expected: int) -> None:
        assert actual == expected

    def teardown(self) -> None:
        """Restore the constant."""
        self.patch.undo()


def len_of(message: Message) -> int:
    """Return the size in bytes."""
    return message.size


def log_of(message: Message) -> Log:
    """Return the log that a message belongs to."""
    return message.topic, message.to_user, message.priority


def covers(gap: Gap, lost: Message) -> bool:
    """True if the gap covers the offset and the topic of a lost message."""
    named = not gap.topics or any(matches(name, lost.topic) for name in gap.topics)
    return named and gap.first <= lost.offset <= gap.last


class ForgetfulHistoryMachine(HistoryMachine):
    """The same with more topics than `max_logs`, and more losses than offsets kept."""

    max_logs = st.integers(1, 5)
    remembered = 2

    def check_unknown(self, gap: Gap) -> None:
        """A message of this lane was lost in the gap or after it."""
        lost = [each.offset for each in self.lost if each.priority is gap.priority]
        assert max(lost) >= gap.first

    def check_trimmed(self, actual: int, expected: int) -> None:
        assert actual >= expected


TestHistory = HistoryMachine.TestCase
TestHistory.settings = settings(stateful_step_count=40)
TestForgetfulHistory = ForgetfulHistoryMachine.TestCase
TestForgetfulHistory.settings = settings(stateful_step_count=40)
