"""FanOut: offers each message of the live feed to the connections that may have it.

A batch is offered to all connections at once, and nothing waits meanwhile. Then the connections
with something new are served in the order in which they got it, a limited number per turn of the
event loop: a connection that keeps up is served inline, any other one wakes its own task. The next
messages gather while a turn runs, so batches grow with the load, and nothing else waits for long.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from itertools import groupby

from ..core.delivery.lanes import LiveBatch
from ..core.message import Message, UserId
from ..core.registry import ConnectionRegistry
from ..reasons import Reason
from .clock import Clock
from .connection import Connection, DeliveredLog
from .inline_send import BatchRenderer

_logger = logging.getLogger("holdfast")

CONNECTIONS_PER_TURN = 100
"""Connections that are served in one turn of the event loop, at most."""

SENDS_PER_TURN = 1000
"""Calls of `send` after which the turn ends earlier."""


class FanOut:
    """The fan-out of one node.

    Invariant (tests/runtime/test_fanout.py): a connection with pending messages is in the queue of
    ready connections, or its own task is awake.
    """

    def __init__(
        self, registry: ConnectionRegistry[Connection], log: DeliveredLog, clock: Clock
    ) -> None:
        self._registry = registry
        self._monotonic = clock.monotonic
        self._log = log
        self._renderer = BatchRenderer(clock.time)
        self._ready: deque[Connection] = deque()

    def offer(self, messages: Iterable[Message]) -> None:
        """Offer each message to the connections that may have it, and schedule their turns."""
        ready = self._ready
        was_idle = not ready
        for _, group in groupby(messages, _address):
            batch = LiveBatch(tuple(group))
            for connection in self._registry.recipients(batch.messages[0]):
                if connection.delivery.offer(batch):
                    ready.append(connection)
        if ready and was_idle:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Serve the next ready connections."""
        ready, now = self._ready, self._monotonic()
        self._renderer.begin_turn(self._log.epoch, self._log.delivered_offset)
        sends = 0
        for _ in range(min(CONNECTIONS_PER_TURN, len(ready))):
            if sends >= SENDS_PER_TURN:
                break
            connection = ready.popleft()
            try:
                sends += connection.send_inline(self._renderer, now)
            except Exception:
                # One connection must not cost the others anything. Its client resumes.
                _logger.exception("sending inline failed; closing connection %s", connection.id)
                connection.close(Reason.FAILED)
        if ready:
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._renderer.clear()


def _address(message: Message) -> tuple[str, UserId | None]:
    return message.topic, message.to_user
