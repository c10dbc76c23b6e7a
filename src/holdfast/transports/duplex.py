"""DuplexScope: run both directions of one connection together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from ..asgi_types import Receive

if TYPE_CHECKING:
    from ..runtime.connection import Outbox

FINISH_TIMEOUT = 2.0
"""Seconds for the last send: hypercorn never ends it over HTTP/2 when the client has gone."""


class DuplexScope:
    """Both directions of a connection: `async with` it to send, while a task of its own listens.

    The end of one ends the other, whatever it waits for, and so does `outbox.abort`. What the
    listening raises is raised here, and cancellations from elsewhere go on. One task always sits
    in `receive`: after the client has gone, `send` succeeds silently on every server.
    """

    __slots__ = ("_before", "_is_ended", "_listener", "_sender")

    def __init__(self, outbox: Outbox, listening: Coroutine[Any, Any, None]) -> None:
        sender = asyncio.current_task()
        assert sender is not None
        self._sender: asyncio.Task[Any] | None = sender
        self._before = sender.cancelling()
        self._is_ended = False
        self._listener = sender.get_loop().create_task(listening, name="holdfast listener")
        outbox.abort = self._end
        self._listener.add_done_callback(outbox.abort)

    def _end(self, _: object = None) -> None:
        """Cancel what the block waits for, as `asyncio.timeout` does at its deadline."""
        if self._sender is not None and not self._is_ended:
            self._is_ended = True
            self._sender.cancel()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        sender, listener, self._sender = self._sender, self._listener, None
        assert sender is not None
        is_ours = self._is_ended and sender.uncancel() <= self._before
        if not listener.done():
            listener.cancel()
            await asyncio.wait([listener])
        if kind is not None and not (is_ours and issubclass(kind, asyncio.CancelledError)):
            return False
        if not listener.cancelled():
            listener.result()
        return True


async def until_gone(receive: Receive, outbox: Outbox) -> None:
    """Listen to a client that can only go."""
    while (await receive())["type"] != "http.disconnect":
        pass
    outbox.lost()
