"""DrainAtSignal: end the streams when the process is asked to stop.

uvicorn and granian wait for ever on SIGTERM while a stream is open, and run the lifespan's
shutdown only after the streams have ended, so ending the streams there would be a deadlock.
Draining therefore starts at the signal itself, in a handler that is chained in front of the
server's own. No class is patched.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class DrainAtSignal:
    """Calls `drain` in the event loop at a signal, and then the handler that was there before."""

    def __init__(self, drain: Callable[[], None]) -> None:
        self._drain = drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int] = {}

    def install(self) -> bool:
        """Chain the handler, from the running loop.

        Returns False, and changes nothing, outside the main thread, where Python allows no signal
        handlers, and if the handler is installed already.
        """
        if self._loop is not None or threading.current_thread() is not threading.main_thread():
            return False
        self._loop = asyncio.get_running_loop()
        for number in SIGNALS:
            previous = signal.getsignal(number)
            # Skipped: a handler below which this one is still chained, and a handler of C code,
            # which Python cannot call.
            if number not in self._previous and previous is not None:
                self._previous[number] = previous
                signal.signal(number, self._handle)
        return True

    def remove(self) -> None:
        """Restore the previous handlers, except where another one was chained in front."""
        for number, previous in list(self._previous.items()):
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous)
                del self._previous[number]
        self._loop = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A handler in front may call this one after `remove`; then only the previous one is left.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drain)
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        elif previous == signal.SIG_DFL:
            # No other handler would end the process, so the default action must.
            self.remove()
            signal.raise_signal(number)
