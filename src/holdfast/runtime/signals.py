"""DrainAtSignal: ends the streams at SIGTERM and SIGINT.

At SIGTERM, uvicorn and granian wait without end for open streams, and run the lifespan's shutdown
after that. A drain in the shutdown would be too late. Therefore the drain begins at the signal, in
a handler that then calls the server's own handler. No class of the server is patched.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class DrainAtSignal:
    """At a signal, calls `drain` in the event loop, and then the handler from before `install`."""

    def __init__(self, drain: Callable[[], None]) -> None:
        self._drain = drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int] = {}

    def install(self) -> bool:
        """Put the handler in front of the present handlers of both signals.

        Returns:
            False, without any effect, outside the main thread, where Python does not allow signal
            handlers; or if the handler is installed already.
        """
        if self._loop is not None or threading.current_thread() is not threading.main_thread():
            return False
        self._loop = asyncio.get_running_loop()
        for number in SIGNALS:
            previous = signal.getsignal(number)
            # Two cases are skipped: an earlier `install` is still in the chain of handlers; or the
            # handler is C code, which Python cannot call (`None`).
            if number not in self._previous and previous is not None:
                self._previous[number] = previous
                signal.signal(number, self._handle)
        return True

    def remove(self) -> None:
        """Take the handler out of the chain, except below a handler of another kind.

        Without that, Broadcasters that start and stop in turns would chain one more handler at
        each start, and each would keep its stopped run alive.
        """
        for number, previous in list(self._previous.items()):
            front = signal.getsignal(number)
            if front == self._handle:
                signal.signal(number, previous)
                del self._previous[number]
            while isinstance(above := getattr(front, "__self__", None), DrainAtSignal):
                front = above._previous.get(number)
                if front == self._handle:
                    above._previous[number] = self._previous.pop(number)
        self._loop = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A handler that was installed later may still call this one after `remove`. In that case,
        # only the previous handler is called.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drain)
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        elif previous == signal.SIG_DFL:
            # The process must end, and no other handler does that.
            self.remove()
            signal.raise_signal(number)
