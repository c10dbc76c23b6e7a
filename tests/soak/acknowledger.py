"""Acknowledging as docs/protocol.md, section 12, requires it: early enough, not too often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

IDLE_DELAY = 0.1
"""Seconds after a frame until it is acknowledged, unless half a window comes before."""

MIN_WINDOW = 16 * 1024
"""Bytes."""


class Acknowledger:
    """Calls `send` with each event id to be acknowledged on one connection."""

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self._window = MIN_WINDOW
        self._id: str | None = None
        self._handled_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, window: int | None) -> None:
        """Take over the window of the first frame."""
        self._window = window or MIN_WINDOW

    def handled(self, id: str, size: int) -> None:
        """Record that a frame of `size` bytes was handled."""
        self._id = id
        self._handled_bytes += size + len(id)
        if self._handled_bytes >= self._window / 2:
            self._acknowledge()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(IDLE_DELAY, self._acknowledge)

    def stop(self) -> None:
        """Acknowledge nothing further: the connection has ended."""
        self._id = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _acknowledge(self) -> None:
        id = self._id
        self.stop()
        self._handled_bytes = 0
        if id is not None:
            self._send(id)
