"""Window: how many bytes of what was sent may be unacknowledged.

Nothing overtakes what the kernel has, and it takes megabytes. A client that acknowledges lets the
rest wait in its PriorityBuffer, where priorities still count. How much is under way follows the
link: it grows while acknowledgements come promptly, and shrinks when what was sent had to queue
longer than `TARGET_DELAY`, as in LEDBAT (RFC 6817, section 2.4.2).
"""

from __future__ import annotations

import math
from collections import deque

from ..cursor import Cursor

MIN_BYTES = 16 * 1024
"""The window at the beginning, and at the least: 131 ms of a link of 1 Mbit/s."""

GRAIN = 1024
"""Bytes: small frames are accounted for together, so that a window of any size is a short list."""

TARGET_DELAY = 0.1
"""Seconds that what is under way may queue; RFC 6817 allows at most this."""


class Window:
    """What was sent on one connection and not acknowledged yet.

    Invariants (tests/core/delivery/test_window.py compares it with a plain list): `unacknowledged`
    is the sum of what was sent beyond the last acknowledged cursor, and at most a `GRAIN` more;
    `MIN_BYTES <= size <= limit` (a smaller `limit` is the size); it is full only while something
    is unacknowledged, so an acknowledgement of the last frame always opens it.
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
        """Bytes."""
        self.size = self._min_size = min(MIN_BYTES, limit)
        """Bytes that may be unacknowledged now; the message that reaches it may be longer."""
        self._limit = limit
        self._was_full = False
        self._sent: deque[tuple[Cursor, int, float]] = deque()
        self._base_delay = math.inf
        self._last_progress = 0.0

    @property
    def room(self) -> int:
        """Bytes that may still be sent, 0 if it is full."""
        return max(0, self.size - self.unacknowledged)

    @property
    def waiting_since(self) -> float | None:
        """Since when no acknowledgement has come for anything, if one is due."""
        return self._last_progress if self._sent else None

    def record_sent(self, cursor: Cursor, size: int, now: float) -> None:
        """Note a frame that leaves the connection at `cursor`; cursors never go back."""
        self.unacknowledged += size
        if not self._sent:
            self._last_progress = now
        if self._sent and self._sent[-1][1] + size <= GRAIN:
            size += self._sent.pop()[1]
        self._sent.append((cursor, size, now))
        self._was_full |= not self.room

    def acknowledge(self, cursor: Cursor, now: float) -> None:
        """The client has everything up to `cursor`; what lies behind counts no more."""
        released, delay = 0, 0.0
        while self._sent and self._sent[0][0] <= cursor:
            _, size, sent_at = self._sent.popleft()
            released, delay = released + size, now - sent_at
        if released:
            self._last_progress = now
            self.unacknowledged -= released
            self._adapt(released, delay)

    def _adapt(self, released: int, delay: float) -> None:
        """Grow or shrink by at most what was released; grow only if the window was the limit."""
        self._base_delay = min(self._base_delay, delay)
        queued = delay - self._base_delay
        change = released * max(-1.0, (TARGET_DELAY - queued) / TARGET_DELAY)
        if change < 0 or self._was_full:
            self.size = max(self._min_size, min(self._limit, self.size + int(change)))
        self._was_full = not self.room
