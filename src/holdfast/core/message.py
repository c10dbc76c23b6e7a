"""Message and Gap: the records of the log and of a connection, and their priorities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NewType

Offset = NewType("Offset", int)
"""The number of a message in its log: 1, 2, 3 and so on, over all topics and lanes."""

OFFSET_ZERO = Offset(0)
"""The offset before the first message."""

UserId = NewType("UserId", str)


class Priority(IntEnum):
    """The urgency of a message.

    Each value is a *lane*: messages of a higher lane are sent before those of all lower lanes.
    """

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """The name on the wire, such as "critical"."""
        return self.name.lower()


LANES: tuple[Priority, ...] = tuple(Priority)
"""The four lanes in ascending order. Iterating over the enum itself is slower."""

BEST_FIRST: tuple[Priority, ...] = LANES[::-1]
"""The four lanes in the order in which they are sent: CRITICAL first."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A published message with its offset in the log.

    Attributes:
        offset: The number of the message in the log.
        topic: The topic.
        priority: The lane.
        body: The JSON frame without an event id, one line of UTF-8, encoded once, at publish.
        timestamp: When it was published, in seconds since the Unix epoch.
        key: A newer message with the same topic, addressee and key supersedes this one.
        expires_at: When its ttl passes, in seconds since the Unix epoch.
        to_user: The only user who may have it, `None` for every subscriber.
        subject: (topic, to_user, key), or `None` without a key. A message supersedes an older
            message of the same subject.
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
        """Bytes of the body."""
        return len(self.body)

    def has_expired(self, now: float) -> bool:
        """True if the ttl has passed at `now` (seconds since the Unix epoch)."""
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
"""Topics that a gap names, at most. A gap in more topics names none, which means any topic."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of one lane that are missing, in place of these messages.

    Example: the log holds L3 and L5, L4 was trimmed. The client gets L3, a gap from 4 to 4, L5.

    Attributes:
        priority: The lane.
        first: The lowest offset that may be missing.
        last: The highest offset that may be missing. No message of the lane that the client gets
            has an offset from `first` to `last`.
        topics: The topics of the missing messages; empty if there are too many to name.
        count: The exact number of missing messages, `None` if it is unknown.
    """

    priority: Priority
    first: Offset
    last: Offset
    topics: tuple[str, ...]
    count: int | None

    def merged(self, other: Gap) -> Gap:
        """Return one gap for this gap and a neighbouring one."""
        topics = tuple(sorted({*self.topics, *other.topics}))
        if not self.topics or not other.topics or len(topics) > GAP_TOPICS_LIMIT:
            topics = ()
        unknown = self.count is None or other.count is None
        count = None if unknown else (self.count or 0) + (other.count or 0)
        first, last = min(self.first, other.first), max(self.last, other.last)
        return Gap(self.priority, first, last, topics, count)

    def without(self, unwanted: Callable[[str], bool]) -> Gap | None:
        """Return the gap for a client that leaves the unwanted topics, `None` if nothing remains.

        The count is unknown afterwards, because the number of messages per topic is unknown.
        """
        topics = tuple([topic for topic in self.topics if not unwanted(topic)])
        if not self.topics or 0 < len(topics) < len(self.topics):
            return replace(self, topics=topics, count=None)
        return self if topics else None
