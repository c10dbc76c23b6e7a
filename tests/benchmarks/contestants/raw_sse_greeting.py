"""raw_sse with a first frame: random id and token, the topics of the query, an event id.

The contestant measures a hand-written opening with a first frame, and keeps no state to resume.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any
from urllib.parse import parse_qs

from tests.benchmarks.contestants.raw_parts import EVENT_STREAM_START, event, until_gone
from tests.benchmarks.wire import events, to_json

__all__ = ["decode"]

KIND = "sse"
PATH = "/events?topics=t"
queues: set[asyncio.Queue[bytes]] = set()


def publish(message: dict[str, Any]) -> None:
    body = event(message)
    for queue in queues:
        queue.put_nowait(body)


def subscribers() -> int:
    return len(queues)


def decode(body: bytes) -> list[int]:
    """Decode like `numbers_of_events`; the first frame has no number."""
    found = [event.json() for event in events(body)]
    return [message["i"] for message in found if message.get("type") is None]


def greeting(query: bytes) -> bytes:
    now, token = time.time(), secrets.token_urlsafe(16)
    data = {
        "connectionId": secrets.token_urlsafe(16),
        "reconnectToken": token,
        "resumableUntil": now + 60.0,
        "topics": parse_qs(query.decode())["topics"][0].split(","),
    }
    frame = {"type": "connection_established", "data": data, "timestamp": now}
    return b"retry: 2000\ndata: %b\nid: 0~%b\n\n" % (to_json(frame).encode(), token.encode())


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def pump() -> None:
        while True:
            body = await queue.get()
            await send({"type": "http.response.body", "body": body, "more_body": True})

    await send(EVENT_STREAM_START)
    first = greeting(scope["query_string"])
    await send({"type": "http.response.body", "body": first, "more_body": True})
    queues.add(queue)
    pumping = asyncio.create_task(pump())
    await until_gone(receive, pumping, "http.disconnect", lambda: queues.discard(queue))
