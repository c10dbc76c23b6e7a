"""Archive: reads from Redis what this process has not followed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from ...core.cursor import Cursor
from ...core.delivery import PageRequest
from ...core.history import Located, Page, Subscriptions, Survey, page_of
from ...core.message import Gap, Message, Offset, Priority, UserId
from ...core.topic_log import TopicLog
from ...core.topics import TopicTree, is_pattern
from . import entries, keys
from .line import Line, Then
from .script import Argument, End, Operation, text

STEP = 4096
"""Clients that ask for nearly the same stretch of a pattern's topics share one answer."""

Address = tuple[str, UserId | None]
Changed = dict[UserId | None, TopicTree]


class Archive:
    """Pages and surveys of any stretch of the log; one per process.

    Each is one operation, and Redis merges the logs itself: its answer is as long as the page.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._asked: dict[tuple[str, tuple[Argument, ...]], asyncio.Future[Any]] = {}

    async def page(
        self, request: PageRequest, subscriptions: Subscriptions, user: UserId | None
    ) -> Page:
        """One page of one lane (see `History.page`)."""
        lane, after = request.lane, request.after
        wanted = await self._addresses(after, subscriptions, user)
        begins = [(address, max(after, since)) for address, since in wanted.items()]
        arguments = (int(lane), request.up_to, request.limit, request.max_bytes, *_flat(begins))
        since = list(wanted.items())

        def made(value: list[Any], end: End) -> Page:
            logs = [*_logs(value, since, lane)]
            chosen, is_cut = value[2], value[3] == 1
            up_to = entries.offset_of(chosen[-1][1]) if is_cut else min(request.up_to, end.head)
            page = page_of(
                lane,
                logs,
                after,
                up_to=up_to,
                limit=len(chosen) + 1,
                max_bytes=sys.maxsize,
                now=self._line.now(),
            )
            return replace(page, complete=not is_cut)

        answer: Page = await self._shared(Operation("page", arguments), made)
        return answer

    async def survey(
        self, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None
    ) -> Survey:
        """What lies between `cursor` and the head (see `History.survey`)."""
        wanted = await self._addresses(min(cursor.marks), subscriptions, user)
        topics = [topic for topic, _ in wanted]
        arguments = (*cursor.marks, *_flat(wanted.items()))

        def made(value: list[list[int]], _: End) -> Survey:
            gap: Gap | None = None
            for number, lane, _count, lost, is_known, first, through in value:
                if lost or not is_known:
                    count, where = lost if is_known else None, (topics[number - 1],)
                    one = Gap(Priority(lane), Offset(first), Offset(through), where, count)
                    gap = one if gap is None else gap.merged(one)
            return Survey(sum(each[2] for each in value), gap)

        answer: Survey = await self._shared(Operation("survey", arguments), made)
        return answer

    async def _addresses(
        self, after: Offset, subscriptions: Subscriptions, user: UserId | None
    ) -> dict[Address, Offset]:
        """Each address that the subscriptions cover and that may have something new: its `since`.

        A pattern is among them by its own name, for what may be lost of topics that are gone.
        """
        readers: tuple[UserId | None, ...] = (None,) if user is None else (None, user)
        topics = dict(subscriptions)
        for expression, since in subscriptions.items():
            if is_pattern(expression):
                begin = max(after, since)
                asking = Operation("changed", (begin - begin % STEP,))
                changed: Changed = await self._shared(asking, _by_user)
                for reader in readers:
                    for topic in changed[reader].match(expression) if reader in changed else ():
                        topics[topic] = min(since, topics.get(topic, since))
        return {(topic, reader): since for topic, since in topics.items() for reader in readers}

    async def _shared(self, operation: Operation, made: Then) -> Any:
        """Ask, unless the same is asked for at this moment: clients of a storm are much alike."""
        known = (operation.name, tuple(operation.arguments))
        if known not in self._asked:
            asked = self._asked[known] = self._line.ask(operation, made)
            asked.add_done_callback(lambda _: self._asked.pop(known, None))
        return await asyncio.shield(self._asked[known])


def _flat(begins: Iterable[tuple[Address, Offset]]) -> Iterator[str | int]:
    return chain.from_iterable((keys.address(*address), begin) for address, begin in begins)


def _logs(
    value: list[Any], wanted: list[tuple[Address, Offset]], lane: Priority
) -> Iterator[Located]:
    """What Redis said of each log, as far as the page needs it."""
    floor, logs, chosen, _ = value
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
