"""Heartbeats and deadlines of all connections, and the sweeps, from one task.

A timer per connection would cost more than one heap: each outbox is looked at when its nearest
deadline comes, and says when to look again.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from typing import TYPE_CHECKING

from ..core.connection import CloseReason, State
from ..core.tokens import ConnectionId
from ..errors import BrokerUnavailable, OutcomeUnknown
from . import frames

if TYPE_CHECKING:
    from .connection import Outbox
    from .node import Node

_logger = logging.getLogger("holdfast")

JITTER = 0.25
"""The part of a heartbeat interval by which each one may come earlier."""

CLOSING_TIMEOUT = 1.0
"""Seconds that a send may take when the connection is to end."""

STALLED = 0.5
"""Seconds by which the loop is late when something has held it up."""

LOOK_AGAIN = 30.0
"""Seconds until a connection without any deadline is looked at again."""


class ConnectionTimers:
    """Looks after the outboxes that it was given, until they are closed."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._options = node.options
        self._outboxes: dict[ConnectionId, Outbox] = {}
        self._due: list[tuple[float, ConnectionId]] = []
        self._changed = asyncio.Event()
        self._random = random.Random()  # noqa: S311 - jitter

    def watch(self, outbox: Outbox) -> None:
        """Look after `outbox` from now on."""
        self._outboxes[outbox.connection.id] = outbox
        self._schedule(outbox, outbox.connection.opened_at)

    def forget(self, outbox: Outbox) -> None:
        """It is over; only its id stays here until its deadline would have come."""
        self._outboxes.pop(outbox.connection.id, None)

    def hurry(self, outbox: Outbox) -> None:
        """Look at it again soon, because it was told to end."""
        self._push(outbox, self._node.monotonic() + CLOSING_TIMEOUT)

    async def heartbeats(self) -> None:
        """Run for ever: heartbeats, send deadlines, idle clients, expired credentials."""
        self._changed = asyncio.Event()  # of this loop, if another one ran before
        while True:
            now = self._node.monotonic()
            while self._due and self._due[0][0] <= now:
                outbox = self._outboxes.get(heapq.heappop(self._due)[1])
                if outbox is not None and outbox.connection.state is not State.CLOSED:
                    self.look_at(outbox, now)
                    self._schedule(outbox, now)
            self._changed.clear()
            pause = max(self._due[0][0] - now if self._due else LOOK_AGAIN, 0.01)
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                pass
            if self._node.monotonic() > now + pause + STALLED:
                # Nobody could be heard: what has come meanwhile is read before anyone is judged.
                await asyncio.sleep(STALLED)

    async def sweeps(self) -> None:
        """Run for ever: let the broker drop what is past its age."""
        while True:
            await asyncio.sleep(self._options.cleanup_interval)
            try:
                await self._node.broker.sweep()
            except (BrokerUnavailable, OutcomeUnknown) as error:
                _logger.warning("nothing was swept this time: %s", error)

    def look_at(self, outbox: Outbox, now: float) -> None:
        """Do what is due for one connection."""
        connection, keep = outbox.connection, self._options
        if connection.state is not State.CLOSING:
            if connection.expires_at is not None and connection.expires_at <= self._node.clock():
                outbox.close(CloseReason.EXPIRED)
            elif keep.idle_timeout is not None and connection.last_seen + keep.idle_timeout <= now:
                outbox.close(CloseReason.IDLE)
        if outbox.blocked_since is not None:
            limit = CLOSING_TIMEOUT if connection.state is State.CLOSING else keep.send_timeout
            if limit is not None and outbox.blocked_since + limit <= now:
                outbox.close(CloseReason.SLOW)
                outbox.lost()
                outbox.abort()
        elif connection.state is State.OPEN:
            if self._is_unanswered(outbox, now):
                outbox.close(CloseReason.SLOW)
            elif self._is_silent(outbox, now):
                outbox.put(frames.control("heartbeat", self._node.clock()))

    def _is_unanswered(self, outbox: Outbox, now: float) -> bool:
        """Whether the client has let the window stay full for too long."""
        window, limit = outbox.window, self._options.send_timeout
        if window is None or limit is None or window.room:
            return False
        return window.waiting_since is not None and window.waiting_since + limit <= now

    def _is_silent(self, outbox: Outbox, now: float) -> bool:
        interval = self._options.heartbeat_interval
        return interval is not None and now - outbox.last_sent >= interval * (1 - JITTER)

    def _schedule(self, outbox: Outbox, now: float) -> None:
        if outbox.connection.state is State.CLOSING:
            self._push(outbox, now + CLOSING_TIMEOUT)
            return
        connection, keep = outbox.connection, self._options
        deadlines = [now + LOOK_AGAIN]
        if keep.heartbeat_interval is not None:
            pause = keep.heartbeat_interval * (1 - JITTER * self._random.random())
            next_one = outbox.last_sent + pause
            deadlines.append(next_one if next_one > now else now + pause)
        if connection.expires_at is not None:
            deadlines.append(now + connection.expires_at - self._node.clock())
        if keep.idle_timeout is not None:
            deadlines.append(connection.last_seen + keep.idle_timeout)
        if keep.send_timeout is not None:
            deadlines.append((outbox.blocked_since or now) + keep.send_timeout)
        self._push(outbox, max(min(deadlines), now + 0.01))

    def _push(self, outbox: Outbox, due: float) -> None:
        if not self._due or due < self._due[0][0]:
            self._changed.set()
        heapq.heappush(self._due, (due, outbox.connection.id))
