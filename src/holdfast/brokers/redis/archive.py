"""Archive: reads from Redis what this process has not followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import chain
from typing import Any

from ...core.cursor import Cursor
from ...core.log.pages import LogSlice, Page, PageRequest, ReplaySummary, Subscriptions, page_of
from ...core.log.topic_log import TopicLog
from ...core.message import OFFSET_ZERO, Gap, Message, Offset, Priority, UserId
from ...core.topics import TopicTree, is_pattern
from . import entries, keys
from .line import Line, Then
from .script import Argument, End, Operation, text

STEP = 4096
"""Clients that ask for nearly the same stretch of a pattern's topics share one answer."""

PART = 3000
"""Addresses in one operation, at the most: Lua passes no more than 8,000 arguments."""

Address = tuple[str, UserId | None]
Changed = dict[UserId | None, TopicTree]


class Archive:
    """Pages and surveys of any stretch of the log; one per process.

    A page is one operation, and Redis merges the logs itself: its answer is as long as the page,
    and it looks at little more. A survey that has much to count is several.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._asked: dict[tuple[str, Offset, tuple[Argument, ...]], asyncio.Future[Any]] = {}

    async def page(
        self, request: PageRequest, subscriptions: Subscriptions, user: UserId | None
    ) -> Page:
        """One page of one lane (see `History.page`)."""
        lane, after, up_to = request.lane, request.after, request.up_to
        wanted = await self._addresses(after, subscriptions, user, up_to)
        head = (int(lane), up_to, request.limit, request.max_bytes)
        asked = [
            self._shared(
                Operation("page", (*head, *_flat(part, after))),
                partial(_excerpt, part, lane),
                up_to,
            )
            for part in _parts(wanted)
        ]
        excerpts: list[Excerpt] = [await each for each in asked]
        ends = [excerpt.through for excerpt in excerpts]
        logs = chain.from_iterable(excerpt.logs for excerpt in excerpts)
        page = page_of(replace(request, up_to=min(up_to, *ends)), logs, self._line.now())
        return replace(page, complete=page.complete and not any(each.is_cut for each in excerpts))

    async def summarize(
        self, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None
    ) -> ReplaySummary:
        """What lies between `cursor` and the head (see `History.summarize`)."""
        wanted = await self._addresses(min(cursor.marks), subscriptions, user, cursor.highest)
        replay, lost = 0, list[Gap]()
        for part in _parts(wanted):
            async for row in self._survey(part, cursor):
                number, lane, count, trimmed, is_known, first, through = row
                replay += count
                if trimmed or not is_known:
                    (topic, _), _since = part[number - 1]
                    gap = Gap(Priority(lane), Offset(first), Offset(through), (topic,), trimmed)
                    lost.append(gap if is_known else replace(gap, count=None))
        lost.sort(key=lambda gap: -gap.priority)
        return ReplaySummary(replay, reduce(Gap.merged, lost) if lost else None)

    async def _survey(
        self, part: list[tuple[Address, Offset]], cursor: Cursor
    ) -> AsyncIterator[list[int]]:
        """What Redis says of these; one operation counts no more than others may wait for."""
        rest = [int(max(Priority)), 1, 0]
        while rest:
            operation = Operation("summarize", (*cursor.marks, *rest, *_flat(part, OFFSET_ZERO)))
            found: list[list[int]]
            found, *rest = await self._shared(operation, None, cursor.highest)
            for row in found:
                yield row

    async def _addresses(
        self, after: Offset, subscriptions: Subscriptions, user: UserId | None, as_of: Offset
    ) -> list[tuple[Address, Offset]]:
        """Each address that the subscriptions cover and that may have something new; its `since`.

        A pattern is among them by its own name, for what may be lost of topics that are gone.
        """
        readers: tuple[UserId | None, ...] = (None,) if user is None else (None, user)
        topics = dict(subscriptions)
        for expression, since in subscriptions.items():
            if is_pattern(expression):
                begin = max(after, since)
                asking = Operation("changed_addresses", (begin - begin % STEP,))
                changed: Changed = await self._shared(asking, _by_user, as_of)
                for reader in readers:
                    for topic in changed[reader].match(expression) if reader in changed else ():
                        topics[topic] = min(since, topics.get(topic, since))
        return [((topic, reader), since) for topic, since in topics.items() for reader in readers]

    def _shared(
        self, operation: Operation, made: Then | None, as_of: Offset
    ) -> asyncio.Future[Any]:
        """Ask, unless the same is asked for at this moment: clients of a storm are much alike.

        `as_of`: how far the log had come for certain when it was asked for.
        """
        known = (operation.name, as_of, tuple(operation.arguments))
        if known not in self._asked:
            asked = self._asked[known] = self._line.ask(operation, made)
            asked.add_done_callback(lambda _: self._asked.pop(known, None))
        return asyncio.shield(self._asked[known])


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Some logs of a lane between a position and `through`; `is_cut`: there is more."""

    logs: list[LogSlice]
    through: Offset
    is_cut: bool


def _parts(wanted: list[tuple[Address, Offset]]) -> Iterator[list[tuple[Address, Offset]]]:
    for start in range(0, len(wanted), PART):
        yield wanted[start : start + PART]


def _flat(part: list[tuple[Address, Offset]], after: Offset) -> Iterator[str | int]:
    for address, since in part:
        yield keys.address(*address)
        yield max(after, since)


def _excerpt(
    part: list[tuple[Address, Offset]], lane: Priority, value: list[Any], end: End
) -> Excerpt:
    is_cut = value[3] == 1
    through = Offset(value[4]) if is_cut else end.head
    return Excerpt([*_logs(value, part, lane)], through, is_cut)


def _logs(
    value: list[Any], wanted: list[tuple[Address, Offset]], lane: Priority
) -> Iterator[LogSlice]:
    """What Redis said of each log, as far as the page needs it."""
    floor, logs, chosen, _is_cut, _through = value
    number: int
    id: bytes
    messages: dict[int, list[Message]] = {}
    strange: dict[int, list[Offset]] = {}
    for number, id, fields in chosen:
        topic, user = wanted[number - 1][0]
        message = entries.from_log(id, entries.pairs(fields), topic, lane, user)
        if message is not None:
            messages.setdefault(number, []).append(message)
        else:  # not one of ours: whatever was there is lost
            strange.setdefault(number, []).append(entries.offset_of(id))
    for number, ((topic, _), since) in enumerate(wanted, 1):
        told = logs[number - 1]
        if told == 0:
            continue
        forgotten: int = floor if told == 1 else told[0]
        trimmed: list[bytes] = [] if told == 1 else told[1]
        log = TopicLog(Offset(forgotten))
        lost = [*map(int, trimmed), *strange.get(number, ())]
        log.trimmed.extend(sorted(offset for offset in lost if offset > forgotten))
        for message in messages.get(number, ()):
            log.append(message)
        yield topic, log, since


def _by_user(addresses: list[bytes], _: End) -> Changed:
    found: Changed = {}
    for each in addresses:
        topic, user = keys.parse_address(text(each))
        found.setdefault(user, TopicTree()).add(topic)
    return found
