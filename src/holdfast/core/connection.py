"""Connection: one client's stream, and the table of its lifecycle.

    state      event      → state
    ─────────────────────────────────────────────────────────────────────────────────
    OPENING    READY      → OPEN      the first frame was handed over
    OPENING    CLOSE      → CLOSING   this side ends it before it began
    OPEN       CLOSE      → CLOSING   this side ends it: drain, eviction, takeover, expiry …
    CLOSING    READY      → CLOSING   the first frame left after the end was decided
    CLOSING    CLOSE      → CLOSING   a second reason changes nothing
    any        LOST       → CLOSED    the peer is gone, or a send failed
    any        FINISHED   → CLOSED    the transport has returned
    CLOSED     CLOSE      → CLOSED    too late to matter

Everything else is illegal: it raises, and changes nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ..errors import IllegalTransition
from .cursor import Cursor
from .delivery.lanes import Delivery
from .message import UserId
from .tokens import ConnectionId, Position, Session


class State(Enum):
    """Where a connection is in its life."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"

    __hash__ = object.__hash__  # Enum's own costs a call; TRANSITIONS is asked at every step


class Event(Enum):
    """What can happen to a connection."""

    READY = "ready"
    CLOSE = "close"
    LOST = "lost"
    FINISHED = "finished"

    __hash__ = object.__hash__


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.OPENING, Event.READY): State.OPEN,
    (State.OPENING, Event.CLOSE): State.CLOSING,
    (State.OPENING, Event.LOST): State.CLOSED,
    (State.OPENING, Event.FINISHED): State.CLOSED,
    (State.OPEN, Event.CLOSE): State.CLOSING,
    (State.OPEN, Event.LOST): State.CLOSED,
    (State.OPEN, Event.FINISHED): State.CLOSED,
    (State.CLOSING, Event.READY): State.CLOSING,
    (State.CLOSING, Event.CLOSE): State.CLOSING,
    (State.CLOSING, Event.LOST): State.CLOSED,
    (State.CLOSING, Event.FINISHED): State.CLOSED,
    (State.CLOSED, Event.CLOSE): State.CLOSED,
    (State.CLOSED, Event.LOST): State.CLOSED,
    (State.CLOSED, Event.FINISHED): State.CLOSED,
}


class CloseReason(Enum):
    """Why this side ended a connection.

    `code` is the WebSocket close code: 1012 and 4000 to 4399 ask the client to reconnect,
    4400 to 4499 tell it not to.
    """

    DRAIN = ("drain", 1012)
    IDLE = ("idle", 4000)
    SLOW = ("slow", 4001)
    TAKEN_OVER = ("taken over", 4003)
    REQUESTED = ("requested", 4004)
    FAILED = ("failed", 4005)
    OVER_CAPACITY = ("over capacity", 4006)
    EXPIRED = ("credentials expired", 4401)
    FORBIDDEN = ("forbidden", 4403)
    REPLACED = ("replaced", 4409)
    ABUSE = ("too many messages", 4429)

    def __init__(self, text: str, code: int) -> None:
        self.text = text
        self.code = code

    @property
    def may_reconnect(self) -> bool:
        """Whether the client is to come back by itself."""
        return self.code < 4400


class Connection:
    """One stream to one client; it belongs to the loop that opened it.

    `opened_at` and `last_seen` (the last sign of life from the client itself) are in seconds of
    the Broadcaster's monotonic clock, `expires_at` (of the credentials) since the Unix epoch.
    `subscriptions` are its own, and replaced as a whole when they change; the session keeps a
    record of them for a resume.
    """

    __slots__ = (
        "__weakref__",
        "close_reason",
        "delivery",
        "expires_at",
        "id",
        "last_seen",
        "opened_at",
        "session",
        "state",
        "subscriptions",
        "transport",
    )

    def __init__(
        self,
        id: ConnectionId,
        session: Session,
        delivery: Delivery,
        transport: str,
        now: float,
    ) -> None:
        self.id = id
        self.session = session
        self.subscriptions = session.subscriptions
        self.delivery = delivery
        self.transport = transport
        self.opened_at = self.last_seen = now
        self.expires_at: float | None = None
        self.state = State.OPENING
        self.close_reason: CloseReason | None = None

    @property
    def user(self) -> UserId | None:
        """Whose it is; `None` for a client that nobody identified."""
        return self.session.user

    def handle(self, event: Event, reason: CloseReason | None = None) -> State:
        """Apply `event` by the table and return the new state; the first `reason` stays."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise IllegalTransition(f"{event.name} cannot happen to a connection {self.state.name}")
        if following is State.CLOSING and self.close_reason is None:
            self.close_reason = reason
        self.state = following
        return following

    def acknowledge(self, position: Position, handed_over: Cursor) -> bool:
        """The client has everything up to `position`: the resume point of its session from now on.

        What lies beyond `frames_sent` or behind what was acknowledged before, or comes after
        another connection has taken over the session, changes nothing and returns `False`.
        """
        session = self.session
        if session.connection != self.id or not position.cursor.is_within(handed_over):
            return False
        before = session.position if session.acknowledged else None
        if before is not None and not before.cursor.is_within(position.cursor):
            return False
        session.position, session.acknowledged = position, True
        return True

    def __repr__(self) -> str:
        return f"<Connection {self.id[:8]}… {self.transport} {self.state.value}>"
