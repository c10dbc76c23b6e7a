"""Where a client stands: one offset per lane, and the event id that carries it.

Priorities reorder, so a single "last id" would skip what it overtook. A position is therefore a
low-water mark per lane: everything of that lane up to it is settled. docs/design.md, section 5,
says why each part is there; docs/protocol.md gives the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NewType

from .message import LANES, Offset, Priority

Epoch = NewType("Epoch", str)
"""The name of one life of a log: 12 characters of `[A-Za-z0-9_-]`, 72 random bits."""

MAX_OFFSET = 2**63 - 1
MAX_EVENT_ID = 128
"""Bytes. The longest event id that is issued has 115."""

_NUMBER = "(?:0|[1-9][0-9]{0,18})"
_CURSOR = re.compile(rf"{_NUMBER}(?:\.{_NUMBER}){{3}}|{_NUMBER}", re.ASCII)
_EVENT_ID = re.compile(
    rf"([A-Za-z0-9_-]{{12}})~({_NUMBER}(?:\.{_NUMBER}){{3}}|{_NUMBER})~([A-Za-z0-9_-]{{22}})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A low-water mark for each lane, `marks[priority]`.

    Invariants: each mark is in 0 to 2^63-1; `parse(str(cursor)) == cursor`.
    """

    marks: tuple[Offset, Offset, Offset, Offset]

    @classmethod
    @lru_cache(maxsize=16)
    def at(cls, offset: int) -> Cursor:
        """The same mark in every lane. Those who are up to date are all at the same one."""
        mark = Offset(offset)
        return cls((mark, mark, mark, mark))

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Read `str(cursor)` back; `None` for anything else, whatever it is."""
        if len(text) > MAX_EVENT_ID or _CURSOR.fullmatch(text) is None:
            return None
        numbers = [Offset(int(digits)) for digits in text.split(".")]
        if max(numbers) > MAX_OFFSET:
            return None
        if len(numbers) == 1:
            return cls.at(numbers[0])
        if len(set(numbers)) == 1:
            return None  # has a shorter form, and every position has one form only
        critical, high, normal, low = numbers
        return cls((low, normal, high, critical))

    def __str__(self) -> str:
        low, normal, high, critical = self.marks
        if low == normal == high == critical:
            return str(low)
        return f"{critical}.{high}.{normal}.{low}"

    def __getitem__(self, lane: Priority) -> Offset:
        return self.marks[lane]

    def is_within(self, other: Cursor) -> bool:
        """Whether no lane is farther than in `other`."""
        return all(mine <= theirs for mine, theirs in zip(self.marks, other.marks, strict=True))

    def capped_at(self, offset: Offset) -> Cursor:
        """This position, with no mark beyond `offset`."""
        low, normal, high, critical = (min(mark, offset) for mark in self.marks)
        return Cursor((low, normal, high, critical))

    def with_mark(self, lane: Priority, mark: Offset) -> Cursor:
        """This position with another mark in `lane`."""
        marks = [*self.marks]
        marks[lane] = mark
        low, normal, high, critical = marks
        return Cursor((low, normal, high, critical))

    @property
    def highest(self) -> Offset:
        """The mark of the lane that is farthest."""
        return max(self.marks)


@dataclass(frozen=True, slots=True)
class EventId:
    """What `Last-Event-ID` carries: epoch, cursor and resume token, opaque to clients."""

    epoch: Epoch
    cursor: Cursor
    token: str

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """Read an id that this library issued; `None` for anything else, never an exception.

        The grammar is ASCII and exact, because `int()` also takes `+5`, `1_000` and `٥`.
        """
        if len(text) > MAX_EVENT_ID:
            return None
        match = _EVENT_ID.fullmatch(text)
        cursor = Cursor.parse(match[2]) if match else None
        return cls(Epoch(match[1]), cursor, match[3]) if match and cursor else None

    def __str__(self) -> str:
        return f"{self.epoch}~{self.cursor}~{self.token}"

    def format_series(self, lane: Priority, marks: Sequence[Offset]) -> list[str]:
        """This id as text, with each of `marks` in `lane` in turn: as `str` has it, but faster."""
        others = {self.cursor[other] for other in LANES if other != lane}
        if len(others) == 1 and not others.isdisjoint(marks):  # that one is written shorter
            return [str(replace(self, cursor=self.cursor.with_mark(lane, mark))) for mark in marks]
        digits = [str(mark) for mark in self.cursor.marks]
        digits[lane] = "|"
        before, after = ".".join(reversed(digits)).split("|")
        before, after = f"{self.epoch}~{before}", f"{after}~{self.token}"
        return [f"{before}{mark}{after}" for mark in marks]

    def __repr__(self) -> str:
        return f"EventId(epoch={self.epoch!r}, cursor={str(self.cursor)!r}, token=…)"
