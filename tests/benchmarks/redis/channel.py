"""A `Child`'s end of the channel: commands come as JSON lines, and each is answered."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Handlers = dict[str, "Callable[..., Awaitable[dict[str, Any]]]"]


async def answer(number: int, handlers: Handlers, hello: dict[str, Any]) -> None:
    """Announce the process, and answer until the channel is closed; then this process ends."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=number), limit=2**24)
    writer.write(json.dumps(hello).encode() + b"\n")
    while line := await reader.readline():
        spec = json.loads(line)
        result = await handlers[spec.pop("command")](**spec)
        writer.write(json.dumps(result).encode() + b"\n")
    os._exit(0)  # no client waits for a graceful end
