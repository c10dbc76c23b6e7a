"""The lifecycle of a connection, as one table.

    state      event      → state
    ─────────────────────────────────────────────────────────────────────────────────
    OPENING    READY      → OPEN      the transport took the first frame
    OPENING    CLOSE      → CLOSING   the server closes the connection before its first frame
    OPEN       CLOSE      → CLOSING   the server closes it: drain, takeover, expired credentials …
    CLOSING    READY      → CLOSING   the transport took the first frame after the close
    CLOSING    CLOSE      → CLOSING   a second reason has no effect
    any        LOST       → CLOSED    the client has disconnected, or a send failed
    any        FINISHED   → CLOSED    the transport has returned
    CLOSED     CLOSE      → CLOSED    a late reason has no effect

`transition` raises for every other pair.
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

    __hash__ = object.__hash__  # faster: the hash of Enum is a Python function


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
        IllegalTransition: The table has no such row.
    """
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise IllegalTransition(
            f"{event.name} is not possible for a connection that is {state.name}"
        )
    return following
