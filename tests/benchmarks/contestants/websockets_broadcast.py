"""`broadcast` of the websockets library, on its own server: no ASGI, no queue per connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as serve_sockets

from tests.benchmarks.wire import numbers_of_texts as decode
from tests.benchmarks.wire import to_json

if TYPE_CHECKING:
    import socket

__all__ = ["decode"]

KIND = "ws"
PATH = "/ws"
connections: set[ServerConnection] = set()


def publish(message: dict[str, Any]) -> None:
    broadcast(connections, to_json(message))


def subscribers() -> int:
    return len(connections)


async def handle(connection: ServerConnection) -> None:
    connections.add(connection)
    try:
        async for _ in connection:
            pass
    finally:
        connections.discard(connection)


async def serve(listening: socket.socket) -> None:
    server = await serve_sockets(
        handle, sock=listening, compression=None, ping_interval=None, backlog=4096
    )
    await server.serve_forever()
