"""History: all messages of a log, by topic, user and lane, each part within its own bounds.

A busy topic cannot push out a quiet one, and LOW messages cannot push out CRITICAL ones, because
each has a `TopicLog` of its own with bounds of its own. A message that a newer one of its key
supersedes is dropped at once, and an expired message is dropped when it is trimmed; neither is a
loss. Every other trimmed message is a loss, and its `TopicLog` counts it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from heapq import heapify, heappop, heappush

from ..cursor import Cursor
from ..message import BEST_FIRST, LANES, OFFSET_ZERO, Gap, Message, Offset, Priority, UserId
from ..topics import TopicTree, is_pattern
from .pages import LogSlice, Page, PageRequest, ReplaySummary, Subscriptions, page_of
from .retention import Retention
from .topic_log import MIN_TRIMMED_OFFSETS, TopicLog

Address = tuple[str, UserId | None]
"""A topic, and the only user who may read the messages, or `None` for all users."""

Logs = tuple[TopicLog, ...]
"""The logs of one address, by lane."""


class History:
    """The messages of one epoch, by address and lane.

    Invariants (the state machine in tests/core/log/test_history.py, which compares with a plain
    list of all messages):

    - every log is within its `Retention`, and all held messages together within `total_bytes`;
    - between a position and the head, each message of a log is on a page, or superseded by a
      newer message that is, or expired, or within a gap on a page;
    - a gap is on a page only if a message after the position was trimmed. Its count, if it has
      one, is exact, wherever the reader is cut off and resumes.

    A read costs time in proportion to the logs that the subscriptions name or match.

    Args:
        retention: The bounds; the default is `Retention()`.
    """

    def __init__(self, retention: Retention | None = None) -> None:
        self.retention = retention or Retention()
        self.head: Offset = OFFSET_ZERO
        """The offset of the newest message."""
        self._logs: OrderedDict[Address, Logs] = OrderedDict()  # least recently written first
        self._addresses: Counter[str] = Counter()  # topic → number of its addresses in _logs
        self._topics = TopicTree()  # the topics in _addresses, to be matched by patterns
        # Subject → lane and offset of its newest message, to find the message it supersedes.
        self._subjects: dict[tuple[str, str | None, str], tuple[Priority, Offset]] = {}
        self._bytes: int = 0
        # By lane: the highest trimmed offset of all addresses that were dropped (`max_logs`). A
        # log that is not in _logs may have lost messages up to there, in an unknown number.
        self._dropped_through = [OFFSET_ZERO] * 4

    @property
    def held_bytes(self) -> int:
        """The bytes of the bodies of all messages that are held."""
        return self._bytes

    def __len__(self) -> int:
        return sum(log.held for logs in self._logs.values() for log in logs)

    def append(self, message: Message, now: float) -> None:
        """Add the next message, and trim what exceeds the retention.

        Args:
            message: The message; its offset is `head + 1`.
            now: Seconds since the Unix epoch.

        Raises:
            ValueError: The offset does not follow `head`; the history is unchanged.
        """
        if message.offset != self.head + 1:
            raise ValueError(f"offset {message.offset} does not follow {self.head}")
        self.head = message.offset
        address, lane = (message.topic, message.to_user), message.priority
        logs = self._logs.get(address)
        if logs is None:
            logs = self._add_address(*address)
        else:
            self._logs.move_to_end(address)
        if message.subject is not None:
            self._supersede(message, logs)
        log = logs[lane]
        log.append(message)
        self._bytes += len(message.body)
        self._trim_log(log, now)
        self._trim_total(now)

    def _add_address(self, topic: str, user: UserId | None) -> Logs:
        logs = self._logs[topic, user] = tuple(map(TopicLog, self._dropped_through))
        self._addresses[topic] += 1
        self._topics.add(topic)
        return logs

    def trim(self, now: float) -> None:
        """Apply the retention to every log, because messages also age while nothing is appended.

        Args:
            now: Seconds since the Unix epoch.
        """
        for logs in self._logs.values():
            for log in logs:
                self._trim_log(log, now)

    def trimmed_through(self, topic: str, lane: Priority, user: UserId | None = None) -> Offset:
        """Return the offset of the newest trimmed message of a log, 0 if none was trimmed."""
        logs = self._logs.get((topic, user))
        return logs[lane].trimmed_through if logs else self._dropped_through[lane]

    def page(
        self, request: PageRequest, subscriptions: Subscriptions, user: UserId | None, now: float
    ) -> Page:
        """Return the next messages and gaps of one lane.

        Args:
            request: The lane and the range; a range beyond the head ends at the head.
            subscriptions: The topics and patterns of the reader.
            user: The reader, whose personal messages are included.
            now: Seconds since the Unix epoch; expired messages are left out.
        """
        if request.up_to > self.head:
            request = replace(request, up_to=self.head)
        return page_of(request, self._slices(request.lane, subscriptions, user), now)

    def summarize(
        self, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None, now: float
    ) -> ReplaySummary:
        """Count the messages and losses between `cursor` and the head.

        The arguments are those of `page`.
        """
        replay, total_gap, empty = 0, None, set(LANES)
        for lane in BEST_FIRST:
            for topic, log, since in self._slices(lane, subscriptions, user):
                begin = max(cursor[lane], since)
                if log.last_offset <= begin:
                    continue
                held, lost = log.count_after(begin, now), log.count_trimmed(begin, self.head)
                replay += held
                if held or lost != 0:
                    empty.discard(lane)
                if lost != 0:
                    gap = Gap(lane, begin, log.trimmed_through, (topic,), lost)
                    total_gap = gap if total_gap is None else total_gap.merged(gap)
        return ReplaySummary(replay, total_gap, frozenset(empty), self.head)

    # -- which logs a reader may see ---------------------------------------------------------

    def _slices(
        self, lane: Priority, subscriptions: Subscriptions, user: UserId | None
    ) -> Iterator[LogSlice]:
        """Yield each log of `lane` that the subscriptions cover, once.

        A log that was dropped (`max_logs`) is represented by an empty log with the losses of all
        dropped logs. For a pattern, that log has the name of the pattern, because the names of the
        dropped topics are no longer known.
        """
        users = (None,) if user is None else (None, user)
        for topic, since in self._matched_topics(subscriptions, users).items():
            may_be_dropped = False
            for addressee in users:
                logs = self._logs.get((topic, addressee))
                if logs is not None:
                    yield topic, logs[lane], since
                else:
                    may_be_dropped = True
            if may_be_dropped and self._dropped_through[lane] > since:
                yield topic, TopicLog(self._dropped_through[lane]), since

    def _matched_topics(
        self, subscriptions: Subscriptions, users: tuple[UserId | None, ...]
    ) -> Subscriptions:
        """Return the subscriptions, and each topic that a pattern among them matches.

        A topic that several expressions match gets the lowest `since`.
        """
        if not any(map(is_pattern, subscriptions)):
            return subscriptions
        matched = dict(subscriptions)
        for expression, since in subscriptions.items():
            if is_pattern(expression):
                for topic in self._topics.match(expression):
                    if any((topic, user) in self._logs for user in users):
                        matched[topic] = min(since, matched.get(topic, since))
        return matched

    # -- trimming ----------------------------------------------------------------------------

    def _supersede(self, message: Message, logs: Logs) -> None:
        """Remove the older message of the same subject, in whichever lane it is."""
        assert message.subject is not None
        older = self._subjects.get(message.subject)
        if older is not None:
            lane, offset = older
            log = logs[lane]
            self._bytes -= log.held_bytes
            log.remove(offset)
            self._bytes += log.held_bytes
        self._subjects[message.subject] = (message.priority, message.offset)

    def _trim_log(self, log: TopicLog, now: float) -> None:
        keep = self.retention
        while log.held > keep.limit or log.held_bytes > keep.max_bytes:
            self._trim_oldest(log, now)
        if keep.age is None:
            return
        while (oldest := log.oldest()) is not None and oldest.timestamp + keep.age <= now:
            self._trim_oldest(log, now)

    def _trim_total(self, now: float) -> None:
        while len(self._logs) > self.retention.max_logs:
            self._drop_address(now)
        if self._bytes > self.retention.total_bytes:
            # An eighth below the bound, so that the next messages do not trim again at once.
            self._reduce_to(self.retention.total_bytes * 7 // 8, now)

    def _drop_address(self, now: float) -> None:
        """Drop the address that was written to the longest ago."""
        (topic, _), logs = self._logs.popitem(last=False)
        self._addresses[topic] -= 1
        if not self._addresses[topic]:
            del self._addresses[topic]
            self._topics.remove(topic)
        for lane, log in zip(Priority, logs, strict=True):
            while log.held:
                self._trim_oldest(log, now)
            self._dropped_through[lane] = max(self._dropped_through[lane], log.trimmed_through)

    def _reduce_to(self, total: int, now: float) -> None:
        """Halve the largest log until `total` bytes are held; LOW is emptied before NORMAL."""
        for lane in Priority:
            logs = [logs[lane] for logs in self._logs.values() if logs[lane].held]
            largest = [(-log.held_bytes, index) for index, log in enumerate(logs)]
            heapify(largest)
            while self._bytes > total and largest:
                index = heappop(largest)[1]
                log = logs[index]
                for _ in range((log.held + 1) // 2):
                    self._trim_oldest(log, now)
                if log.held:
                    heappush(largest, (-log.held_bytes, index))

    def _trim_oldest(self, log: TopicLog, now: float) -> None:
        """Remove the oldest message of `log`, and count it as lost unless it has expired."""
        message = log.pop_oldest()
        if message is None:
            return
        self._bytes -= len(message.body)
        subject = message.subject
        if subject is not None and self._subjects.get(subject, (None, 0))[1] == message.offset:
            del self._subjects[subject]
        if not message.has_expired(now):
            log.add_trimmed(message.offset, max(self.retention.limit, MIN_TRIMMED_OFFSETS))
