"""The limit of loop and kernel: bytes made once, written to every transport, without a server.

The wire has the bytes that uvicorn would send. All messages of one tick are joined, which is the
optimum.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contestants.raw_parts import Writers, event
from tests.benchmarks.wire import numbers_of_events as decode

if TYPE_CHECKING:
    import socket

__all__ = ["decode"]

KIND = "sse"
PATH = "/events"
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
writers = Writers(lambda _: HEAD, join=True)


def publish(message: dict[str, Any]) -> None:
    body = event(message)
    writers.write(b"%x\r\n%b\r\n" % (len(body), body))


def subscribers() -> int:
    return len(writers.transports)


async def serve(listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(writers.protocol, sock=listening, backlog=4096)
    await server.serve_forever()
