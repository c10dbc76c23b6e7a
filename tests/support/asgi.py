"""Run an ASGI application in the test's event loop, with two queues in place of a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from holdfast.asgi import LiveApp
from holdfast.auth import Action, Request, User
from tests.support.clients import Response
from tests.support.eventstream import Event, EventStreamDecoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from types import TracebackType

    from holdfast import Broadcaster

    App = Callable[[Any, Any, Any], Awaitable[None]]

TIMEOUT = 1000.0
"""Seconds, mostly of a virtual clock. The timeout of a test is shorter."""


def scope(
    kind: str,
    path: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return an ASGI scope of HTTP/1.1, as a server makes it. `more` replaces any member."""
    parts = urlsplit(path)
    pairs = headers.items() if hasattr(headers, "items") else headers
    made = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode("latin-1"),
        "root_path": "",
        "headers": [
            (b"host", b"example.test"),
            *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs),
        ],
        "client": ("192.0.2.1", 1234),
        "server": ("192.0.2.2", 80),
    }
    return made | more


def authenticate_by_header(request: Request) -> User | None:
    """Authenticate by the header `x-user`; the user "nobody" is refused."""
    name = request.headers.get("x-user")
    return None if name == "nobody" else User(id=name)


def authorize_unless_secret(user: User, action: Action, topic: str | None) -> bool:
    """Allow every topic that does not begin with "secret"."""
    return topic is None or not topic.startswith("secret")


def live_app(broadcaster: Broadcaster, **options: Any) -> LiveApp:
    """Return all endpoints, with authentication by `x-user`."""
    options = {
        "authenticate": authenticate_by_header,
        "authorize": authorize_unless_secret,
        **options,
    }
    return LiveApp(broadcaster, **options)


class AsgiExchange:
    """An application that serves one scope during an `async with` block.

    At the end of the block the client disconnects. The block fails if the application does not
    return then.
    """

    def __init__(self, app: App, scope_: dict[str, Any]) -> None:
        self.scope = scope_
        self.to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._app = app
        self.task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self.task = asyncio.ensure_future(self._run())
        return self

    async def _run(self) -> None:
        await self._app(self.scope, self.to_app.get, self.from_app.put)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.disconnect()
            await self.wait_ended()
        else:
            self.task.cancel()
            await asyncio.wait([self.task])

    def disconnect(self) -> None:
        """Disconnect the client."""
        if self.scope["type"] == "lifespan":
            self.to_app.put_nowait({"type": "lifespan.shutdown"})
        else:
            self.to_app.put_nowait({"type": f"{self.scope['type']}.disconnect", "code": 1006})

    async def wait_ended(self) -> None:
        """Wait until the application has returned. Raises what it raised."""
        async with asyncio.timeout(TIMEOUT):
            await asyncio.wait([self.task])
        self.task.result()

    async def receive(self) -> dict[str, Any]:
        """Return the next event of the application. Raises what the application raises instead."""
        getting = asyncio.ensure_future(self.from_app.get())
        try:
            async with asyncio.timeout(TIMEOUT):
                await asyncio.wait([getting, self.task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not getting.done():
                getting.cancel()
        if getting.done() and not getting.cancelled():
            return getting.result()
        self.task.result()
        raise EOFError("the application has returned")


class HttpExchange(AsgiExchange):
    """A request and its response."""

    def __init__(
        self,
        app: App,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        **more: Any,
    ) -> None:
        super().__init__(app, scope("http", path, headers, method=method, **more))
        self.to_app.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self.decoder = EventStreamDecoder()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self._events: list[Event] = []

    async def read_head(self) -> int:
        """Read the start of the response. Returns its status."""
        message = await self.receive()
        assert message["type"] == "http.response.start"
        self.status = message["status"]
        for name, value in message["headers"]:
            assert name == name.lower()
            self.headers[name.decode("latin-1")] = value.decode("latin-1")
        return self.status

    async def chunk(self) -> bytes:
        """Return the next piece of the body. `is_complete` is True after the last."""
        message = await self.receive()
        assert message["type"] == "http.response.body"
        self.is_complete = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    async def response(self) -> Response:
        """Return the whole response."""
        await self.read_head()
        body = b""
        while not self.is_complete:
            body += await self.chunk()
        await self.wait_ended()
        return Response(self.status, self.headers, body)

    async def event(self) -> Event | None:
        """Return the next event of an event stream, or None at its clean end."""
        while not self._events:
            if self.is_complete:
                return None
            self._events += self.decoder.feed(await self.chunk())
        return self._events.pop(0)

    async def frame(self) -> Any:
        """Return the JSON of the next event."""
        event = await self.event()
        assert event is not None, "the stream ended"
        return event.json()

    async def first_frame_data(self) -> dict[str, Any]:
        """Read up to the first frame. Returns its data."""
        assert await self.read_head() == 200
        frame = await self.frame()
        assert frame["type"] == "connection_established"
        return dict(frame["data"])


class WebSocketExchange(AsgiExchange):
    """A WebSocket."""

    def __init__(
        self,
        app: App,
        path: str = "/websocket",
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        **more: Any,
    ) -> None:
        super().__init__(app, scope("websocket", path, headers, subprotocols=[], **more))
        self.to_app.put_nowait({"type": "websocket.connect"})
        self.code = 0

    async def wait_accepted(self) -> None:
        """Wait until the handshake is accepted."""
        assert (await self.receive())["type"] == "websocket.accept"

    async def frame(self) -> Any:
        """Return the JSON of the next text message."""
        message = await self.receive()
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    async def first_frame(self) -> dict[str, Any]:
        """Wait until the handshake is accepted. Returns the JSON of the first message."""
        await self.wait_accepted()
        frame = await self.frame()
        assert frame["type"] == "connection_established"
        return dict(frame)

    def send(self, value: Any) -> None:
        """Send a message of the client: an object as JSON, text or bytes unchanged."""
        kind = "bytes" if isinstance(value, bytes) else "text"
        content = value if isinstance(value, str | bytes) else json.dumps(value)
        self.to_app.put_nowait({"type": "websocket.receive", kind: content})

    async def wait_closed(self) -> int:
        """Read until the application closes. Returns its close code."""
        while (message := await self.receive())["type"] != "websocket.close":
            pass
        self.code = message["code"]
        with contextlib.suppress(asyncio.QueueFull):
            self.disconnect()
        return self.code


async def fetch(
    app: App,
    method: str,
    path: str,
    *,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """Send a whole request with a JSON body. Returns the whole response."""
    content = b"" if body is None else json.dumps(body).encode()
    async with HttpExchange(
        app, path, method=method, headers=headers or {}, body=content, **more
    ) as call:
        return await call.response()
