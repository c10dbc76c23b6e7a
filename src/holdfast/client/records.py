"""The records that a consumer gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ..core.message import Priority


@dataclass(frozen=True, slots=True)
class Message:
    """What was published.

    `data` is the JSON value as Python has it. `timestamp` (seconds since the Unix epoch) is when
    it was published. `id` is the position right after it: to be stored with the effect of the
    message, and given to `connect(position=…)`. It opens a session, beside credentials, and is
    therefore in no repr.
    """

    topic: str
    data: object
    priority: Priority
    timestamp: float
    key: str | None
    id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that are missing, and will not come (docs/protocol.md, section 8).

    `cause` is `trimmed`, `restart`, `unknown`, or what a newer server says. `count` is exact, or
    `None` where the server does not know. Empty `topics` stand for any of the stream's. `priority`
    is the lane that has the hole, `None` for all of them.
    """

    cause: str
    count: int | None
    topics: tuple[str, ...] = ()
    priority: Priority | None = None


class StreamState(Enum):
    """What the stream is doing."""

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    """For the next try."""
    CLOSED = "closed"
    """For good: the block was left, or the stream has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The state of the stream, and what there is to say about it.

    While WAITING, `reason` says why, and `retry_in` (seconds) for how long. While OPEN, `session`
    is `fresh`, `resumed` or `gap`, and `replay` how many messages were to be made up for.
    """

    state: StreamState
    reason: str | None = None
    retry_in: float | None = None
    session: str | None = None
    replay: int | None = None


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What became of the topics of a `subscribe`: those held now, those that may not be seen."""

    topics: tuple[str, ...]
    rejected: tuple[str, ...]
