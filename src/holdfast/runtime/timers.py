"""ConnectionTimers: the deadlines of all connections, in one heap and one task.

One heap costs less than a timer per connection: each send would cancel a timer and create another.
A connection is checked at its nearest deadline, and returns the next one.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Protocol

from ..core.tokens import ConnectionId

STALL = 0.5
"""Seconds of delay from which the event loop counts as blocked."""

MAX_PAUSE = 30.0
"""Seconds until the next check while there are no deadlines."""

MIN_PAUSE = 0.01
"""Seconds between two checks of one connection, at least."""


class Timed(Protocol):
    """An object with deadlines."""

    @property
    def id(self) -> ConnectionId:
        """The id of the object."""
        ...

    def check_deadlines(self, now: float) -> float | None:
        """Act on the deadlines that have passed, and return the next one; `None` after the end."""
        ...


class ConnectionTimers:
    """Calls `check_deadlines` of each object that was added, until it is removed.

    Args:
        monotonic: Returns seconds of the event loop's clock.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._timed: dict[ConnectionId, Timed] = {}
        self._deadlines: list[tuple[float, ConnectionId]] = []
        self._changed = asyncio.Event()

    def add(self, timed: Timed, deadline: float) -> None:
        """Add an object, with its first deadline."""
        self._timed[timed.id] = timed
        self._push(deadline, timed.id)

    def remove(self, timed: Timed) -> None:
        """Remove an object. Its id stays in the heap until its next deadline."""
        self._timed.pop(timed.id, None)

    def expedite(self, timed: Timed, deadline: float) -> None:
        """Check an object at `deadline` or before, because its next deadline is earlier now."""
        if timed.id in self._timed:
            self._push(deadline, timed.id)

    async def run(self) -> None:
        """Check all objects at their deadlines, until cancelled."""
        while True:
            now = self._monotonic()
            self._check_due(now)
            self._changed.clear()
            pause = max(self._deadlines[0][0] - now if self._deadlines else MAX_PAUSE, MIN_PAUSE)
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                pass
            if self._monotonic() > now + pause + STALL:
                # The event loop was blocked. Pending input must be processed before deadlines
                # are checked, or every client would seem to be idle.
                await asyncio.sleep(STALL)

    def _check_due(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            timed = self._timed.get(heapq.heappop(self._deadlines)[1])
            if timed is not None:
                deadline = timed.check_deadlines(now)
                if deadline is not None:
                    self._push(max(deadline, now + MIN_PAUSE), timed.id)

    def _push(self, deadline: float, id: ConnectionId) -> None:
        if not self._deadlines or deadline < self._deadlines[0][0]:
            self._changed.set()
        heapq.heappush(self._deadlines, (deadline, id))
