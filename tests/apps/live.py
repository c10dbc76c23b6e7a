"""The application that real servers serve in the tests.

Beside LiveApp's endpoints, POST /publish takes messages to publish. ``HOLDFAST_OPTIONS`` holds
options of the Broadcaster as JSON.
"""

from __future__ import annotations

import json
import os
from typing import Any

from holdfast import Broadcaster, Priority
from holdfast.asgi import LiveApp
from holdfast.auth import Action, Request, User
from holdfast.runtime.lifecycle import BroadcasterState


def authenticate(request: Request) -> User:
    """Whoever says a name has it."""
    return User(id=request.headers.get("x-user"))


def authorize(user: User, action: Action, topic: str | None) -> bool:
    """Everything, the statistics too."""
    return True


broadcaster = Broadcaster(**json.loads(os.environ.get("HOLDFAST_OPTIONS", "{}")))
live = LiveApp(broadcaster, authenticate=authenticate, authorize=authorize)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """LiveApp, and what the tests need besides."""
    if scope["type"] in ("http", "websocket") and broadcaster.state is BroadcasterState.NEW:
        await broadcaster.__aenter__()  # daphne knows no lifespan
    if scope["type"] != "http" or scope["path"] != "/publish":
        await live(scope, receive, send)
        return
    body, more = b"", True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    for message in json.loads(body)["messages"]:
        priority = Priority[message.pop("priority", "NORMAL")]
        await broadcaster.publish(
            message.pop("topic", "t"), message.pop("data"), priority=priority, **message
        )
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"{}"})
