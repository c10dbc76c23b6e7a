"""The usual hand-written server: a queue per client behind a streaming response, in plain ASGI.

``GET /stream`` is the event stream, ``POST /publish`` puts ``{"messages": [...]}`` into each queue.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

queues: set[asyncio.Queue[bytes]] = set()


async def stream(receive: Any, send: Any) -> None:
    """One client: what is in its queue, in order."""
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    queues.add(queue)
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b": hello\n\n", "more_body": True})
    try:
        while True:
            body = b"data: %b\n\n" % await queue.get()
            await send({"type": "http.response.body", "body": body, "more_body": True})
    finally:
        queues.discard(queue)


async def publish(receive: Any, send: Any) -> None:
    """Put each message into each queue."""
    body, more = b"", True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    for message in json.loads(body)["messages"]:
        frame = json.dumps({"type": "message", **message}).encode()
        for queue in queues:
            queue.put_nowait(frame)
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI entry point."""
    if scope["type"] == "http":
        await {"/stream": stream, "/publish": publish}[scope["path"]](receive, send)
