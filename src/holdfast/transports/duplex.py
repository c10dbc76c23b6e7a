"""DuplexScope: both directions of one connection, ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ..asgi_types import Receive
from ..runtime.connection import Connection

FINISH_TIMEOUT = 2.0
"""Seconds for the last send: over HTTP/2, hypercorn never ends it when the client has gone."""


class DuplexScope:
    """Send inside `async with`, while a task of its own receives.

    The end of one direction ends the other, whatever it waits for, and so does a send that is
    stuck (`Connection.on_abort`). Exceptions of the receiving task are raised here, and
    cancellations from elsewhere pass through. One task always waits in `receive`, because after
    the client has gone, `send` succeeds silently on every server.
    """

    __slots__ = ("_before", "_is_ended", "_receiver", "_sender")

    def __init__(self, connection: Connection, receiving: Coroutine[Any, Any, None]) -> None:
        sender = asyncio.current_task()
        assert sender is not None
        self._sender: asyncio.Task[Any] | None = sender
        self._before = sender.cancelling()
        self._is_ended = False
        self._receiver = sender.get_loop().create_task(receiving, name="holdfast receiver")
        connection.on_abort(self._end)
        self._receiver.add_done_callback(self._end)

    def _end(self, _: object = None) -> None:
        """Cancel whatever the block waits for, as `asyncio.timeout` does at its deadline."""
        if self._sender is not None and not self._is_ended:
            self._is_ended = True
            self._sender.cancel()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        sender, receiver, self._sender = self._sender, self._receiver, None
        assert sender is not None
        is_ours = self._is_ended and sender.uncancel() <= self._before
        if not receiver.done():
            receiver.cancel()
            await asyncio.wait([receiver])
        if kind is not None and not (is_ours and issubclass(kind, asyncio.CancelledError)):
            return False
        if not receiver.cancelled():
            receiver.result()
        return True


async def until_disconnect(receive: Receive, connection: Connection) -> None:
    """Receive from a client that sends nothing, until it disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    connection.mark_lost()
