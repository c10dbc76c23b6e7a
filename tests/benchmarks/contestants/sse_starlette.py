"""sse-starlette's EventSourceResponse over an asyncio.Queue, as its documentation shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.routing import Route

from tests.benchmarks.wire import numbers_of_events as decode
from tests.benchmarks.wire import to_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["decode"]

KIND = "sse"
PATH = "/events"
SHARE = 0.5
queues: set[asyncio.Queue[tuple[str, str]]] = set()


def publish(message: dict[str, Any]) -> None:
    item = (str(message["i"]), to_json(message))
    for queue in queues:
        queue.put_nowait(item)


def subscribers() -> int:
    return len(queues)


async def stream() -> AsyncIterator[ServerSentEvent]:
    queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    queues.add(queue)
    try:
        while True:
            number, text = await queue.get()
            yield ServerSentEvent(data=text, id=number)
    finally:
        queues.discard(queue)


async def events(request: Any) -> EventSourceResponse:
    return EventSourceResponse(stream())


app = Starlette(routes=[Route(PATH, events)])
