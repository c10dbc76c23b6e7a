"""The records that travel: a message, and the gap that stands where messages are missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NewType

Offset = NewType("Offset", int)
"""A message's position in its log: the first is 1, and each is one more than the one before."""

OFFSET_ZERO = Offset(0)
"""The position before the first message."""

UserId = NewType("UserId", str)


class Priority(IntEnum):
    """How urgent a message is; each value is a *lane*, and a higher one overtakes all below it."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """The name on the wire, in lower case."""
        return self.name.lower()


LANES: tuple[Priority, ...] = tuple(Priority)
"""The four lanes in the order of their numbers (to iterate over the enum itself is slow)."""

BEST_FIRST: tuple[Priority, ...] = LANES[::-1]
"""The four lanes in the order in which they are sent."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """What was published, with the position that the log gave it.

    `body` is the JSON frame (UTF-8, one line, an object, without an event id), encoded once, at
    publish. `expires_at` and `timestamp` are seconds since the Unix epoch. `subject` is what
    conflation compares: a message supersedes an older one with the same subject; `None` never.
    """

    offset: Offset
    topic: str
    priority: Priority
    body: bytes
    timestamp: float
    key: str | None = None
    expires_at: float | None = None
    to_user: UserId | None = None
    subject: tuple[str, UserId | None, str] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        subject = None if self.key is None else (self.topic, self.to_user, self.key)
        object.__setattr__(self, "subject", subject)

    @property
    def size(self) -> int:
        """The length of the encoded frame in bytes."""
        return len(self.body)

    def has_expired(self, now: float) -> bool:
        """Whether its ttl has passed at `now` (seconds since the Unix epoch)."""
        return self.expires_at is not None and self.expires_at <= now


@dataclass(slots=True, kw_only=True)
class Draft:
    """A message before the log has given it an offset; the fields are those of `Message`.

    A second draft with the same `idempotency_key` is not published again.
    """

    topic: str
    priority: Priority
    body: bytes
    timestamp: float
    key: str | None = None
    expires_at: float | None = None
    to_user: UserId | None = None
    idempotency_key: str | None = None

    def at(self, offset: Offset) -> Message:
        """Return the message that stands at `offset`."""
        return Message(
            offset,
            self.topic,
            self.priority,
            self.body,
            self.timestamp,
            self.key,
            self.expires_at,
            self.to_user,
        )


GAP_TOPICS_LIMIT = 100
"""A gap names at most so many topics; one of more names none, which stands for any."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that a client will not get, standing in a lane where they would have stood.

    They lie between the offsets `first` and `last`, and nothing else of the lane does. `count`
    is how many they are (`None`: not known any more), `topics` where (empty: too many to name).
    """

    priority: Priority
    first: Offset
    last: Offset
    topics: tuple[str, ...]
    count: int | None

    def merged(self, other: Gap) -> Gap:
        """This gap and its right neighbour as one."""
        topics = tuple(sorted({*self.topics, *other.topics}))
        if not self.topics or not other.topics or len(topics) > GAP_TOPICS_LIMIT:
            topics = ()
        unknown = self.count is None or other.count is None
        count = None if unknown else (self.count or 0) + (other.count or 0)
        first, last = min(self.first, other.first), max(self.last, other.last)
        return Gap(self.priority, first, last, topics, count)

    def without(self, unwanted: Callable[[str], bool]) -> Gap | None:
        """What is left of it for a client that leaves the `unwanted` topics; `None`: nothing.

        How many were of those is not known, so its count is not, either.
        """
        topics = tuple([topic for topic in self.topics if not unwanted(topic)])
        if not self.topics or 0 < len(topics) < len(self.topics):
            return replace(self, topics=topics, count=None)
        return self if topics else None
