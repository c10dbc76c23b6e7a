"""Reading the log: what is asked, what is answered, and how many logs become one page."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge

from ..cursor import Cursor, Epoch, EventId
from ..message import OFFSET_ZERO, Gap, Message, Offset, Priority
from .topic_log import TopicLog

Subscriptions = Mapping[str, Offset]
"""Topic or pattern → `since`: what was published up to that offset is not disclosed."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What to read next from History: in `lane`, after `after`, up to and including `up_to`.

    At most `limit` messages and `max_bytes`, but at least one message if there is any.
    """

    lane: Priority
    after: Offset
    up_to: Offset
    limit: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of one lane: everything after where it began, up to and including `through`.

    `gaps[n]` stands before `messages[n]`, or at the end; `size` is the bytes of all bodies.
    `complete`: it ends where the reader wanted, and not because it is full.
    """

    lane: Priority
    messages: tuple[Message, ...]
    gaps: Mapping[int, Gap]
    size: int
    through: Offset
    complete: bool

    @property
    def entries(self) -> tuple[Message | Gap, ...]:
        """The messages, each gap in its place among them."""
        found: list[Message | Gap] = []
        for place in range(len(self.messages) + 1):
            found += [self.gaps[place]] if place in self.gaps else []
            found += self.messages[place : place + 1]
        return tuple(found)


@dataclass(frozen=True, slots=True)
class DirectPage:
    """A page that was handed over as it is, with one message at least, and no gap.

    The connection stood at `before`, and stands at `after`.
    """

    page: Page
    before: Cursor
    after: Cursor

    def cursors(self) -> Iterator[Cursor]:
        """Where the connection was right after each message."""
        for mark in self._marks():
            yield self.before.with_mark(self.page.lane, mark)
        yield self.after

    def ids(self, epoch: Epoch, token: str) -> list[str]:
        """Those as event ids; most of such an id is the same for the whole page."""
        ids = EventId(epoch, self.before, token).format_series(self.page.lane, self._marks())
        return [*ids, str(EventId(epoch, self.after, token))]

    def _marks(self) -> list[Offset]:
        """What its lane is settled up to, after each message but the last."""
        return [Offset(following.offset - 1) for following in self.page.messages[1:]]


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What lies between a position and the head: messages to replay, and what is lost.

    `lost` is `None` when nothing is; `lost.count` may be unknown. Its lane is not meaningful.
    Up to `through`, nothing stands in the lanes `empty`: they need not be read.
    """

    replay: int
    lost: Gap | None
    empty: frozenset[Priority] = frozenset()
    through: Offset = OFFSET_ZERO


LogSlice = tuple[str, TopicLog, Offset]
"""A topic, its log in one lane, and the `since` of whoever reads it."""


def page_of(request: PageRequest, logs: Iterable[LogSlice], now: float) -> Page:
    """The answer to `request`, whose `up_to` the logs reach, from the logs that it concerns."""
    lane, after, up_to = request.lane, request.after, request.up_to
    limit, max_bytes = request.limit, request.max_bytes
    wanted = [
        (topic, log, max(after, since))
        for topic, log, since in logs
        if log.last > max(after, since)
    ]
    streams = [log.after(begin) for _, log, begin in wanted]
    messages, size, cut = list[Message](), 0, False
    for message in streams[0] if len(streams) == 1 else merge(*streams, key=_offset):
        if message.offset > up_to:
            break
        if message.expires_at is not None and message.has_expired(now):
            continue
        grown = size + len(message.body)
        if (grown > max_bytes or len(messages) >= limit) and messages:
            cut = True
            break
        size = grown
        messages.append(message)
    through = messages[-1].offset if cut else max(up_to, after)
    gaps: dict[int, Gap] = {}
    for topic, log, begin in wanted:
        if log.trimmed_through <= begin:
            continue
        offsets = [message.offset for message in messages]
        for first, last, count in log.runs(begin, through, offsets):
            gap, place = Gap(lane, first, last, (topic,), count), bisect_left(offsets, first)
            gaps[place] = gaps[place].merged(gap) if place in gaps else gap
    return Page(lane, tuple(messages), gaps, size, through, complete=not cut)


def _offset(message: Message) -> Offset:
    return message.offset
