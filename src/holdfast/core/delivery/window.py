"""Window: the bytes of one connection that may be sent and not yet acknowledged.

A message cannot overtake bytes that the kernel already has, and the kernel accepts megabytes. For
a client that acknowledges, the server sends at most a window ahead and keeps the other messages in
the PriorityBuffer, where a better one still overtakes them. The size of the window follows the
link, as in LEDBAT (RFC 6817, section 2.4.2): it grows while acknowledgements are prompt, and
shrinks when frames were queued on the way for longer than `TARGET_DELAY`.
"""

from __future__ import annotations

import math
from collections import deque

from ..cursor import Cursor

MIN_BYTES = 16 * 1024
"""Bytes: the initial and the smallest window. 16 KiB take 131 ms on a link of 1 Mbit/s."""

GRAIN = 1024
"""Bytes: smaller frames are recorded together, so that a large window is still a short list."""

TARGET_DELAY = 0.1
"""Seconds that frames may queue on the way; RFC 6817 allows at most 0.1."""


class Window:
    """The frames that were sent on one connection and are not yet acknowledged.

    Invariants (tests/core/delivery/test_window.py compares with a plain list): `unacknowledged`
    is the sum of the frames beyond the last acknowledged cursor, and at most `GRAIN` more;
    `MIN_BYTES <= size <= limit` (a smaller `limit` is the size); the window is full only while
    something is unacknowledged, so acknowledging the last frame always opens it.

    Args:
        limit: Bytes, the largest window.
    """

    __slots__ = (
        "_base_delay",
        "_last_progress",
        "_limit",
        "_min_size",
        "_sent",
        "_was_full",
        "size",
        "unacknowledged",
    )

    def __init__(self, limit: int) -> None:
        self.unacknowledged = 0
        """Bytes that were sent and not acknowledged."""
        self.size = self._min_size = min(MIN_BYTES, limit)
        """Bytes that may be unacknowledged now. The message that reaches it is sent whole."""
        self._limit = limit
        self._was_full = False
        self._sent: deque[tuple[Cursor, int, float]] = deque()  # cursor, bytes, time
        self._base_delay = math.inf
        self._last_progress = 0.0

    @property
    def room(self) -> int:
        """Bytes that may still be sent, 0 if the window is full."""
        return max(0, self.size - self.unacknowledged)

    @property
    def waiting_since(self) -> float | None:
        """The time since when an acknowledgement is due, `None` if every frame is acknowledged.

        Each acknowledgement that releases a frame starts it anew. The clock is that of `now`.
        """
        return self._last_progress if self._sent else None

    def record_sent(self, cursor: Cursor, size: int, now: float) -> None:
        """Record a frame that was sent.

        Args:
            cursor: The cursor of the connection after the frame; cursors never go back.
            size: Bytes of the frame.
            now: Seconds of a monotonic clock.
        """
        self.unacknowledged += size
        if not self._sent:
            self._last_progress = now
        if self._sent and self._sent[-1][1] + size <= GRAIN:
            size += self._sent.pop()[1]
        self._sent.append((cursor, size, now))
        self._was_full |= not self.room

    def acknowledge(self, cursor: Cursor, now: float) -> None:
        """Record that the client has every frame up to `cursor`, and adapt the size."""
        released, delay = 0, 0.0
        while self._sent and self._sent[0][0] <= cursor:
            _, size, sent_at = self._sent.popleft()
            released, delay = released + size, now - sent_at
        if released:
            self._last_progress = now
            self.unacknowledged -= released
            self._adapt(released, delay)

    def _adapt(self, released: int, delay: float) -> None:
        """Change the size by at most `released` bytes; grow only if the window was full.

        The lowest delay seen so far is taken for the delay of the idle link, and the excess over it
        for time that the frame spent in queues.
        """
        self._base_delay = min(self._base_delay, delay)
        queued = delay - self._base_delay
        change = released * max(-1.0, (TARGET_DELAY - queued) / TARGET_DELAY)
        if change < 0 or self._was_full:
            self.size = max(self._min_size, min(self._limit, self.size + int(change)))
        self._was_full = not self.room
