"""FanOut: offers each message of the live feed to the connections that may have it.

A batch is offered to all connections in one synchronous step. Then the connections with new
messages are served in turn, a limited number per turn of the event loop, so that other tasks can
run in between. A connection that keeps up is sent its messages inline; for any other connection,
its own task is woken. New messages gather meanwhile, so batches grow with the load.
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
    ready connections, or its own task has been woken.
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
        """Offer each message to the connections that may have it, and schedule these."""
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
                # The other connections must get their messages. This one's client resumes.
                _logger.exception("the inline send failed; closing connection %s", connection.id)
                connection.close(Reason.FAILED)
        if ready:
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._renderer.clear()


def _address(message: Message) -> tuple[str, UserId | None]:
    return message.topic, message.to_user
