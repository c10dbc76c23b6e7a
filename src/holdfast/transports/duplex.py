"""DuplexScope: both directions of one connection, which end together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ..asgi_types import Receive
from ..runtime.connection import Connection

FINISH_TIMEOUT = 2.0
"""Seconds for the last send, because hypercorn never ends it over HTTP/2 without a client."""


class DuplexScope:
    """Runs a coroutine that receives, while the body of `async with` sends.

    The end of one direction ends the other. A send that takes longer than `send_timeout` ends both
    (`Connection.on_abort`). A task always waits in `receive`, because on every server, `send`
    succeeds silently after the client has disconnected.

    Args:
        connection: The connection, for `on_abort`.
        receiving: The coroutine that receives. Its exception is raised at the end of the block.

    Cancellation:
        A cancellation of the caller cancels both directions, and is raised.
    """

    __slots__ = ("_is_ended", "_receiver", "_requests_before", "_sender")

    def __init__(self, connection: Connection, receiving: Coroutine[Any, Any, None]) -> None:
        sender = asyncio.current_task()
        assert sender is not None
        self._sender: asyncio.Task[Any] | None = sender
        self._requests_before = sender.cancelling()
        self._is_ended = False
        self._receiver = sender.get_loop().create_task(receiving, name="holdfast receiver")
        connection.on_abort(self._end)
        self._receiver.add_done_callback(self._end)

    def _end(self, _: object = None) -> None:
        """Cancel the sending task, as `asyncio.timeout` does at its deadline."""
        if self._sender is not None and not self._is_ended:
            self._is_ended = True
            self._sender.cancel()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        sender, receiver, self._sender = self._sender, self._receiver, None
        assert sender is not None
        is_ours = self._is_ended and sender.uncancel() <= self._requests_before
        if not receiver.done():
            receiver.cancel()
            await asyncio.wait([receiver])
        if kind is not None and not (is_ours and issubclass(kind, asyncio.CancelledError)):
            return False
        if not receiver.cancelled():
            receiver.result()
        return True


async def until_disconnect(receive: Receive, connection: Connection) -> None:
    """Receive until the client disconnects, and mark the connection as lost.

    Args:
        receive: The ASGI receive callable of an `http` request. Request bodies are ignored.
        connection: The connection to mark.

    Cancellation:
        The connection is not marked.
    """
    while (await receive())["type"] != "http.disconnect":
        pass
    connection.mark_lost()
