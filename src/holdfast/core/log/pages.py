"""Reads of the log: what a reader requests, what it gets, and how several logs become one page."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge

from ..cursor import Cursor, Epoch, EventId
from ..message import OFFSET_ZERO, Gap, Message, Offset, Priority
from .topic_log import TopicLog

Subscriptions = Mapping[str, Offset]
"""Topic or pattern → `since`, the offset after which its messages are disclosed.

Example: a client subscribes to `orders` when the log is at offset 8. Its `since` is 8, and a
resume from position 3 does not show it what was published in `orders` between 3 and 8.
"""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for the next messages of one lane.

    Attributes:
        lane: The lane.
        after: The offset after which the page begins.
        up_to: The offset at which the page ends, inclusive.
        limit: Messages in the page, at most.
        max_bytes: Bytes of all bodies, at most; one message is returned even if it is larger.
    """

    lane: Priority
    after: Offset
    up_to: Offset
    limit: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """The messages and gaps of one lane after `PageRequest.after`, up to and including `up_to`.

    Example: messages 4 and 7 with `gaps` {1: a gap from 5 to 6} and `up_to` 9. Message 4 comes
    first, then the gap, then message 7. Offsets 8 and 9 belong to other lanes or topics.

    Attributes:
        lane: The lane.
        messages: The messages in offset order.
        gaps: The gap to report before `messages[n]`, by n; `len(messages)` means after the last.
        size: Bytes of all bodies.
        up_to: The end of the page, and `after` of the request for the next page.
        complete: True if the page reaches the requested `up_to`, False if it is full.
    """

    lane: Priority
    messages: tuple[Message, ...]
    gaps: Mapping[int, Gap]
    size: int
    up_to: Offset
    complete: bool

    @property
    def entries(self) -> tuple[Message | Gap, ...]:
        """The messages and the gaps in the order of the log."""
        entries: list[Message | Gap] = []
        for index in range(len(self.messages) + 1):
            if index in self.gaps:
                entries.append(self.gaps[index])
            entries += self.messages[index : index + 1]
        return tuple(entries)


@dataclass(frozen=True, slots=True)
class DirectPage:
    """A page that is sent without passing the buffer: at least one message, and no gap.

    Attributes:
        page: The page.
        before: The cursor of the connection before the page.
        after: The cursor of the connection after the page.
    """

    page: Page
    before: Cursor
    after: Cursor

    def cursors(self) -> Iterator[Cursor]:
        """Yield the cursor of the connection after each message."""
        for mark in self._marks():
            yield self.before.with_mark(self.page.lane, mark)
        yield self.after

    def ids(self, epoch: Epoch, token: str) -> list[str]:
        """Return the event id of each message: that of `cursors`, formatted for all at once."""
        ids = EventId(epoch, self.before, token).format_series(self.page.lane, self._marks())
        return [*ids, str(EventId(epoch, self.after, token))]

    def _marks(self) -> list[Offset]:
        """Return the mark of the page's lane after each message except the last."""
        return [Offset(following.offset - 1) for following in self.page.messages[1:]]


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """The messages and losses between a cursor and the head of the log, as counts.

    Attributes:
        replay: The number of messages to replay.
        gap: All losses in one gap, `None` if nothing was lost. Its lane has no meaning.
        empty_lanes: Lanes with neither messages nor losses; they need not be read.
        empty_up_to: The offset up to which `empty_lanes` holds.
    """

    replay: int
    gap: Gap | None
    empty_lanes: frozenset[Priority] = frozenset()
    empty_up_to: Offset = OFFSET_ZERO


LogSlice = tuple[str, TopicLog, Offset]
"""(topic, log, since): the part of a log that a reader may see, which begins after `since`."""


def page_of(request: PageRequest, slices: Iterable[LogSlice], now: float) -> Page:
    """Merge the logs of one lane into the page that `request` describes.

    Args:
        request: The request; the logs are known to be complete up to `request.up_to`.
        slices: Every log of that lane that the reader may see.
        now: Seconds since the Unix epoch; expired messages are left out.
    """
    lane, after, up_to = request.lane, request.after, request.up_to
    limit, max_bytes = request.limit, request.max_bytes
    slices = [
        (topic, log, max(after, since))
        for topic, log, since in slices
        if log.last_offset > max(after, since)
    ]
    streams = [log.messages_after(begin) for _, log, begin in slices]
    messages, size, is_full = list[Message](), 0, False
    for message in streams[0] if len(streams) == 1 else merge(*streams, key=_offset):
        if message.offset > up_to:
            break
        if message.expires_at is not None and message.has_expired(now):
            continue
        size_with = size + len(message.body)
        if (size_with > max_bytes or len(messages) >= limit) and messages:
            is_full = True
            break
        size = size_with
        messages.append(message)
    end = messages[-1].offset if is_full else max(up_to, after)
    gaps: dict[int, Gap] = {}
    for topic, log, begin in slices:
        if log.trimmed_through <= begin:
            continue
        offsets = [message.offset for message in messages]
        for first, last, count in log.trimmed_ranges(begin, end, offsets):
            gap, index = Gap(lane, first, last, (topic,), count), bisect_left(offsets, first)
            gaps[index] = gaps[index].merged(gap) if index in gaps else gap
    return Page(lane, tuple(messages), gaps, size, end, complete=not is_full)


def _offset(message: Message) -> Offset:
    return message.offset
