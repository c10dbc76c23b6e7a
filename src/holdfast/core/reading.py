"""Reading the log: what is asked, what is answered, and how many logs become one page."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import merge

from .message import Gap, Message, Offset, Priority
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


Located = tuple[str, TopicLog, Offset]
"""A topic, its log in one lane, and the `since` of whoever reads it."""


def page_of(request: PageRequest, logs: Iterable[Located], now: float) -> Page:
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
        if message.has_expired(now):
            continue
        if messages and (len(messages) >= limit or size + message.size > max_bytes):
            cut = True
            break
        messages.append(message)
        size += message.size
    through = messages[-1].offset if cut else max(up_to, after)
    gaps: dict[int, Gap] = {}
    offsets = [message.offset for message in messages]
    for topic, log, begin in wanted:
        for first, last, count in log.runs(begin, through, offsets):
            gap, place = Gap(lane, first, last, (topic,), count), bisect_left(offsets, first)
            gaps[place] = gaps[place].merged(gap) if place in gaps else gap
    entries: list[Message | Gap] = []
    for place in range(len(messages) + 1):
        entries += [gaps[place]] if place in gaps else []
        entries += messages[place : place + 1]
    return Page(lane, tuple(entries), through, complete=not cut)


def _offset(message: Message) -> Offset:
    return message.offset
