"""The application of the browser tests: LiveApp below /live, and a page that imports its client.

Beside the endpoints of tests/apps/live.py: ``GET /`` is the page, ``GET /plain`` a short answer.
``POST /fail`` takes ``{"path", "status", "times", "user"}``: the next ``times`` requests of this
user to this path below /live are answered with this status. ``GET /requests?user=…`` lists the
requests of this user below /live, in order. The user is named by the cookie ``user``, or by the
bearer token, which reads ``name~seconds~anything`` and expires ``seconds`` after its first use; a
request without either is answered with 401. No user may read topics that begin with ``secret``.
``HOLDFAST_ORIGINS`` lists foreign origins whose pages may connect.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from holdfast.asgi import LiveApp
from holdfast.auth import Action, Request, User
from tests.apps import live as shared

PAGE = Path(__file__).with_name("page.html").read_bytes()
PREFIX = "/live"

requests: deque[dict[str, Any]] = deque(maxlen=2000)
failures: dict[tuple[str, str], dict[str, Any]] = {}
first_used: dict[str, float] = {}


def authenticate(request: Request) -> User | None:
    """The bearer token, else the cookie."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    if bearer:
        name, *limit = bearer.split("~")
        if not limit:
            return User(id=name)
        first = first_used.setdefault(bearer, time.time())
        return User(id=name, expires_at=first + float(limit[0]))
    name = request.cookies.get("user", "")
    return User(id=name) if name else None


def authorize(user: User, action: Action, topic: str | None) -> bool:
    """Allow every topic except secrets."""
    return topic is None or not topic.startswith("secret")


live = LiveApp(
    shared.broadcaster,
    authenticate=authenticate,
    authorize=authorize,
    allowed_origins=os.environ.get("HOLDFAST_ORIGINS", "").split(),
)


def name_of(request: Request) -> str:
    """The name of the user of a request, or an empty string."""
    user = authenticate(request)
    return (user.id if user else None) or ""


async def fail(request: Request, value: Any) -> Any:
    """Make requests fail."""
    failures[value["user"], value["path"]] = value
    return {}


async def requested(request: Request, value: Any) -> Any:
    """The requests of a user."""
    return [entry for entry in requests if entry["user"] == request.query["user"]]


HANDLERS = {
    **shared.HANDLERS,
    ("POST", "/fail"): fail,
    ("GET", "/requests"): requested,
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Route."""
    if scope["type"] == "lifespan":
        await live(scope, receive, send)
    elif scope["path"].startswith(PREFIX + "/"):
        await serve_live(scope, receive, send)
    elif scope["path"] == "/":
        await answer(send, 200, PAGE, b"text/html; charset=utf-8")
    else:
        await serve_handler(scope, receive, send)


async def serve_live(scope: Any, receive: Any, send: Any) -> None:
    """Record the request, and pass it to LiveApp unless it has to fail."""
    request, path = Request(scope), scope["path"].removeprefix(PREFIX)
    user = name_of(request)
    entry = {
        "user": user,
        "type": scope["type"],
        "path": path,
        "query": request.query,
        "last_event_id": request.headers.get("last-event-id"),
        "authorization": request.headers.get("authorization"),
    }
    requests.append(entry)
    failure = failures.get((user, path))
    if failure and failure["times"] > 0:
        failure["times"] -= 1
        await refuse(scope, receive, send, failure["status"])
        return
    await live({**scope, "root_path": PREFIX}, receive, send)


async def refuse(scope: Any, receive: Any, send: Any, status: int) -> None:
    """Answer like a proxy or a limiter in front of the application."""
    await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})  # before it was accepted: status 403
    else:
        await answer(send, status, b"not now", b"text/plain")


async def serve_handler(scope: Any, receive: Any, send: Any) -> None:
    """Call a handler, and answer with its result as JSON."""
    body, more = b"", True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    handler = HANDLERS.get((scope["method"], scope["path"]))
    if handler is not None:
        value = await handler(Request(scope), json.loads(body or b"{}"))
        await answer(send, 200, json.dumps(value).encode(), b"application/json")
    elif scope["path"] == "/plain":
        await answer(send, 200, b"plain", b"text/plain")
    else:
        await answer(send, 404, b"", b"text/plain")


async def answer(send: Any, status: int, body: bytes, kind: bytes) -> None:
    """A whole response."""
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
