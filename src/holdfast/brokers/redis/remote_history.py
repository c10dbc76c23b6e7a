"""RemoteHistory: reads from Redis the part of the log that the replica does not cover."""

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
from .script import Argument, LogState, Operation, to_text
from .script_client import Decoder, ScriptClient

OFFSET_STEP = 4096
"""Patterns are resolved from a multiple of this offset on, so that clients share the result."""

ADDRESSES_PER_OPERATION = 3000
"""At most; Lua passes no more than 8,000 arguments."""

Address = tuple[str, UserId | None]
Target = tuple[Address, Offset]
"""An address, and the `since` of the subscription that covers it."""


class RemoteHistory:
    """Pages and summaries of any stretch of the log.

    A page is one operation: Redis merges the topic logs, and reads little more than the page has.
    A summary that has much to count is several operations.
    """

    def __init__(self, scripts: ScriptClient) -> None:
        self._scripts = scripts
        self._under_way: dict[tuple[str, Offset, tuple[Argument, ...]], asyncio.Future[Any]] = {}

    async def page(
        self, request: PageRequest, subscriptions: Subscriptions, user: UserId | None
    ) -> Page:
        """Return one page of one lane (see `History.page`)."""
        lane, after, up_to = request.lane, request.after, request.up_to
        targets = await self._targets(after, subscriptions, user, up_to)
        bounds = (int(lane), up_to, request.limit, request.max_bytes)
        submitted = [
            self._submit_shared(
                Operation("page", (*bounds, *_flatten(part, after))),
                partial(_decode_excerpt, part, lane),
                up_to,
            )
            for part in _split(targets)
        ]
        excerpts: list[LogExcerpt] = [await each for each in submitted]
        ends = [excerpt.through for excerpt in excerpts]
        logs = chain.from_iterable(excerpt.logs for excerpt in excerpts)
        page = page_of(replace(request, up_to=min(up_to, *ends)), logs, self._scripts.now())
        return replace(page, complete=page.complete and not any(each.is_cut for each in excerpts))

    async def summarize(
        self, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None
    ) -> ReplaySummary:
        """Summarize the log between `cursor` and the head (see `History.summarize`)."""
        targets = await self._targets(min(cursor.marks), subscriptions, user, cursor.highest)
        replay, lost = 0, list[Gap]()
        for part in _split(targets):
            async for row in self._summary_rows(part, cursor):
                number, lane, count, trimmed, is_exact, first, through = row
                replay += count
                if trimmed or not is_exact:
                    (topic, _), _since = part[number - 1]
                    gap = Gap(Priority(lane), Offset(first), Offset(through), (topic,), trimmed)
                    lost.append(gap if is_exact else replace(gap, count=None))
        lost.sort(key=lambda gap: -gap.priority)
        return ReplaySummary(replay, reduce(Gap.merged, lost) if lost else None)

    async def _summary_rows(self, part: list[Target], cursor: Cursor) -> AsyncIterator[list[int]]:
        """Yield the rows of a summary (lua/operations/summarize.lua), from one or more calls."""
        begin = [int(max(Priority)), 1, 0]
        while begin:
            arguments = (*cursor.marks, *begin, *_flatten(part, OFFSET_ZERO))
            rows: list[list[int]]
            rows, *begin = await self._submit_shared(
                Operation("summarize", arguments), None, cursor.highest
            )
            for row in rows:
                yield row

    async def _targets(
        self, after: Offset, subscriptions: Subscriptions, user: UserId | None, head: Offset
    ) -> list[Target]:
        """Return the addresses that the subscriptions cover and that may have something new.

        A pattern is among them under its own name, which stands for the topics that are gone.
        """
        readers: tuple[UserId | None, ...] = (None,) if user is None else (None, user)
        topics = dict(subscriptions)
        for expression, since in subscriptions.items():
            if is_pattern(expression):
                begin = max(after, since)
                operation = Operation("changed_addresses", (begin - begin % OFFSET_STEP,))
                changed: dict[UserId | None, TopicTree] = await self._submit_shared(
                    operation, _decode_changed, head
                )
                for reader in readers:
                    for topic in changed[reader].match(expression) if reader in changed else ():
                        topics[topic] = min(since, topics.get(topic, since))
        return [((topic, reader), since) for topic, since in topics.items() for reader in readers]

    def _submit_shared(
        self, operation: Operation, decode: Decoder | None, head: Offset
    ) -> asyncio.Future[Any]:
        """Submit an operation, or share the same operation that is under way.

        `head` is an offset that the log has reached: a result from before that is not shared.
        """
        key = (operation.name, head, tuple(operation.arguments))
        if key not in self._under_way:
            result = self._under_way[key] = self._scripts.submit(operation, decode)
            result.add_done_callback(lambda _: self._under_way.pop(key, None))
        return asyncio.shield(self._under_way[key])


@dataclass(frozen=True, slots=True)
class LogExcerpt:
    """Topic logs of one lane up to `through`. `is_cut`: the log has more."""

    logs: list[LogSlice]
    through: Offset
    is_cut: bool


def _split(targets: list[Target]) -> Iterator[list[Target]]:
    for start in range(0, len(targets), ADDRESSES_PER_OPERATION):
        yield targets[start : start + ADDRESSES_PER_OPERATION]


def _flatten(part: list[Target], after: Offset) -> Iterator[str | int]:
    for address, since in part:
        yield keys.format_address(*address)
        yield max(after, since)


def _decode_excerpt(
    part: list[Target], lane: Priority, output: list[Any], state: LogState
) -> LogExcerpt:
    """Decode the output of lua/operations/page.lua."""
    floor, logs, chosen, is_cut, through = output
    return LogExcerpt(
        logs=[*_decode_logs(part, lane, floor, logs, chosen)],
        through=Offset(through) if is_cut else state.head,
        is_cut=is_cut == 1,
    )


def _decode_logs(
    part: list[Target],
    lane: Priority,
    floor: int,
    logs: list[Any],
    chosen: list[tuple[int, bytes, Any]],
) -> Iterator[LogSlice]:
    messages: dict[int, list[Message]] = {}
    foreign_entries: dict[int, list[Offset]] = {}
    for number, id, fields in chosen:
        (topic, user), _ = part[number - 1]
        message = entries.decode_log_entry(id, entries.named_fields(fields), topic, lane, user)
        if message is not None:
            messages.setdefault(number, []).append(message)
        else:  # another program wrote it: the message that had this offset is lost
            foreign_entries.setdefault(number, []).append(entries.offset_of(id))
    for number, (((topic, _), since), log_state) in enumerate(zip(part, logs, strict=True), 1):
        if log_state == 0:  # the address has nothing new
            continue
        is_dropped = log_state == 1  # only the floor of the lane is known
        unknown_through: int = floor if is_dropped else log_state[0]
        trimmed: list[bytes] = [] if is_dropped else log_state[1]
        lost = [*map(Offset, map(int, trimmed)), *foreign_entries.get(number, ())]
        log = TopicLog(Offset(unknown_through), sorted(x for x in lost if x > unknown_through))
        for message in messages.get(number, ()):
            log.append(message)
        yield topic, log, since


def _decode_changed(output: list[bytes], _: LogState) -> dict[UserId | None, TopicTree]:
    """Return the topics of addresses, by user."""
    changed: dict[UserId | None, TopicTree] = {}
    for each in output:
        topic, user = keys.parse_address(to_text(each))
        changed.setdefault(user, TopicTree()).add(topic)
    return changed
