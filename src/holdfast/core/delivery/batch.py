"""LiveBatch and DeliveryPlan: the live feed as connections share it.

Connections that keep up have nothing pending but the newest messages, and these are the same for
all of them. The way of such messages through an empty buffer is then the same, too: which message
is superseded, which has expired, in which order the others leave, and the cursor after each. The
result is computed once for all of these connections: a `DeliveryPlan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cursor import Cursor
from ..message import Message, Offset, Priority


class LiveBatch:
    """Messages of the live feed in log order, at least one.

    A batch is a linked list of parts, so that appending one costs the same for any length.
    """

    __slots__ = ("_earlier", "_joined", "_part", "count", "has_ttl", "size")

    def __init__(self, messages: Sequence[Message], earlier: LiveBatch | None = None) -> None:
        self._part = messages
        self._earlier = earlier
        self._joined: tuple[LiveBatch, LiveBatch] | None = None
        self.count = len(messages)
        """The number of messages."""
        self.size = sum([len(message.body) for message in messages])
        """The bytes of all bodies."""
        self.has_ttl = any(message.expires_at is not None for message in messages)
        """True if a message has a ttl, so that a plan for this batch depends on the time."""
        if earlier is not None:
            self.count += earlier.count
            self.size += earlier.size
            self.has_ttl |= earlier.has_ttl

    @property
    def messages(self) -> list[Message]:
        """All messages, collected at each call."""
        parts: list[Sequence[Message]] = []
        batch: LiveBatch | None = self
        while batch is not None:
            parts.append(batch._part)
            batch = batch._earlier
        return [message for part in reversed(parts) for message in part]

    def first_offset(self, lane: Priority) -> Offset | None:
        """Return the offset of the first message of `lane`, `None` if there is none."""
        return next((each.offset for each in self.messages if each.priority is lane), None)

    def joined_with(self, later: LiveBatch) -> LiveBatch:
        """Return this batch followed by `later`.

        The result is cached, so that connections share it.
        """
        if self._joined is None or self._joined[0] is not later:
            self._joined = later, LiveBatch(later._part, self)
        return self._joined[1]


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """The way of a `LiveBatch` through the empty buffer of a connection that keeps up.

    Attributes:
        steps: the messages that leave, in that order, each with the cursor after it.
        conflated: the number of messages that a newer one in the batch superseded.
        expired: the number of messages that had expired.
    """

    steps: tuple[tuple[Message, Cursor], ...]
    conflated: int
    expired: int
