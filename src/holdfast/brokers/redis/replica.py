"""Replica: the recent part of the log, as far as this process has followed it.

Most clients come back soon, and what they missed is here; so a thousand of them ask Redis nothing.
What is older is fetched log by log, once for all who want it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from ...core.cursor import MAX_OFFSET, Cursor
from ...core.history import Address, History, Logs, Subscriptions
from ...core.message import BEGINNING, LANES, Message, Offset, Priority, UserId
from ...core.retention import Retention
from ...core.topic_log import TopicLog

Place = tuple[str, UserId | None, Priority]
"""One log: a topic or a pattern, for whom, and a lane."""

NEVER = (Offset(MAX_OFFSET), Offset(MAX_OFFSET))


class Replica(History):
    """A `History` that begins in the middle of the log, at `base`.

    Its floor is therefore no loss: it says from where this process knows. `unknown` names the logs
    of which a read needs what was before; once they are adopted, it is answered from here.
    """

    def __init__(self, retention: Retention, base: Offset) -> None:
        super().__init__(retention)
        self.head = base
        self._floor = [base] * len(LANES)
        self._whole: dict[Place, TopicLog] = {}
        self._absent: dict[Place, tuple[Offset, Offset]] = {}
        # Nothing of such a place is there after the first offset, and nothing lost after the other.

    def unknown(
        self,
        cursor: Cursor,
        subscriptions: Subscriptions,
        user: UserId | None,
        lanes: Iterable[Priority] = LANES,
    ) -> list[Place]:
        """The logs of which a read after `cursor` needs more than is here.

        Of the topics that a pattern covers, those that are here in part are among them.
        """
        readers = (None,) if user is None else (None, user)
        found: list[Place] = []
        topics = self._topics(subscriptions, readers)
        for lane, (topic, since), reader in product(lanes, topics.items(), readers):
            place, begin = (topic, reader, lane), max(cursor[lane], since)
            logs = self._logs.get((topic, reader))
            if logs is not None:
                known = begin >= logs[lane].forgotten or self._whole.get(place) is logs[lane]
            else:
                known = begin >= min(self._floor[lane], self._absent.get(place, NEVER)[0])
            if not known:
                found.append(place)
        return found

    def note_absent(self, place: Place, since: Offset, forgotten: Offset) -> None:
        """No such log, or none that a pattern covers, has anything after `since` but what is here.

        What was up to `forgotten` may be lost all the same.
        """
        self._absent[place] = (since, forgotten)

    def adopt(
        self,
        place: Place,
        forgotten: Offset,
        trimmed: Iterable[Offset],
        messages: Iterable[Message],
        now: float,
    ) -> None:
        """Take a whole log, as far as this process has come; the feed brings the rest."""
        topic, user, lane = place
        log = TopicLog(forgotten)
        log.trimmed.extend(offset for offset in trimmed if forgotten < offset <= self.head)
        for message in messages:
            if message.offset <= self.head:
                log.append(message)
                self._note_subject(message)
        logs = self._logs.get((topic, user))
        if logs is None and log.last <= forgotten:
            self.note_absent(place, BEGINNING, forgotten)
            return
        if logs is None:
            logs = self._add_address(topic, user)
        self._bytes += log.bytes - logs[lane].bytes
        self._logs[topic, user] = (*logs[:lane], log, *logs[lane + 1 :])
        self._logs.move_to_end((topic, user))
        self._whole[place] = log
        self._trim_all(now)

    def _add_address(self, topic: str, user: UserId | None) -> Logs:
        super()._add_address(topic, user)
        logs = self._logs[topic, user] = tuple(
            TopicLog(self._dropped_through(topic, user, lane)) for lane in LANES
        )
        for lane in LANES:  # those that were fetched, and had nothing, are still whole
            if self._absent.pop((topic, user, lane), None) is not None:
                self._whole[topic, user, lane] = logs[lane]
        return logs

    def _note_subject(self, message: Message) -> None:
        if message.subject is not None:
            known = self._subjects.get(message.subject)
            if known is None or known[1] < message.offset:
                self._subjects[message.subject] = (message.priority, message.offset)

    def _dropped_through(self, topic: str, user: UserId | None, lane: Priority) -> Offset:
        known = self._absent.get((topic, user, lane))
        return self._floor[lane] if known is None else known[1]

    def _drop_address(self, now: float) -> Address:
        address = super()._drop_address(now)
        self._absent.clear()  # the one that was dropped may be among what they stand for
        for lane in LANES:
            self._whole.pop((*address, lane), None)
        return address

    def _shrink(self, total: int, now: float) -> None:
        """Drop what was longest not written to; it can be fetched again."""
        while self._bytes > total and len(self._logs) > 1:
            self._drop_address(now)
