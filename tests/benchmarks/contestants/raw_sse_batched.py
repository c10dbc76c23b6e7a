"""raw_sse with a list and a bare Future per connection, and one body for all pending messages."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.benchmarks.contestants.raw_parts import EVENT_STREAM_START, Pending, event, until_gone
from tests.benchmarks.wire import numbers_of_events as decode

__all__ = ["decode"]

KIND = "sse"
PATH = "/events"
waiting: set[Pending[bytes]] = set()


def publish(message: dict[str, Any]) -> None:
    body = event(message)
    for pending in waiting:
        pending.put(body)


def subscribers() -> int:
    return len(waiting)


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    pending: Pending[bytes] = Pending()

    async def pump() -> None:
        while True:
            body = b"".join(await pending.take())
            await send({"type": "http.response.body", "body": body, "more_body": True})

    await send(EVENT_STREAM_START)
    waiting.add(pending)
    pumping = asyncio.create_task(pump())
    await until_gone(receive, pumping, "http.disconnect", lambda: waiting.discard(pending))
