"""Acknowledger: acknowledges handled messages (docs/protocol.md, section 12)."""

from __future__ import annotations

import logging

import anyio

from .connection import CurrentConnection
from .receive_queue import ReceiveQueue
from .records import Gap, Message
from .request_sender import RETRYABLE_ERRORS, RequestSender

_logger = logging.getLogger("holdfast.client")

PAUSE = 0.1
"""Seconds without another handled message after which the client acknowledges (section 12)."""

MAX_RETRY_DELAY = 5.0
"""Seconds between two attempts, at most. The delay grows by PAUSE with each failure."""

KEEP_ALIVE_INTERVAL = 300.0
"""Seconds after which an idle client repeats its last acknowledgement. A server ends the stream of
a client that has sent nothing for 30 minutes (docs/protocol.md, section 9, `idle`)."""

REFUSAL_STATUSES = {403, 404, 405}
"""404: the POSTs reach another process of the server. 403 and 405: a proxy forbids them."""

MAX_REFUSALS = 3
"""Refusals in a row on one connection after which the client stops acknowledging."""


class Acknowledger:
    """The task that acknowledges. Each acknowledgement covers all earlier ones, also lost ones.

    Attributes:
        is_enabled: True if requests announce acknowledgements. Only the acknowledger assigns it.
    """

    def __init__(
        self,
        sender: RequestSender,
        queue: ReceiveQueue[Message | Gap],
        connection: CurrentConnection,
    ) -> None:
        self.is_enabled = True
        self._sender = sender
        self._queue = queue
        self._connection = connection
        self._refusals = 0
        self._failures = 0

    async def run(self) -> None:
        """Acknowledge on one connection after the other. Raises the stream's final error."""
        connection, queue = self._connection, self._queue
        while True:
            first_frame = await connection.wait_open()
            number, acknowledged_bytes = connection.number, 0
            self._refusals = 0
            while first_frame.window and connection.is_open(number):
                await self._wait_until_due(acknowledged_bytes, first_frame.window // 2)
                position, handled_bytes = queue.position, queue.handled_bytes
                # An id of an earlier connection cannot be acknowledged on this one.
                if position.connection != number or connection.number != number:
                    continue
                if await self._post(first_frame.connection_id, position.event_id):
                    acknowledged_bytes = handled_bytes
            await connection.wait_end(number)

    async def _wait_until_due(self, acknowledged_bytes: int, half_window: int) -> None:
        """Wait until half a window is handled, or until PAUSE passes after a handled message."""
        if self._queue.handled_bytes == acknowledged_bytes:
            with anyio.move_on_after(KEEP_ALIVE_INTERVAL) as timeout:
                await self._queue.wait_for_handled()
            if timeout.cancelled_caught:
                return
        while self._queue.handled_bytes - acknowledged_bytes < half_window:
            with anyio.move_on_after(PAUSE) as timeout:
                await self._queue.wait_for_handled()
            if timeout.cancelled_caught:
                return

    async def _post(self, connection_id: str, event_id: str) -> bool:
        """Send one acknowledgement, and return whether the server has accepted it.

        Waits a little after a failure.
        """
        try:
            body = {"connectionId": connection_id, "id": event_id}
            reply = await self._sender.post("/ack", body)
        except RETRYABLE_ERRORS as error:
            _logger.info("an acknowledgement was lost: %s", type(error).__name__)
            self._failures += 1
            await anyio.sleep(min(MAX_RETRY_DELAY, PAUSE * self._failures))
            return False
        self._failures = 0
        if reply.status == 200:
            self._refusals = 0
            return True
        self._refusals += 1
        await anyio.sleep(min(MAX_RETRY_DELAY, PAUSE * self._refusals))
        if reply.status in REFUSAL_STATUSES and self._refusals >= MAX_REFUSALS:
            # The window of a client that cannot acknowledge stays full: nothing would arrive.
            _logger.warning(
                "the server's process does not get the acknowledgements (status %d); the client"
                " connects again and stops acknowledging",
                reply.status,
            )
            self.is_enabled = False
            self._connection.restart("acknowledgements do not arrive")
        return False
