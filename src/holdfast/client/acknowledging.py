"""Acknowledging what was handled: docs/protocol.md, section 12."""

from __future__ import annotations

import logging

import anyio

from .backlog import Backlog
from .endpoint import UNANSWERED, Endpoint
from .link import Link
from .reader import Reader
from .records import Gap, Message

_logger = logging.getLogger("holdfast.client")

PAUSE = 0.1
"""Seconds: so long nothing more is waited for before what was handled is acknowledged."""

MOST_PAUSE = 5.0
"""Seconds between two tries of an acknowledgement that is refused."""

SIGN_OF_LIFE = 300.0
"""Seconds without anything to acknowledge after which the last one is repeated: a server ends the
streams of clients that give no sign for 30 minutes."""

MOST_REFUSALS = 3
"""In a row, of a connection that is there: the POSTs reach another process of the server, or
something on the way lets none through."""

REFUSED = {403, 404, 405}


class Acknowledging:
    """Runs in one task beside the reader; what fails is made up for by the next."""

    def __init__(
        self, endpoint: Endpoint, backlog: Backlog[Message | Gap], link: Link, reader: Reader
    ) -> None:
        self._endpoint = endpoint
        self._backlog = backlog
        self._link = link
        self._reader = reader
        self._refusals = 0
        self._failures = 0

    async def run(self) -> None:
        """Acknowledge, connection by connection."""
        while True:
            hello = await self._link.opened()
            number, done = self._link.number, 0
            self._refusals = 0
            while hello.window and self._link.number == number and self._link.hello is not None:
                await self._due(done, hello.window // 2)
                position, handled = self._backlog.position, self._backlog.settled_bytes
                if position.connection != number or self._link.number != number:
                    continue
                if await self._post(hello.connection_id, position.id):
                    done = handled
            await self._link.ended(number, within=float("inf"))

    async def _due(self, done: int, half: int) -> None:
        """Wait for half a window, or for something that nothing more follows."""
        if self._backlog.settled_bytes == done:
            with anyio.move_on_after(SIGN_OF_LIFE) as pause:
                await self._backlog.moved()
            if pause.cancelled_caught:
                return
        while self._backlog.settled_bytes - done < half:
            with anyio.move_on_after(PAUSE) as pause:
                await self._backlog.moved()
            if pause.cancelled_caught:
                return

    async def _post(self, connection_id: str, id: str) -> bool:
        """Whether it arrived. After one that did not, wait a little."""
        try:
            answer = await self._endpoint.post("/ack", {"connectionId": connection_id, "id": id})
        except UNANSWERED as error:
            _logger.info("an acknowledgement was lost: %s", type(error).__name__)
            self._failures += 1
            await anyio.sleep(min(MOST_PAUSE, PAUSE * self._failures))
            return False
        self._failures = 0
        if answer.status == 200:
            self._refusals = 0
            return True
        self._refusals += 1
        await anyio.sleep(min(MOST_PAUSE, PAUSE * self._refusals))
        if answer.status in REFUSED and self._refusals >= MOST_REFUSALS:
            # Without acknowledgements that arrive, a window stays full for ever.
            _logger.warning("acknowledgements do not reach the stream's process: going on without")
            self._reader.acknowledges = False
            self._link.restart("acknowledgements do not arrive")
        return False
