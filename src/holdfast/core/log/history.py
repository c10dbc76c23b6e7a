"""History: the log, kept per topic, user and lane, each part within its own bounds.

A busy topic cannot push out a quiet one, nor LOW push out CRITICAL. A message superseded by a
newer one of its key is forgotten at once, and one whose ttl has passed may be; neither is a loss.
What is trimmed otherwise is: each log knows through which offset, and how many messages.
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
from .topic_log import REMEMBERED, TopicLog

Address = tuple[str, UserId | None]
Logs = tuple[TopicLog, ...]


class History:
    """The messages of one epoch, by address (topic and user) and lane.

    Invariants (tests/core/log/test_history.py runs it beside a plain list of all messages):

    - every log is within its `Retention`, and what is held in all within `total_bytes`;
    - between a position and the head, each message of a log is in `page`, superseded by a newer
      one that is, expired, or within a gap in `page`;
    - a gap is in `page` only if a message after the position was trimmed, and its count, if
      known, is exact, wherever the reading is cut off and begun again.

    A read costs the logs that the subscriptions name or their patterns cover.
    """

    def __init__(self, retention: Retention | None = None) -> None:
        self.retention = retention or Retention()
        self.head: Offset = OFFSET_ZERO
        self._logs: OrderedDict[Address, Logs] = OrderedDict()
        self._addresses: Counter[str] = Counter()  # how many addresses each topic has
        self._names = TopicTree()
        self._subjects: dict[tuple[str, str | None, str], tuple[Priority, Offset]] = {}
        self._bytes: int = 0
        self._floor = [OFFSET_ZERO] * 4

    @property
    def held_bytes(self) -> int:
        """The bytes of all messages that are held."""
        return self._bytes

    def __len__(self) -> int:
        return sum(log.live for logs in self._logs.values() for log in logs)

    def append(self, message: Message, now: float) -> None:
        """Add the next message; its offset is `head + 1`."""
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
        self._trim(log, now)
        self._trim_all(now)

    def _add_address(self, topic: str, user: UserId | None) -> Logs:
        logs = self._logs[topic, user] = tuple(map(TopicLog, self._floor))
        self._addresses[topic] += 1
        self._names.add(topic)
        return logs

    def trim(self, now: float) -> None:
        """Apply the bound by age to every log; the sweep calls it."""
        for logs in self._logs.values():
            for log in logs:
                self._trim(log, now)

    def trimmed_through(self, topic: str, lane: Priority, user: UserId | None = None) -> Offset:
        """The offset up to which messages of this log are gone; 0 when none is."""
        logs = self._logs.get((topic, user))
        return logs[lane].trimmed_through if logs else self._floor[lane]

    def page(
        self, request: PageRequest, subscriptions: Subscriptions, user: UserId | None, now: float
    ) -> Page:
        """Read on in one lane, to the head at most.

        Gaps stand among the messages, each for what was trimmed between its neighbours.
        """
        if request.up_to > self.head:
            request = replace(request, up_to=self.head)
        return page_of(request, self._read(request.lane, subscriptions, user), now)

    def summarize(
        self, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None, now: float
    ) -> ReplaySummary:
        """What a resume from `cursor` has before it."""
        replay, lost, empty = 0, None, set(LANES)
        for lane in BEST_FIRST:
            for topic, log, since in self._read(lane, subscriptions, user):
                begin = max(cursor[lane], since)
                if log.last <= begin:
                    continue
                waiting, count = log.count(begin, now), log.lost(begin, self.head)
                replay += waiting
                if waiting or count != 0:
                    empty.discard(lane)
                if count != 0:
                    gap = Gap(lane, begin, log.trimmed_through, (topic,), count)
                    lost = gap if lost is None else lost.merged(gap)
        return ReplaySummary(replay, lost, frozenset(empty), self.head)

    # -- reading -----------------------------------------------------------------------------

    def _read(
        self, lane: Priority, subscriptions: Subscriptions, user: UserId | None
    ) -> Iterator[LogSlice]:
        """Each log of `lane` that the subscriptions cover, once, with its `since`.

        For what was dropped altogether (`max_logs`) stands an empty log, trimmed to the floor;
        for a pattern it has the pattern's name.
        """
        readers = (None,) if user is None else (None, user)
        for topic, since in self._topics(subscriptions, readers).items():
            complete = True
            for reader in readers:
                logs = self._logs.get((topic, reader))
                if logs is not None:
                    yield topic, logs[lane], since
                else:
                    complete = False
            if not complete and self._floor[lane] > since:
                yield topic, TopicLog(self._floor[lane]), since

    def _topics(
        self, subscriptions: Subscriptions, readers: tuple[UserId | None, ...]
    ) -> Subscriptions:
        """The subscriptions, and each topic that a pattern among them covers."""
        if not any(map(is_pattern, subscriptions)):
            return subscriptions
        found = dict(subscriptions)
        for expression, since in subscriptions.items():
            if is_pattern(expression):
                for topic in self._names.match(expression):
                    if any((topic, reader) in self._logs for reader in readers):
                        found[topic] = min(since, found.get(topic, since))
        return found

    # -- trimming ----------------------------------------------------------------------------

    def _supersede(self, message: Message, logs: Logs) -> None:
        assert message.subject is not None
        older = self._subjects.get(message.subject)
        if older is not None:
            lane, offset = older
            log = logs[lane]
            self._bytes -= log.bytes
            log.remove(offset)
            self._bytes += log.bytes
        self._subjects[message.subject] = (message.priority, message.offset)

    def _trim(self, log: TopicLog, now: float) -> None:
        keep = self.retention
        while log.live > keep.limit or log.bytes > keep.max_bytes:
            self._drop_oldest(log, now)
        if keep.age is None:
            return
        while (oldest := log.oldest()) is not None and oldest.timestamp + keep.age <= now:
            self._drop_oldest(log, now)

    def _trim_all(self, now: float) -> None:
        while len(self._logs) > self.retention.max_logs:
            self._drop_address(now)
        if self._bytes > self.retention.total_bytes:
            self._shrink(self.retention.total_bytes * 7 // 8, now)

    def _drop_address(self, now: float) -> None:
        """Drop the address that was longest not written to."""
        (topic, _), logs = self._logs.popitem(last=False)
        self._addresses[topic] -= 1
        if not self._addresses[topic]:
            del self._addresses[topic]
            self._names.remove(topic)
        for lane, log in zip(Priority, logs, strict=True):
            while log.live:
                self._drop_oldest(log, now)
            self._floor[lane] = max(self._floor[lane], log.trimmed_through)

    def _shrink(self, total: int, now: float) -> None:
        """Halve the largest log again and again, lowest lane first, down to `total` bytes."""
        for lane in Priority:
            logs = [logs[lane] for logs in self._logs.values() if logs[lane].live]
            largest = [(-log.bytes, number) for number, log in enumerate(logs)]
            heapify(largest)
            while self._bytes > total and largest:
                log = logs[(number := heappop(largest)[1])]
                for _ in range((log.live + 1) // 2):
                    self._drop_oldest(log, now)
                if log.live:
                    heappush(largest, (-log.bytes, number))

    def _drop_oldest(self, log: TopicLog, now: float) -> None:
        message = log.pop_oldest()
        if message is None:
            return
        self._bytes -= len(message.body)
        subject = message.subject
        if subject is not None and self._subjects.get(subject, (None, 0))[1] == message.offset:
            del self._subjects[subject]
        if not message.has_expired(now):
            log.note_trimmed(message.offset, max(self.retention.limit, REMEMBERED))
