"""FastAPI's own server-sent events over an asyncio.Queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import Any

from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent

from tests.benchmarks.wire import numbers_of_events as decode
from tests.benchmarks.wire import to_json

__all__ = ["decode"]

KIND = "sse"
PATH = "/events"
SHARE = 0.2
queues: set[asyncio.Queue[tuple[str, str]]] = set()
app = FastAPI()


def publish(message: dict[str, Any]) -> None:
    item = (str(message["i"]), to_json(message))
    for queue in queues:
        queue.put_nowait(item)


def subscribers() -> int:
    return len(queues)


@app.get(PATH, response_class=EventSourceResponse)
async def events() -> AsyncIterable[ServerSentEvent]:
    queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    queues.add(queue)
    try:
        while True:
            number, text = await queue.get()
            yield ServerSentEvent(raw_data=text, id=number)
    finally:
        queues.discard(queue)
