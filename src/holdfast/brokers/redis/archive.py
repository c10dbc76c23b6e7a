"""Archive: fetches what a process has not followed, log by log, once for all who want it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...core.cursor import Cursor, Epoch
from ...core.history import Subscriptions
from ...core.message import BEGINNING, Message, Offset, Priority, UserId
from ...core.topics import TopicTree, is_pattern
from ...errors import OutcomeUnknown
from . import entries, keys
from .line import Line
from .reader import Reader
from .replica import Place, Replica
from .script import End, Operation, text

ROUNDS = 3
"""How often a read asks for what it lacks: the replica may be too small to keep all of it."""

Changed = dict[UserId | None, TopicTree]
"""Topics by whom their messages are for."""

STEP = 4096
"""Clients that ask for nearly the same stretch of a pattern's topics share one answer."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a read needs: of the log `epoch`, some lanes of some topics, between two positions."""

    epoch: Epoch
    up_to: Offset
    cursor: Cursor
    subscriptions: Subscriptions
    user: UserId | None
    lanes: Iterable[Priority]

    def begin(self, place: Place) -> Offset:
        """After which offset the logs of a pattern are needed; those of a topic, from the first."""
        topic, _, lane = place
        since = self.subscriptions[topic] if is_pattern(topic) else BEGINNING
        return max(self.cursor[lane], since)


class Archive:
    """One per process; what it fetches goes into the reader's replica."""

    def __init__(self, line: Line, reader: Reader) -> None:
        self._line = line
        self._reader = reader
        self._fetches: dict[tuple[Replica, Place, Offset], asyncio.Future[None]] = {}
        self._changes: dict[Offset, asyncio.Future[Changed]] = {}

    async def complete(self, need: Need) -> Replica | None:
        """The replica, once it has what is needed; `None` if the log is another one by now."""
        reader = self._reader
        reader.feed.open_head()
        for _ in range(ROUNDS):
            if not self._is_of(need.epoch):
                return None
            await reader.reach(need.up_to)
            replica = reader.replica
            unknown = replica.unknown(need.cursor, need.subscriptions, need.user, need.lanes)
            if not unknown:
                break
            await self._wait([self._fetch(replica, place, need.begin(place)) for place in unknown])
        return reader.replica if self._is_of(need.epoch) else None

    def _is_of(self, epoch: Epoch) -> bool:
        return self._reader.end is not None and self._reader.end.epoch == epoch

    async def _wait(self, fetches: Iterable[asyncio.Future[None]]) -> None:
        """Wait for all; whoever else waits for the same is not cancelled with the caller."""
        done, _ = await asyncio.wait(list(fetches))
        for fetch in done:
            if fetch.cancelled():
                raise OutcomeUnknown("the log could not be read: the broker was closed")
            fetch.result()

    def _fetch(self, replica: Replica, place: Place, begin: Offset) -> asyncio.Future[None]:
        """Fetch a log, or the logs that a pattern covers, unless somebody is at it."""
        covers = is_pattern(place[0])
        begin = Offset(begin - begin % STEP) if covers else BEGINNING
        known = (replica, place, begin)
        if known not in self._fetches:
            fetch = self._fetches[known] = (
                asyncio.ensure_future(self._load_covered(replica, place, begin))
                if covers
                else self._load(replica, place)
            )
            fetch.add_done_callback(lambda _: self._fetches.pop(known, None))
        return self._fetches[known]

    def _load(self, replica: Replica, place: Place) -> asyncio.Future[None]:
        topic, user, lane = place

        def loaded(value: list[Any], _: End) -> None:
            _, forgotten, trimmed, found = value
            lost = [Offset(int(offset)) for offset in trimmed]
            messages: list[Message] = []
            for id, fields in found:
                message = entries.from_log(id, entries.pairs(fields), topic, lane, user)
                if message is None:  # not one of ours: whatever was there is lost
                    lost.append(entries.offset_of(id))
                else:
                    messages.append(message)
            if self._reader.replica is replica:
                now = self._line.now()
                replica.adopt(place, Offset(forgotten), sorted(lost), messages, now)

        operation = Operation("load", (keys.address(topic, user), int(lane)))
        return self._line.ask(operation, loaded)

    async def _load_covered(self, replica: Replica, place: Place, begin: Offset) -> None:
        """Load all that came to a pattern's topics after `begin`; then no other is unknown."""
        pattern, user, lane = place
        changed = await asyncio.shield(self._changed(begin))
        covered = changed[user].match(pattern) if user in changed else ()
        wanted = dict.fromkeys(covered, begin)
        unknown = replica.unknown(Cursor.at(begin), wanted, user, (lane,))
        places = [each for each in unknown if each[1] == user]
        if places:
            await self._wait([self._fetch(replica, each, begin) for each in places])

        def loaded(value: list[Any], _: End) -> None:
            if self._reader.replica is replica:
                replica.note_absent(place, begin, Offset(value[1]))

        await self._line.call(Operation("load", (keys.address(pattern, user), int(lane))), loaded)

    def _changed(self, begin: Offset) -> asyncio.Future[Changed]:
        """To which topics something came after `begin`; asked once for all patterns and lanes."""
        if begin not in self._changes:
            asked = self._changes[begin] = self._line.ask(Operation("changed", (begin,)), _by_user)
            asked.add_done_callback(lambda _: self._changes.pop(begin, None))
        return self._changes[begin]


def _by_user(addresses: list[bytes], _: End) -> Changed:
    found: Changed = {}
    for each in addresses:
        topic, user = keys.parse_address(text(each))
        found.setdefault(user, TopicTree()).add(topic)
    return found
