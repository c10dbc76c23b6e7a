"""Connections in this process: real transports, and a `send` that only counts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, Self

from holdfast.transports import sse, websocket

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from types import TracebackType

    from holdfast import Broadcaster
    from holdfast.asgi import LiveApp

SCOPE = {"type": "http", "http_version": "1.1"}
REQUEST = {
    **SCOPE,
    "method": "GET",
    "path": "/stream",
    "query_string": b"topics=hot",
    "headers": [(b"host", b"127.0.0.1")],
}
PATIENCE = 60.0


class Fleet:
    """Opens connections of a broadcaster, during an `async with` block.

    `sends` counts the events that the transports passed to the server, `received` the messages in
    them.
    """

    def __init__(self, broadcaster: Broadcaster, transport: Literal["sse", "websocket"] = "sse"):
        self.sends = self.received = 0
        self._broadcaster = broadcaster
        self._serve = self._event_stream if transport == "sse" else self._socket
        self._tasks: list[asyncio.Task[None]] = []
        self._never = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def open(
        self, topics: Sequence[Sequence[str]], *, last_event_id: str | None = None
    ) -> None:
        """Open a connection per element, with its topics. Returns when all are live."""
        each = 2 if self._serve == self._event_stream else 1  # the start of the response is one
        await self._run([self._serve(names, last_event_id) for names in topics], each)

    async def request(self, app: LiveApp, connections: int) -> None:
        """Open `connections` event streams of an application. Returns when all are live."""
        requests = [app(dict(REQUEST), self._receive, self._send_body) for _ in range(connections)]
        await self._run(requests, 2)

    async def _run(self, connections: Sequence[Coroutine[Any, Any, None]], sends_each: int) -> None:
        before = len(self._tasks)
        sends = self.sends + len(connections) * sends_each
        self._tasks += [asyncio.ensure_future(connection) for connection in connections]
        async with asyncio.timeout(PATIENCE):
            while self.sends < sends:
                for task in self._tasks[before:]:
                    if task.done():
                        task.result()
                await asyncio.sleep(0)

    async def until(self, received: int) -> None:
        """Return when `received` messages have arrived in total."""
        async with asyncio.timeout(PATIENCE):
            while self.received < received:  # noqa: ASYNC110 - adds no wake-up of its own
                await asyncio.sleep(0)

    async def _event_stream(self, topics: Sequence[str], last_event_id: str | None) -> None:
        async with self._broadcaster.connect(
            topics=topics, last_event_id=last_event_id
        ) as connection:
            await sse.serve(connection, dict(SCOPE), self._receive, self._send_body)

    async def _socket(self, topics: Sequence[str], last_event_id: str | None) -> None:
        async with self._broadcaster.connect(
            topics=topics, last_event_id=last_event_id
        ) as connection:
            await websocket.serve(connection, self._receive, self._send_text, self._command)

    async def _receive(self) -> Any:
        await asyncio.shield(self._never)

    async def _send_body(self, event: Any) -> None:
        self.sends += 1
        self.received += event.get("body", b"").count(b"^")

    async def _send_text(self, event: Any) -> None:
        self.sends += 1
        self.received += event.get("text", "").count("^")

    async def _command(self, kind: str, message: dict[str, object]) -> bytes | None:
        return None
