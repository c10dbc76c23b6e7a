"""Run: a stretch of the live feed, shared by all connections that are to have the same messages.

Connections that keep up have the same messages before them. What becomes of those on their way
through an empty buffer (which is superseded, which has expired, in which order the rest leaves,
and where that leaves the cursor) is then the same for all, and worked out once: a `DeliveryPlan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cursor import Cursor
from ..message import Message, Offset, Priority


class LiveBatch:
    """Messages in log order, at least one. Joining two costs the same however long they are."""

    __slots__ = ("_before", "_joined", "_own", "count", "has_ttl", "size")

    def __init__(self, messages: Sequence[Message], before: LiveBatch | None = None) -> None:
        self._own = messages
        self._before = before
        self._joined: tuple[LiveBatch, LiveBatch] | None = None
        self.count = len(messages)
        """Messages in all."""
        self.size = sum([len(message.body) for message in messages])
        """Bytes of all bodies."""
        self.has_ttl = any(message.expires_at is not None for message in messages)
        """Whether what becomes of it depends on the time."""
        if before is not None:
            self.count += before.count
            self.size += before.size
            self.has_ttl |= before.has_ttl

    @property
    def messages(self) -> list[Message]:
        """All of them; costs time in proportion."""
        parts: list[Sequence[Message]] = []
        run: LiveBatch | None = self
        while run is not None:
            parts.append(run._own)
            run = run._before
        return [message for part in reversed(parts) for message in part]

    def first_offset(self, lane: Priority) -> Offset | None:
        """Return the offset of the first message of `lane`, `None` if there is none."""
        return next((each.offset for each in self.messages if each.priority is lane), None)

    def joined_with(self, later: LiveBatch) -> LiveBatch:
        """This run and a later one as one; the next who asks for the same gets the same."""
        if self._joined is None or self._joined[0] is not later:
            self._joined = later, LiveBatch(later._own, self)
        return self._joined[1]


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """A run on its way through the empty buffer of a connection that keeps up.

    `steps` are the messages that leave, in that order, each with the cursor right after it; the
    others were `conflated` or had `expired`.
    """

    steps: tuple[tuple[Message, Cursor], ...]
    conflated: int
    expired: int
