"""A network link that can be stopped, for the slow reader.

A page cannot act as a slow reader by itself: a Chromium of 2026 took 60 MB from an unread ``fetch``
before its connection stalled. This link therefore stops on the server's side, between holdfast and
the server. To holdfast, a stopped link looks like a full socket: ``send`` does not return.
"""

from __future__ import annotations

import asyncio
from collections import deque
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.dashboard.requests import small_body

# The bytes in flight on a stopped Linux connection, measured with the small send buffer of
# `listening_socket`; with the system's own buffers, 4 MB. No message can overtake these bytes.
IN_FLIGHT_BYTES = 192 * 1024


class StoppableLinks:
    """ASGI middleware that puts a `Link` under each stream that names one (``?link=name``)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._links: dict[str, Link] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application over a new link."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = parse_qs(scope["query_string"].decode("latin-1")).get("link", [""])[0]
        link = self._links[name] = Link()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(link.carry(send), name="link")
                await self._app(scope, receive, link.send)
                link.close()
        finally:
            if self._links.get(name) is link:  # a newer stream may have taken the name
                del self._links[name]

    async def stop(self, request: Request) -> Response:
        """``POST /demo/stop``: stop the link that the body names."""
        return await self._switch(request, moving=False)

    async def go(self, request: Request) -> Response:
        """``POST /demo/go``: let the link that the body names move again."""
        return await self._switch(request, moving=True)

    async def _switch(self, request: Request, *, moving: bool) -> Response:
        link = self._links.get(await small_body(request) or "")
        if link is not None:
            link.switch(moving=moving)
        return JSONResponse({"moving": moving}, status_code=200 if link else 404)


class Link:
    """Carries messages in order. While stopped, the link holds a few and then blocks the sender."""

    def __init__(self) -> None:
        self._queue: deque[Message] = deque()
        self._held = 0
        self._closed = False
        self._moving = asyncio.Event()
        self._moving.set()
        self._work = asyncio.Event()
        self._room = asyncio.Event()

    def switch(self, *, moving: bool) -> None:
        """Stop the link, or let it move again."""
        if moving:
            self._moving.set()
        else:
            self._moving.clear()

    def close(self) -> None:
        """End the link after the messages that it holds."""
        self._closed = True
        self._moving.set()
        self._work.set()

    async def send(self, message: Message) -> None:
        """ASGI ``send``: return as soon as the link holds the message."""
        while self._held >= IN_FLIGHT_BYTES:
            self._room.clear()
            await self._room.wait()
        self._queue.append(message)
        self._held += len(message.get("body", b""))
        self._work.set()

    async def carry(self, send: Send) -> None:
        """Pass the held messages to the server, until `close`."""
        while True:
            await self._moving.wait()
            if self._queue:
                message = self._queue.popleft()
                await send(message)
                self._held -= len(message.get("body", b""))
                self._room.set()
            elif self._closed:
                return
            else:
                self._work.clear()
                await self._work.wait()
