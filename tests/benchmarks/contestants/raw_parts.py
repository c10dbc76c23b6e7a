"""Shared parts of hand-written contestants: response heads, event bytes, pending messages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tests.benchmarks.wire import to_json

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T", bytes, str)

EVENT_STREAM_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
    ],
}


def event(message: dict[str, Any]) -> bytes:
    """Return one event with the message's number as its id."""
    return b"id: %d\ndata: %b\n\n" % (message["i"], to_json(message).encode())


class Pending(Generic[T]):
    """The pending messages of one connection, and the task that waits for them."""

    __slots__ = ("items", "waiter")

    def __init__(self) -> None:
        self.items: list[T] = []
        self.waiter: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        self.items.append(item)
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    async def take(self) -> list[T]:
        """Return all pending messages, at least one."""
        while not self.items:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        taken, self.items = self.items, []
        return taken


async def until_gone(
    receive: Callable[..., Any], pump: asyncio.Task[None], gone: str, forget: Callable[[], None]
) -> None:
    """Wait in `receive` until the client is `gone`."""
    try:
        while (await receive())["type"] != gone:
            pass
    finally:
        forget()
        pump.cancel()


class Writers:
    """A protocol per connection that answers its first bytes. One loop writes to all of them."""

    def __init__(self, answer: Callable[[bytes], bytes], *, join: bool = False) -> None:
        self.transports: set[Any] = set()
        self._answer = answer
        self._join = join
        self._pending: list[bytes] = []

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol, for `create_server`."""
        return _Writer(self.transports, self._answer)

    def write(self, data: bytes) -> None:
        """Write to all connections: at once, or (`join`) with everything else of this tick."""
        if not self._join:
            self._send(data)
            return
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending.append(data)

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._send(data)

    def _send(self, data: bytes) -> None:
        for transport in self.transports:
            transport.write(data)


class _Writer(asyncio.Protocol):
    def __init__(self, transports: set[Any], answer: Callable[[bytes], bytes]) -> None:
        self._transports, self._answer = transports, answer

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._transport not in self._transports:
            self._transport.write(self._answer(data))
            self._transports.add(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transports.discard(self._transport)
