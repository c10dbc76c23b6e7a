"""The hand-written server over WebSocket: a queue per connection, a text frame per message."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.benchmarks.contestants.raw_parts import until_gone
from tests.benchmarks.wire import numbers_of_texts as decode
from tests.benchmarks.wire import to_json

__all__ = ["decode"]

KIND = "ws"
PATH = "/ws"
queues: set[asyncio.Queue[str]] = set()


def publish(message: dict[str, Any]) -> None:
    text = to_json(message)
    for queue in queues:
        queue.put_nowait(text)


def subscribers() -> int:
    return len(queues)


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def pump() -> None:
        while True:
            await send({"type": "websocket.send", "text": await queue.get()})

    await receive()
    await send({"type": "websocket.accept"})
    queues.add(queue)
    pumping = asyncio.create_task(pump())
    await until_gone(receive, pumping, "websocket.disconnect", lambda: queues.discard(queue))
