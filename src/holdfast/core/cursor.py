"""Positions in the log, and the event id that carries one over the wire.

Priorities reorder messages, so a single "last id" would skip the messages that were overtaken.
Example: LOW 1 and CRITICAL 2 are published, CRITICAL 2 is sent first, and the link is cut. Both "1"
and "2" would be wrong. A cursor has one mark per lane instead: no message of the lane at or below
its mark is still to be sent.

docs/design.md, section "The cursor", has a trace for each rule. docs/protocol.md, section 5, has
the grammar. This module is the only one that reads or writes event ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NewType

from .message import LANES, Offset, Priority

Epoch = NewType("Epoch", str)
"""The name of one log: 12 characters of `[A-Za-z0-9_-]`, 72 random bits."""

MAX_OFFSET = 2**63 - 1
"""The highest offset of an event id."""

MAX_EVENT_ID = 128
"""Characters of an event id that is read, at most. The longest one that is issued has 115."""

_NUMBER = "(?:0|[1-9][0-9]{0,18})"
_MARKS = rf"{_NUMBER}(?:\.{_NUMBER}){{3}}|{_NUMBER}"
_CURSOR = re.compile(_MARKS, re.ASCII)
_EVENT_ID = re.compile(rf"([A-Za-z0-9_-]{{12}})~({_MARKS})~([A-Za-z0-9_-]{{22}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """One mark for each lane: `marks[priority]`.

    The text of a cursor is "7" if all marks are 7, and otherwise the marks from CRITICAL to LOW,
    such as "2.0.0.0".

    Invariants (tests/core/test_cursor.py): each mark is in 0 to 2^63-1;
    `parse(str(cursor)) == cursor`.
    """

    marks: tuple[Offset, Offset, Offset, Offset]

    @classmethod
    @lru_cache(maxsize=16)
    def at(cls, offset: int) -> Cursor:
        """Return the cursor with the same mark in every lane.

        The result is cached, because all connections that are up to date have the same cursor.
        """
        mark = Offset(offset)
        return cls((mark, mark, mark, mark))

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Return the cursor whose text is `text`; `None` if there is none."""
        if len(text) > MAX_EVENT_ID or _CURSOR.fullmatch(text) is None:
            return None
        numbers = [Offset(int(digits)) for digits in text.split(".")]
        if max(numbers) > MAX_OFFSET:
            return None
        if len(numbers) == 1:
            return cls.at(numbers[0])
        if len(set(numbers)) == 1:
            return None  # "7.7.7.7" is not valid, because the text of that cursor is "7"
        critical, high, normal, low = numbers
        return cls((low, normal, high, critical))

    def __str__(self) -> str:
        low, normal, high, critical = self.marks
        if low == normal == high == critical:
            return str(low)
        return f"{critical}.{high}.{normal}.{low}"

    def __getitem__(self, lane: Priority) -> Offset:
        return self.marks[lane]

    def __le__(self, other: Cursor) -> bool:
        """Return True if no mark is higher than in `other`. This is a partial order."""
        low, normal, high, critical = self.marks
        low2, normal2, high2, critical2 = other.marks
        return low <= low2 and normal <= normal2 and high <= high2 and critical <= critical2

    def capped_at(self, offset: Offset) -> Cursor:
        """Return this cursor with all higher marks lowered to `offset`."""
        low, normal, high, critical = (min(mark, offset) for mark in self.marks)
        return Cursor((low, normal, high, critical))

    def with_mark(self, lane: Priority, mark: Offset) -> Cursor:
        """Return this cursor with another mark in `lane`."""
        marks = [*self.marks]
        marks[lane] = mark
        low, normal, high, critical = marks
        return Cursor((low, normal, high, critical))

    @property
    def highest(self) -> Offset:
        """The highest mark."""
        return max(self.marks)


@dataclass(frozen=True, slots=True)
class Position:
    """A cursor in the log of an epoch."""

    epoch: Epoch
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a log.

    Example for `forks`: a Redis primary had 9 messages. Its replica had 7 of them when it was
    promoted, and begins a new epoch with `forks` {old epoch: 7}. A position of the old epoch up to
    7 is the same position in the new one. A position beyond 7 is lost.

    Attributes:
        epoch: The epoch of the log.
        offset: The offset of the newest message.
        forks: Earlier epochs, each with the offset up to which its log is the same as this one.
    """

    epoch: Epoch
    offset: Offset
    forks: Mapping[Epoch, Offset] = field(default_factory=dict[Epoch, Offset], compare=False)


def format_event_id(epoch: Epoch, cursor: Cursor, token: str) -> str:
    """Return the text of an event id. An empty `token` gives the part that connections share."""
    return f"{epoch}~{cursor}~{token}"


@dataclass(frozen=True, slots=True)
class EventId:
    """The content of `Last-Event-ID`: epoch, cursor and reconnect token; opaque to clients."""

    epoch: Epoch
    cursor: Cursor
    token: str

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """Return the event id whose text is `text`; `None` if there is none.

        The pattern is ASCII and exact, because `int()` also accepts `+5`, `1_000` and `٥`.
        """
        if len(text) > MAX_EVENT_ID:
            return None
        match = _EVENT_ID.fullmatch(text)
        cursor = Cursor.parse(match[2]) if match else None
        return cls(Epoch(match[1]), cursor, match[3]) if match and cursor else None

    def __str__(self) -> str:
        return format_event_id(self.epoch, self.cursor, self.token)

    def format_series(self, lane: Priority, marks: Sequence[Offset]) -> list[str]:
        """Return the texts of this event id with each of `marks` in `lane`.

        The result is the same as that of `str`. The text around the mark is formatted only once.
        """
        others = {self.cursor[other] for other in LANES if other != lane}
        if len(others) == 1 and not others.isdisjoint(marks):
            # One of the cursors has the same mark in every lane, so its text is shorter.
            return [str(replace(self, cursor=self.cursor.with_mark(lane, mark))) for mark in marks]
        digits = [str(mark) for mark in self.cursor.marks]
        digits[lane] = "|"
        before, after = ".".join(reversed(digits)).split("|")
        before, after = f"{self.epoch}~{before}", f"{after}~{self.token}"
        return [f"{before}{mark}{after}" for mark in marks]

    def __repr__(self) -> str:
        return f"EventId(epoch={self.epoch!r}, cursor={str(self.cursor)!r}, token=…)"
