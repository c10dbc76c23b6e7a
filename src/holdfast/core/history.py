"""History: the log, kept per topic, user and lane, each part within its own bounds.

A busy topic cannot push out a quiet one, nor LOW push out CRITICAL. A message superseded by a
newer one of its key is forgotten at once, and one whose ttl has passed may be; neither is a loss.
What is trimmed otherwise is: each log knows through which offset, and how many messages.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, merge
from itertools import islice

from .cursor import Cursor
from .message import BEST_FIRST, Gap, Message, Offset, Priority, UserId
from .topics import is_pattern, matches

REMEMBERED = 1024
"""Of how many trimmed messages the offset is kept, so that gaps can say exactly what is lost."""

Subscriptions = Mapping[str, Offset]
"""Topic or pattern → `since`: what was published up to that offset is not disclosed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The bounds of one log (one topic, one lane), and of all of them together.

    `limit` in messages, `age` in seconds (`None`: no bound by age), `max_bytes` per log,
    `total_bytes` and `max_logs` for the whole history.
    """

    limit: int = 1000
    age: float | None = 3600.0
    max_bytes: int = 16 * 1024 * 1024
    total_bytes: int = 256 * 1024 * 1024
    max_logs: int = 100_000


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of one lane: everything after where it began, up to and including `through`.

    `complete`: it ends where the reader wanted, and not because it is full.
    """

    lane: Priority
    entries: tuple[Message | Gap, ...]
    through: Offset
    complete: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies between a position and the head: messages to replay, and what is lost.

    `lost` is `None` when nothing is; `lost.count` may be unknown. Its lane is not meaningful.
    """

    replay: int
    lost: Gap | None


class _Log:
    """One topic's messages of one lane, for all or for one user: two parallel lists.

    Superseded messages leave a hole in `messages`, compacted when holes prevail; the front is
    trimmed by moving `start`. `trimmed` remembers the offsets that were trimmed, newest last.
    """

    __slots__ = ("bytes", "forgotten", "live", "messages", "offsets", "start", "trimmed")

    def __init__(self, forgotten: Offset) -> None:
        self.offsets: list[Offset] = []
        self.messages: list[Message | None] = []
        self.start = 0
        self.live = 0
        self.bytes = 0
        self.trimmed = array("q")
        self.forgotten = forgotten  # how far not even the number of lost messages is known

    @property
    def trimmed_through(self) -> Offset:
        return Offset(self.trimmed[-1]) if self.trimmed else self.forgotten

    @property
    def last(self) -> Offset:
        return self.offsets[-1] if self.offsets else self.trimmed_through

    def append(self, message: Message) -> None:
        self.offsets.append(message.offset)
        self.messages.append(message)
        self.live += 1
        self.bytes += message.size

    def remove(self, offset: Offset) -> None:
        """Forget a superseded message, if it is still here."""
        index = bisect_right(self.offsets, offset, self.start) - 1
        if index < self.start or self.offsets[index] != offset:
            return
        message = self.messages[index]
        if message is not None:
            self.messages[index] = None
            self.live -= 1
            self.bytes -= message.size
        if len(self.messages) - self.start > 2 * self.live + 16:
            kept = [m for m in islice(self.messages, self.start, None) if m is not None]
            self.messages[:] = kept
            self.offsets[:] = [m.offset for m in kept]
            self.start = 0

    def pop_oldest(self) -> Message | None:
        """Remove and return the oldest message; `None` when there is none."""
        while self.start < len(self.messages):
            message, self.messages[self.start] = self.messages[self.start], None
            self.start += 1
            if self.start > 16 and 2 * self.start > len(self.messages):
                del self.messages[: self.start], self.offsets[: self.start]
                self.start = 0
            if message is not None:
                self.live -= 1
                self.bytes -= message.size
                return message
        return None

    def oldest(self) -> Message | None:
        for message in islice(self.messages, self.start, None):
            if message is not None:
                return message
        return None

    def note_trimmed(self, offset: Offset, limit: int) -> None:
        self.trimmed.append(offset)
        if len(self.trimmed) > 2 * limit:
            cut = len(self.trimmed) - limit
            self.forgotten = Offset(self.trimmed[cut - 1])
            del self.trimmed[:cut]

    def after(self, offset: Offset) -> Iterator[Message]:
        begin = bisect_right(self.offsets, offset, self.start)
        return (m for m in islice(self.messages, begin, None) if m is not None)

    def lost(self, after: Offset, up_to: Offset) -> int | None:
        """How many were trimmed after `after`, up to `up_to`; `None` if that is forgotten."""
        if after < min(self.forgotten, up_to):
            return None
        return max(0, bisect_right(self.trimmed, up_to) - bisect_right(self.trimmed, after))

    def runs(
        self, after: Offset, up_to: Offset, between: list[Offset]
    ) -> Iterator[tuple[Offset, Offset, int | None]]:
        """What was trimmed after `after`, up to `up_to`, as (first, last, how many).

        No run reaches over one of the offsets `between`, so that a reader who is cut off between
        two messages has been told exactly of what lies before the first.
        """
        forgotten = min(self.forgotten, up_to)
        first = after + 1
        for offset in between[bisect_left(between, first) :]:
            if offset > forgotten:
                break
            if first < offset:
                yield Offset(first), Offset(offset - 1), None
            first = offset + 1
        if first <= forgotten:
            yield Offset(first), forgotten, None
        start = bisect_right(self.trimmed, after)
        end = bisect_right(self.trimmed, up_to)
        while start < end:
            following = bisect_right(between, self.trimmed[start])
            stop = end
            if following < len(between):
                stop = bisect_right(self.trimmed, between[following], start, end)
            yield Offset(self.trimmed[start]), Offset(self.trimmed[stop - 1]), stop - start
            start = stop


Address = tuple[str, UserId | None]
_Logs = tuple[_Log, ...]


class History:
    """The messages of one epoch, by address (topic and user) and lane.

    Invariants (tests/core/test_history.py runs it beside a plain list of all messages):

    - every log is within its `Retention`, and what is held in all within `total_bytes`;
    - between a position and the head, each message of a log is in `page`, superseded by a newer
      one that is, expired, or within a gap in `page`;
    - a gap is in `page` only if a message after the position was trimmed, and its count, if
      known, is exact, wherever the reading is cut off and begun again.

    A read costs the logs that the subscriptions name (for a pattern: a scan of all topics).
    """

    def __init__(self, retention: Retention | None = None) -> None:
        self.retention = retention or Retention()
        self.head: Offset = Offset(0)
        self._logs: OrderedDict[Address, _Logs] = OrderedDict()
        self._subjects: dict[tuple[str, str | None, str], tuple[Priority, Offset]] = {}
        self._bytes = 0
        self._floor = [Offset(0), Offset(0), Offset(0), Offset(0)]

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
            logs = self._logs[address] = tuple(map(_Log, self._floor))
        else:
            self._logs.move_to_end(address)
        if message.subject is not None:
            self._supersede(message, logs)
        log = logs[lane]
        log.append(message)
        self._bytes += message.size
        self._trim(log, now)
        self._trim_all(now)

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
        self,
        lane: Priority,
        after: Offset,
        subscriptions: Subscriptions,
        user: UserId | None,
        *,
        up_to: Offset,
        limit: int,
        max_bytes: int,
        now: float,
    ) -> Page:
        """Read on in one lane, to `up_to` at most: `limit` messages, `max_bytes`, at least one.

        Gaps stand among the messages, each for what was trimmed between its neighbours.
        """
        end = min(up_to, self.head)
        logs = [
            (topic, log, max(after, since))
            for topic, log, since in self._read(lane, subscriptions, user)
            if log.last > max(after, since)
        ]
        streams = [log.after(begin) for _, log, begin in logs]
        messages, size, cut = list[Message](), 0, False
        for message in streams[0] if len(streams) == 1 else merge(*streams, key=_offset):
            if message.offset > end:
                break
            if message.has_expired(now):
                continue
            if messages and (len(messages) >= limit or size + message.size > max_bytes):
                cut = True
                break
            messages.append(message)
            size += message.size
        through = messages[-1].offset if cut else max(end, after)
        gaps: dict[int, Gap] = {}
        offsets = [message.offset for message in messages]
        for topic, log, begin in logs:
            for first, last, count in log.runs(begin, through, offsets):
                gap, place = Gap(lane, first, last, (topic,), count), bisect_left(offsets, first)
                gaps[place] = gaps[place].merged(gap) if place in gaps else gap
        entries: list[Message | Gap] = []
        for place in range(len(messages) + 1):
            entries += [gaps[place]] if place in gaps else []
            entries += messages[place : place + 1]
        return Page(lane, tuple(entries), through, complete=not cut)

    def survey(
        self, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None, now: float
    ) -> Survey:
        """What a resume from `cursor` has before it."""
        replay, lost = 0, None
        for lane in BEST_FIRST:
            for topic, log, since in self._read(lane, subscriptions, user):
                begin = max(cursor[lane], since)
                if log.last <= begin:
                    continue
                replay += sum(not message.has_expired(now) for message in log.after(begin))
                count = log.lost(begin, self.head)
                if count != 0:
                    gap = Gap(lane, begin, log.trimmed_through, (topic,), count)
                    lost = gap if lost is None else lost.merged(gap)
        return Survey(replay, lost)

    # -- reading -----------------------------------------------------------------------------

    def _read(
        self, lane: Priority, subscriptions: Subscriptions, user: UserId | None
    ) -> Iterator[tuple[str, _Log, Offset]]:
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
                yield topic, _Log(self._floor[lane]), since

    def _topics(
        self, subscriptions: Subscriptions, readers: tuple[UserId | None, ...]
    ) -> Subscriptions:
        """The subscriptions, and each topic that a pattern among them covers."""
        if not any(map(is_pattern, subscriptions)):
            return subscriptions
        found = dict(subscriptions)
        for expression, since in subscriptions.items():
            if is_pattern(expression):
                for topic, reader in self._logs:
                    if reader in readers and matches(expression, topic):
                        found[topic] = min(since, found.get(topic, since))
        return found

    # -- trimming ----------------------------------------------------------------------------

    def _supersede(self, message: Message, logs: _Logs) -> None:
        assert message.subject is not None
        older = self._subjects.get(message.subject)
        if older is not None:
            lane, offset = older
            log = logs[lane]
            self._bytes -= log.bytes
            log.remove(offset)
            self._bytes += log.bytes
        self._subjects[message.subject] = (message.priority, message.offset)

    def _trim(self, log: _Log, now: float) -> None:
        keep = self.retention
        while log.live > keep.limit or log.bytes > keep.max_bytes:
            self._drop_oldest(log, now)
        if keep.age is None:
            return
        while (oldest := log.oldest()) is not None and oldest.timestamp + keep.age <= now:
            self._drop_oldest(log, now)

    def _trim_all(self, now: float) -> None:
        while len(self._logs) > self.retention.max_logs:
            _, logs = self._logs.popitem(last=False)
            for lane, log in zip(Priority, logs, strict=True):
                while log.live:
                    self._drop_oldest(log, now)
                self._floor[lane] = max(self._floor[lane], log.trimmed_through)
        if self._bytes > self.retention.total_bytes:
            self._shrink(self.retention.total_bytes * 7 // 8, now)

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

    def _drop_oldest(self, log: _Log, now: float) -> None:
        message = log.pop_oldest()
        if message is None:
            return
        self._bytes -= message.size
        subject = message.subject
        if subject is not None and self._subjects.get(subject, (None, 0))[1] == message.offset:
            del self._subjects[subject]
        if not message.has_expired(now):
            log.note_trimmed(message.offset, max(self.retention.limit, REMEMBERED))


def _offset(message: Message) -> Offset:
    return message.offset
