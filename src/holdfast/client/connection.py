"""CurrentConnection: the state of the newest connection, as all parts of the client see it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

import anyio

from ..core.cursor import EventId
from .frames import FirstFrame
from .receive_queue import IssuedId


class ConnectionLost(Exception):
    """A connection has ended, or could not be opened, and the client connects again.

    Attributes:
        reason: The text for logs and for `Status.reason`.
        wait: The least delay before the next attempt that the server asked for, in seconds.
        at_once: True if the next attempt follows without any delay.
    """

    def __init__(self, reason: str, *, wait: float | None = None, at_once: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait
        self.at_once = at_once


class CurrentConnection:
    """The newest connection: its first frame, and the changes since.

    The receiver opens and ends connections. Other tasks wait for a connection (`wait_open`), wait
    for its end (`wait_end`), or demand a new one (`restart`). Only this class assigns its
    attributes.

    Attributes:
        number: The count of connections that have received their first frame.
        first_frame: The first frame of the open connection, or None while none is open.
        topics: The topics that the server sends, as it last reported.
        rejected: The topics that the user may not receive, as the server last reported.
        requested: The topics that the request of the newest attempt has named.
        restart_reason: Why the newest attempt was ended by `restart`, or None.
    """

    def __init__(self) -> None:
        self.number = 0
        self.first_frame: FirstFrame | None = None
        self.topics: tuple[str, ...] = ()
        self.rejected: tuple[str, ...] = ()
        self.requested: frozenset[str] = frozenset()
        self.restart_reason: str | None = None
        self._reconnect_token = ""
        self._resumable_since = 1
        """The first connection whose ids the newest session accepts as a position."""
        self._scope: anyio.CancelScope | None = None
        self._error: Exception | None = None
        self._changed = anyio.Event()

    # -- called by the receiver ----------------------------------------------------------------

    @contextmanager
    def attempt(self, requested: Sequence[str], *, deadline: float) -> Generator[anyio.CancelScope]:
        """Make one attempt in the block: the end of the block ends the connection.

        Yields the cancel scope around the block, whose deadline the receiver moves.
        """
        self.requested, self.restart_reason = frozenset(requested), None
        try:
            with anyio.CancelScope(deadline=deadline) as self._scope:
                yield self._scope
        finally:
            self._end()

    def open(self, first_frame: FirstFrame, *, resumed: bool) -> None:
        """Make this the open connection. `resumed`: earlier positions are still valid."""
        self.number += 1
        self.first_frame = first_frame
        self._reconnect_token = first_frame.reconnect_token
        self.topics, self.rejected = first_frame.topics, first_frame.rejected
        if not resumed:
            self._resumable_since = self.number
        self._notify()

    def reject(self, names: Iterable[str]) -> list[str]:
        """Move the held topics among `names` to `rejected`, and return them."""
        names = set(names)
        removed = [name for name in self.topics if name in names]
        self.remove_topics(removed)
        self.rejected = (*self.rejected, *removed)
        return removed

    def fail(self, error: Exception) -> None:
        """Raise `error` from every present and later `wait_open`. No connection follows."""
        self._error = error
        self._end()

    def _end(self) -> None:
        self.first_frame = self._scope = None
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # -- called by all -------------------------------------------------------------------------

    async def wait_open(self) -> FirstFrame:
        """Wait until a connection is open, and return its first frame. Raises the final error."""
        while self.first_frame is None:
            if self._error is not None:
                raise self._error
            await self._changed.wait()
        return self.first_frame

    def is_open(self, number: int) -> bool:
        """Return True if the connection with this number is open."""
        return self.first_frame is not None and self.number == number

    async def wait_end(self, number: int, *, max_wait: float = float("inf")) -> None:
        """Wait until the connection with this number has ended, at most `max_wait` seconds."""
        with anyio.move_on_after(max_wait):
            while self.is_open(number):
                await self._changed.wait()

    def restart(self, reason: str) -> None:
        """End the open connection, if any. The receiver connects again at once."""
        if self._scope is not None and self.first_frame is not None:
            self.restart_reason = reason
            self._scope.cancel()

    def add_topics(self, names: Iterable[str]) -> None:
        """Add `names` to `topics`, because the server has confirmed them."""
        self.topics = tuple(dict.fromkeys((*self.topics, *names)))

    def remove_topics(self, names: Iterable[str]) -> None:
        """Remove `names` from `topics`, because the server has confirmed it."""
        names = set(names)
        self.topics = tuple(name for name in self.topics if name not in names)

    def with_newest_token(self, position: IssuedId) -> str:
        """Return the event id of `position`, with the newest reconnect token where it is valid.

        Example: a slow application has handled up to an id of connection 1, and connection 3 is
        open. The session accepts the reconnect tokens of its two newest connections only
        (docs/protocol.md, section 7), so the id of connection 1 would soon be refused. The same
        place in the log with the token of connection 3 is accepted. After a gap it would be wrong:
        the server would resume as if nothing were missing.
        """
        event_id, number = position
        if self._resumable_since <= number < self.number:
            parsed = EventId.parse(event_id)
            if parsed is not None:
                return str(EventId(parsed.epoch, parsed.cursor, self._reconnect_token))
        return event_id
