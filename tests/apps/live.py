"""The application that real servers serve in the tests.

Beside LiveApp's endpoints: ``POST /publish`` takes ``{"messages": [...]}`` and answers with their
``offsets``; ``GET /position?topics=a,b`` answers with the current event ``id``; ``POST /stall``
blocks the event loop for ``seconds``; ``GET /internals`` counts what must not leak.
``HOLDFAST_OPTIONS`` holds options of the Broadcaster as JSON; ``HOLDFAST_LOG`` names a file in
which the log survives the process; ``HOLDFAST_REDIS`` is the URL of a Redis that keeps it, and
``HOLDFAST_NAMESPACE`` its name there.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from pathlib import Path
from typing import Any

from holdfast import Broadcaster, Priority
from holdfast.asgi import LiveApp
from holdfast.auth import Action, Request, User
from holdfast.brokers.protocol import Broker
from tests.support.durable_broker import DurableBroker


def authenticate(request: Request) -> User:
    """Return the user of the header X-User, without a check."""
    return User(id=request.headers.get("x-user"))


def authorize(user: User, action: Action, topic: str | None) -> bool:
    """Everything, the statistics too."""
    return True


def broker() -> Broker | None:
    """The memory broker, unless the log is to survive."""
    if path := os.environ.get("HOLDFAST_LOG"):
        return DurableBroker(Path(path))
    if url := os.environ.get("HOLDFAST_REDIS"):
        from redis.asyncio import Redis

        from holdfast.brokers.redis import RedisBroker

        return RedisBroker(
            Redis.from_url(url), namespace=os.environ.get("HOLDFAST_NAMESPACE", "main")
        )
    return None


broadcaster = Broadcaster(broker=broker(), **json.loads(os.environ.get("HOLDFAST_OPTIONS", "{}")))
live = LiveApp(broadcaster, authenticate=authenticate, authorize=authorize)


async def publish(request: Request, value: Any) -> Any:
    """Publish, in order."""
    offsets = []
    for message in value["messages"]:
        priority = Priority[message.pop("priority", "NORMAL")]
        topic, data = message.pop("topic", "t"), message.pop("data")
        offsets.append(await broadcaster.publish(topic, data, priority=priority, **message))
    return {"offsets": offsets}


async def position(request: Request, value: Any) -> Any:
    """Return the position at which a page begins that is rendered now."""
    topics = request.query["topics"].split(",")
    return {"id": await broadcaster.position(topics, user=request.headers.get("x-user"))}


async def stall(request: Request, value: Any) -> Any:
    """Block the loop, as an application with a long computation does."""
    time.sleep(value["seconds"])  # noqa: ASYNC251 - that is the point
    return {}


async def internals(request: Request, value: Any) -> Any:
    """Return the counts that must be as before when all clients have gone."""
    gc.collect()
    loop: Any = asyncio.get_running_loop()
    pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240 - no disk behind it
    return {
        "connections": broadcaster.statistics().connections,
        "tasks": len(asyncio.all_tasks()),
        "timers": sum(not handle.cancelled() for handle in getattr(loop, "_scheduled", ())),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
    }


HANDLERS = {
    ("POST", "/publish"): publish,
    ("GET", "/position"): position,
    ("POST", "/stall"): stall,
    ("GET", "/internals"): internals,
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """LiveApp, and what the tests need besides."""
    if scope["type"] == "http":
        await broadcaster.ensure_started()  # for the handlers below; LiveApp does it by itself
    handler = scope["type"] == "http" and HANDLERS.get((scope["method"], scope["path"]))
    if not handler:
        await live(scope, receive, send)
        return
    body, more = b"", True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    answer = await handler(Request(scope), json.loads(body or b"{}"))
    content = json.dumps(answer).encode()
    headers = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
