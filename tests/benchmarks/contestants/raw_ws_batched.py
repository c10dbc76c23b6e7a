"""raw_ws with one text frame for all pending messages, separated by newlines."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.benchmarks.contestants.raw_parts import Pending, until_gone
from tests.benchmarks.wire import numbers_of_texts as decode
from tests.benchmarks.wire import to_json

__all__ = ["decode"]

KIND = "ws"
PATH = "/ws"
waiting: set[Pending[str]] = set()


def publish(message: dict[str, Any]) -> None:
    text = to_json(message)
    for pending in waiting:
        pending.put(text)


def subscribers() -> int:
    return len(waiting)


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    pending: Pending[str] = Pending()

    async def pump() -> None:
        while True:
            await send({"type": "websocket.send", "text": "\n".join(await pending.take())})

    await receive()
    await send({"type": "websocket.accept"})
    waiting.add(pending)
    pumping = asyncio.create_task(pump())
    await until_gone(receive, pumping, "websocket.disconnect", lambda: waiting.discard(pending))
