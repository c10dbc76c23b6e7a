"""A link that can be stopped, for the slow reader.

A page cannot play a slow reader by itself: a Chromium of 2026 took 60 MB from a ``fetch`` that
nobody read before its connection stalled. So the link stands still on this side, between holdfast
and the server, and looks to holdfast as a full socket does: ``send`` does not return.
"""

from __future__ import annotations

import asyncio
from collections import deque
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.dashboard.requests import small_body

# What is under way on a Linux connection that stands still, measured with the small send buffer
# of `listening_socket`; with the system's own buffers it is 4 MB. Nothing can overtake it there.
IN_FLIGHT_BYTES = 192 * 1024


class StoppableLinks:
    """ASGI middleware that puts a `Link` under each stream that names one (``?link=name``)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._links: dict[str, Link] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application over a link of its own."""
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
        """``POST /demo/stop``: from now on nothing moves on the link that the body names."""
        return await self._switch(request, moving=False)

    async def go(self, request: Request) -> Response:
        """``POST /demo/go``: the link moves again."""
        return await self._switch(request, moving=True)

    async def _switch(self, request: Request, *, moving: bool) -> Response:
        link = self._links.get(await small_body(request) or "")
        if link is not None:
            link.switch(moving=moving)
        return JSONResponse({"moving": moving}, status_code=200 if link else 404)


class Link:
    """Carries messages in order; while it is stopped it holds a few, then lets the sender wait."""

    def __init__(self) -> None:
        self._queue: deque[Message] = deque()
        self._held = 0
        self._closed = False
        self._moving = asyncio.Event()
        self._moving.set()
        self._work = asyncio.Event()
        self._room = asyncio.Event()

    def switch(self, *, moving: bool) -> None:
        """Stop the link or let it go."""
        if moving:
            self._moving.set()
        else:
            self._moving.clear()

    def close(self) -> None:
        """Nothing more will be sent; what is under way still arrives."""
        self._closed = True
        self._moving.set()
        self._work.set()

    async def send(self, message: Message) -> None:
        """ASGI ``send``: returns as soon as the message is under way."""
        while self._held >= IN_FLIGHT_BYTES:
            self._room.clear()
            await self._room.wait()
        self._queue.append(message)
        self._held += len(message.get("body", b""))
        self._work.set()

    async def carry(self, send: Send) -> None:
        """Hand over to the server what is under way, until `close`."""
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
