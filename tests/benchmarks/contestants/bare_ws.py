"""The limit of loop and kernel over WebSocket: one ready frame, written to every transport."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contestants.raw_parts import Writers
from tests.benchmarks.wire import numbers_of_texts as decode
from tests.benchmarks.wire import to_json

if TYPE_CHECKING:
    import socket

__all__ = ["decode"]

KIND = "ws"
PATH = "/ws"
KEY = re.compile(rb"sec-websocket-key: *(\S+)", re.IGNORECASE)
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)


def answer(request: bytes) -> bytes:
    key = KEY.search(request)
    assert key is not None
    digest = hashlib.sha1(key[1] + GUID, usedforsecurity=False).digest()
    return HEAD % base64.b64encode(digest)


writers = Writers(answer, join=True)


def publish(message: dict[str, Any]) -> None:
    text = to_json(message).encode()
    writers.write(b"\x81\x7e%b%b" % (len(text).to_bytes(2, "big"), text))


def subscribers() -> int:
    return len(writers.transports)


async def serve(listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(writers.protocol, sock=listening, backlog=4096)
    await server.serve_forever()
