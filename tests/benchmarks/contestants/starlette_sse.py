"""Starlette's StreamingResponse over an asyncio.Queue; the bytes are made once and shared."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.benchmarks.contestants.raw_parts import event
from tests.benchmarks.wire import numbers_of_events as decode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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


async def stream() -> AsyncIterator[bytes]:
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    queues.add(queue)
    try:
        while True:
            yield await queue.get()
    finally:
        queues.discard(queue)


async def events(request: Any) -> StreamingResponse:
    return StreamingResponse(stream(), media_type="text/event-stream")


app = Starlette(routes=[Route(PATH, events)])
