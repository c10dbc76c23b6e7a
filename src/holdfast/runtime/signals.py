"""Draining at the signal.

uvicorn and granian wait for ever on SIGTERM while a stream is open, and run the lifespan's
shutdown only after the streams have ended: closing them there would be a deadlock. So draining
starts at the signal itself, in a handler chained before the server's own. No class is patched.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

_logger = logging.getLogger("holdfast")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class DrainAtSignal:
    """Calls `drain` in the loop when the process is asked to end, then the handler before it."""

    def __init__(self, drain: Callable[[], None]) -> None:
        self._drain = drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int] = {}

    def install(self) -> bool:
        """Chain in, from the running loop; `False` where signals cannot be had."""
        if self._loop is not None or threading.current_thread() is not threading.main_thread():
            return False
        self._loop = asyncio.get_running_loop()
        for number in SIGNALS:
            previous = signal.getsignal(number)
            # Not when we are still in the chain, below another; nor above a handler of C code,
            # which could not be called from here.
            if number not in self._previous and previous is not None:
                self._previous[number] = previous
                signal.signal(number, self._handle)
        return True

    def remove(self) -> None:
        """Put back what was there, unless somebody chained in after us."""
        for number, previous in list(self._previous.items()):
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous)
                del self._previous[number]
        self._loop = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Also after `remove`, if a handler above still calls us: then only what was before is left.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drain)
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        elif previous == signal.SIG_DFL:
            # Nobody else would end the process: let the default action do so.
            self.remove()
            signal.raise_signal(number)
