"""The lifecycle of a connection, as one table.

    state      event      → state
    ─────────────────────────────────────────────────────────────────────────────────
    OPENING    READY      → OPEN      the first frame was taken by the transport
    OPENING    CLOSE      → CLOSING   this side ends the connection before its first frame
    OPEN       CLOSE      → CLOSING   this side ends it: drain, takeover, expired credentials …
    CLOSING    READY      → CLOSING   the first frame was taken after the end was decided
    CLOSING    CLOSE      → CLOSING   a second reason changes nothing
    any        LOST       → CLOSED    the peer is gone, or a send failed
    any        FINISHED   → CLOSED    the transport has returned
    CLOSED     CLOSE      → CLOSED    too late to matter

Every other pair is illegal: `transition` raises.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ..errors import IllegalTransition


class ConnectionState(Enum):
    """The phase of a connection's life."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"

    __hash__ = object.__hash__  # the hash of Enum costs a call, and TRANSITIONS is read often


class ConnectionEvent(Enum):
    """An event in a connection's life."""

    READY = "ready"
    CLOSE = "close"
    LOST = "lost"
    FINISHED = "finished"

    __hash__ = object.__hash__


TRANSITIONS: Final[dict[tuple[ConnectionState, ConnectionEvent], ConnectionState]] = {
    (ConnectionState.OPENING, ConnectionEvent.READY): ConnectionState.OPEN,
    (ConnectionState.OPENING, ConnectionEvent.CLOSE): ConnectionState.CLOSING,
    (ConnectionState.OPENING, ConnectionEvent.LOST): ConnectionState.CLOSED,
    (ConnectionState.OPENING, ConnectionEvent.FINISHED): ConnectionState.CLOSED,
    (ConnectionState.OPEN, ConnectionEvent.CLOSE): ConnectionState.CLOSING,
    (ConnectionState.OPEN, ConnectionEvent.LOST): ConnectionState.CLOSED,
    (ConnectionState.OPEN, ConnectionEvent.FINISHED): ConnectionState.CLOSED,
    (ConnectionState.CLOSING, ConnectionEvent.READY): ConnectionState.CLOSING,
    (ConnectionState.CLOSING, ConnectionEvent.CLOSE): ConnectionState.CLOSING,
    (ConnectionState.CLOSING, ConnectionEvent.LOST): ConnectionState.CLOSED,
    (ConnectionState.CLOSING, ConnectionEvent.FINISHED): ConnectionState.CLOSED,
    (ConnectionState.CLOSED, ConnectionEvent.CLOSE): ConnectionState.CLOSED,
    (ConnectionState.CLOSED, ConnectionEvent.LOST): ConnectionState.CLOSED,
    (ConnectionState.CLOSED, ConnectionEvent.FINISHED): ConnectionState.CLOSED,
}


def transition(state: ConnectionState, event: ConnectionEvent) -> ConnectionState:
    """Return the state that follows `state` after `event`.

    Raises:
        IllegalTransition: the table has no such row.
    """
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise IllegalTransition(
            f"{event.name} is not possible for a connection that is {state.name}"
        )
    return following
