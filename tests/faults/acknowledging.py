"""Acknowledging as docs/protocol.md, section 12, asks of a client: early enough, not too often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

QUIET = 0.1
"""Seconds after which what was handled is acknowledged, if nothing more came."""

LEAST_WINDOW = 16 * 1024


class Acknowledger:
    """Says when which event id is to be acknowledged on one connection."""

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self._window = LEAST_WINDOW
        self._id: str | None = None
        self._handled = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, window: int | None) -> None:
        """The first frame has come, and says how large the window is."""
        self._window = window or LEAST_WINDOW

    def handled(self, id: str, size: int) -> None:
        """A frame was handled."""
        self._id = id
        self._handled += size + len(id)
        if self._handled >= self._window / 2:
            self._acknowledge()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(QUIET, self._acknowledge)

    def stop(self) -> None:
        """The connection is over."""
        self._id = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _acknowledge(self) -> None:
        id = self._id
        self.stop()
        self._handled = 0
        if id is not None:
            self._send(id)
