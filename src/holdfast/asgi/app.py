"""LiveApp: all endpoints as one ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Never

from ..asgi_types import Receive, Scope, Send
from ..auth import Action, Authenticate, Authorize, Request, User, subscribe_only
from ..core.validation import check_keywords, check_type
from ..errors import ConfigurationError, HoldfastError, Refused
from ..reasons import Reason
from ..runtime.broadcaster import Broadcaster
from ..runtime.connection import Connection
from ..transports import websocket
from ..transports.websocket import InboundLimits
from .access import Access, check_hook
from .client_files import TYPES, ClientFiles
from .commands import Commands
from .http import ClientGone, Header, answer, answer_refusal, read_json
from .long_poll import LongPollEndpoint
from .reports import Reports
from .stream import StreamEndpoint
from .websocket import WebSocketEndpoint

PREFLIGHT: list[Header] = [
    (b"access-control-allow-methods", b"GET, HEAD, POST"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, last-event-id, x-reconnect-token",
    ),
    (b"access-control-max-age", b"600"),
]
"""The methods and headers that an allowed foreign page may send (Fetch standard, 3.3.3)."""

Handler = Callable[[User, dict[str, object]], Awaitable[dict[str, object]]]


_KEYWORDS = (
    "authenticate",
    "authorize",
    "allowed_origins",
    "enabled",
    "websocket_path",
    "inbound",
)


class LiveApp:
    """An ASGI 3.0 application with all endpoints, to serve or to mount anywhere.

    A LiveApp that is served directly starts and stops `broadcaster` in its lifespan. A LiveApp that
    is mounted, or served without a lifespan (daphne), starts `broadcaster` at the first request,
    unless the application has started it: `async with broadcaster:` in the framework's lifespan.

    Args:
        broadcaster: The Broadcaster whose connections are served.
        authenticate: A plain or coroutine function of a `Request` that returns its `User`, or
            `None` to refuse it (see `holdfast.auth`).
        authorize: A plain or coroutine function of a `User`, an `Action` and a topic (or `None`)
            that returns True if the user may do that. By default, every user may subscribe to
            every topic, but not to patterns.
        allowed_origins: Foreign origins whose pages may connect, such as `https://shop.example`;
            `*` allows all, without cookies.
        enabled: False answers all streams with 204, so that clients do not come back.
        websocket_path: The path of the WebSocket endpoint; `None` for no WebSocket.
        inbound: The limits of messages that clients send over WebSocket.

    Raises:
        ConfigurationError: An argument cannot work.
        TypeError: An argument does not exist, or has the wrong type.
    """

    def __init__(
        self,
        broadcaster: Broadcaster,
        *,
        authenticate: Authenticate,
        authorize: Authorize = subscribe_only,
        allowed_origins: Collection[str] = (),
        enabled: bool = True,
        websocket_path: str | None = "/websocket",
        inbound: InboundLimits | None = None,
        **unknown: Never,
    ) -> None:
        check_keywords("LiveApp", unknown, _KEYWORDS)
        if not isinstance(broadcaster, Broadcaster):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"LiveApp(broadcaster, …) needs a Broadcaster, not {broadcaster!r:.80}")
        check_hook("authenticate", authenticate, "a request, such as holdfast.anonymous", 1)
        check_hook("authorize", authorize, "user, action, topic, such as require_role('admin')", 3)
        if websocket_path is not None and not str(websocket_path).startswith("/"):
            raise ConfigurationError(f"websocket_path={websocket_path!r}: it must begin with /")
        check_type("enabled", enabled, bool, "True or False")
        if inbound is not None:
            check_type("inbound", inbound, InboundLimits, "an InboundLimits(rate=…), or None")
        self._broadcaster = broadcaster
        self._enabled = enabled
        limits = inbound or InboundLimits()
        self._access = Access(broadcaster, authenticate, authorize, allowed_origins)
        self._commands = Commands(broadcaster)
        streams = StreamEndpoint(broadcaster, self._access)
        polls = LongPollEndpoint(broadcaster, self._access)
        self._streams = {
            "/stream": streams.serve,
            "/reconnect": streams.serve,
            "/poll": polls.serve,
        }
        self._client = ClientFiles()
        self._sockets = WebSocketEndpoint(broadcaster, self._access, self._commands, limits)
        self._websocket_path = websocket_path and (websocket_path.rstrip("/") or "/")
        self._reports = Reports(
            broadcaster,
            {
                "enabled": enabled and websocket_path is not None,
                "path": websocket_path,
                "heartbeatInterval": broadcaster.options.heartbeat_interval,
                "maxMessageBytes": limits.max_bytes,
                "messagesPerSecond": limits.rate,
            },
        )
        self._posts: dict[str, Handler] = {
            "/subscribe": self._on_connection(self._commands.subscribe),
            "/unsubscribe": self._on_connection(self._commands.unsubscribe),
            "/ack": self._on_connection(self._commands.ack),
            "/test-connection": self._test,
        }
        self._gets = {
            "/connection-stats": self._reports.connections,
            "/websocket-stats": self._reports.websockets,
        }

    def __repr__(self) -> str:
        return f"<LiveApp of {self._broadcaster!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection: the lifespan, an HTTP request or a WebSocket.

        Args:
            scope: The ASGI scope.
            receive: The ASGI receive callable.
            send: The ASGI send callable.

        Raises:
            HoldfastError: The Broadcaster does not run any more. The client gets status 503.

        Cancellation:
            The connection ends, and no task is left.
        """
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        cors: list[Header] = []
        head = scope["method"] == "HEAD"
        try:
            await self._route(Request(scope), cors, receive, send)
        except Refused as error:
            is_method = error.reason is Reason.METHOD_NOT_ALLOWED
            allow = [(b"allow", error.detail.encode())] if is_method else []
            await answer_refusal(send, error, [*allow, *cors], head=head)
        except HoldfastError:
            refused = Refused(Reason.UNAVAILABLE, "the server is not running")
            await answer_refusal(send, refused, head=head)
            raise
        except (ClientGone, OSError):
            pass

    # -- routes --------------------------------------------------------------------------------

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._enabled and _path(scope) == self._websocket_path:
            await self._sockets(scope, receive, send)
        else:
            await receive()
            await websocket.close(send, Reason.NOT_FOUND)

    def _route(
        self, request: Request, cors: list[Header], receive: Receive, send: Send
    ) -> Awaitable[None]:
        """Return the coroutine that answers the request, and append its CORS headers to `cors`."""
        path = _path(request.scope)
        if path in TYPES:
            _require_method(request, "GET", "HEAD")
            return self._client(request, path, send)
        if "origin" in request.headers:
            cors += self._access.cors(request)
            if request.method == "OPTIONS" and cors:
                return answer(send, 204, None, [*cors, *PREFLIGHT])
        if path in self._streams:
            _require_method(request, "GET", "HEAD")
            serve = self._streams[path]
            return serve(request, cors, receive, send) if self._enabled else answer(send, 204, None)
        if path == "/health":
            _require_method(request, "GET", "HEAD")
            return self._health(request, cors, send)
        if path in self._gets or path == "/websocket-info":
            _require_method(request, "GET", "HEAD")
            return self._report(request, path, cors, send)
        if path in self._posts:
            _require_method(request, "POST")
            return self._post(request, path, cors, receive, send)
        raise Refused(Reason.NOT_FOUND, "there is nothing at this path")

    async def _health(self, request: Request, cors: list[Header], send: Send) -> None:
        with suppress(Refused):  # the report has the state
            await self._access.start()
        status, body = self._reports.health()
        await answer(send, status, body, cors, head=request.method == "HEAD")

    async def _report(self, request: Request, path: str, cors: list[Header], send: Send) -> None:
        user = await self._access.user(request, "http")
        if path in self._gets:
            await self._access.require(user, Action.READ_STATISTICS)
        report = self._gets.get(path, self._reports.websocket_info)
        await answer(send, 200, report(), cors, head=request.method == "HEAD")

    async def _post(
        self, request: Request, path: str, cors: list[Header], receive: Receive, send: Send
    ) -> None:
        user = await self._access.user(request, "http")
        value = await read_json(receive, lambda: self._broadcaster.is_accepting)
        await answer(send, 200, await self._posts[path](user, value), cors)

    def _on_connection(
        self, command: Callable[[Connection, dict[str, object]], Awaitable[dict[str, object]]]
    ) -> Handler:
        async def handle(user: User, value: dict[str, object]) -> dict[str, object]:
            connection = self._connection_of(user, value)
            connection.mark_seen()
            return await command(connection, value)

        return handle

    def _connection_of(self, user: User, value: dict[str, object]) -> Connection:
        """Return the caller's connection.

        Another user's connection is refused in the same way as one that does not exist, so that
        clients learn no ids.
        """
        id = value.get("connectionId")
        found = self._broadcaster.connection(id, user=user.id) if isinstance(id, str) else None
        if found is None:
            raise Refused(Reason.NO_CONNECTION, "no connection of yours has this id")
        return found

    async def _test(self, user: User, value: dict[str, object]) -> dict[str, object]:
        """Send a probe to the caller's connection, and report whether the server took it."""
        return await self._commands.probe(self._connection_of(user, value))

    # -- lifespan ------------------------------------------------------------------------------

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Run the Broadcaster from startup to shutdown (ASGI lifespan specification 2.0)."""
        await receive()
        try:
            await self._broadcaster.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            await self._broadcaster.stop()
        await send({"type": "lifespan.shutdown.complete"})


def _path(scope: Scope) -> str:
    """Return the path below the mount point.

    Some frameworks leave `root_path` in `path`, as the ASGI specification has it since 3.0, some
    remove it, and Litestar adds a slash.
    """
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return path.rstrip("/") or "/"


def _require_method(request: Request, *allowed: str) -> None:
    if request.method not in allowed:
        raise Refused(Reason.METHOD_NOT_ALLOWED, ", ".join(allowed))
