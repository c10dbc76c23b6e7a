"""The records that an application gets from a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ..core.message import Priority


@dataclass(frozen=True, slots=True)
class Message:
    """A published message.

    Attributes:
        topic: The topic that the message was published to.
        data: The JSON value as a Python object.
        priority: The lane of the message.
        timestamp: When the message was published, in seconds since the Unix epoch.
        key: The name of the subject that the message replaces earlier values of, or None.
        event_id: The position right after the message. Store it with the effect of the message,
            and give it to `connect(position=…)`. The repr does not show it, because an event id,
            together with the user's credentials, opens the session.
    """

    topic: str
    data: object
    priority: Priority
    timestamp: float
    key: str | None
    event_id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that are missing and that the server cannot send (docs/protocol.md, section 8).

    Attributes:
        cause: `trimmed`, `restart` or `unknown`. A newer server may send other words.
        count: The exact number of missing messages, or None if the server cannot count them.
        topics: The topics of the missing messages. Empty means any topic of the stream.
        priority: The lane of the missing messages. None means every lane.
    """

    cause: str
    count: int | None
    topics: tuple[str, ...] = ()
    priority: Priority | None = None


class StreamState(Enum):
    """The four states of a stream."""

    CONNECTING = "connecting"
    """The client has sent a request, and the first frame has not arrived."""
    OPEN = "open"
    """The first frame has arrived."""
    WAITING = "waiting"
    """The connection was lost. The client waits before it connects again."""
    CLOSED = "closed"
    """The block was left, or the stream has failed. The client does not connect again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The state of a stream, with its details.

    Attributes:
        state: The state.
        reason: While WAITING, why the connection was lost. While CLOSED, the error, if any.
        retry_in: While WAITING, the delay before the next attempt, in seconds.
        session: While OPEN, `fresh`, `resumed` or `gap` (docs/protocol.md, section 4).
        replay: While OPEN, how many missed messages the server sends again, or None.
    """

    state: StreamState
    reason: str | None = None
    retry_in: float | None = None
    session: str | None = None
    replay: int | None = None


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The result of `Stream.subscribe`.

    Attributes:
        topics: The given topics that the stream now receives.
        rejected: The given topics that the user may not receive.
    """

    topics: tuple[str, ...]
    rejected: tuple[str, ...]
