"""The usual hand-written server: pure ASGI, encoded once, an asyncio.Queue per connection."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.benchmarks.contestants.raw_parts import EVENT_STREAM_START, event, until_gone
from tests.benchmarks.wire import numbers_of_events as decode

__all__ = ["decode"]

KIND = "sse"
PATH = "/events"
queues: set[asyncio.Queue[bytes]] = set()


def publish(message: dict[str, Any]) -> None:
    body = event(message)
    for queue in queues:
        queue.put_nowait(body)


def subscribers() -> int:
    return len(queues)


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def pump() -> None:
        while True:
            body = await queue.get()
            await send({"type": "http.response.body", "body": body, "more_body": True})

    await send(EVENT_STREAM_START)
    queues.add(queue)
    pumping = asyncio.create_task(pump())
    await until_gone(receive, pumping, "http.disconnect", lambda: queues.discard(queue))
