"""LiveApp: routes and lifespan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack

from ..asgi_types import Receive, Scope, Send
from ..auth import Action, Authenticate, Authorize, Request, User, subscribe_only
from ..errors import ConfigurationError, HoldfastError, Refused
from ..runtime.broadcaster import Broadcaster
from ..runtime.connection import Outbox
from ..runtime.lifecycle import BroadcasterState
from ..runtime.signals import DrainAtSignal
from ..transports.websocket import InboundLimits
from .access import Access
from .client_files import TYPES, ClientFiles
from .commands import Commands
from .http import ClientGone, Header, answer, error_body, read_json
from .long_poll import Polls
from .reports import Reports
from .stream import Streams
from .websocket import Sockets

PREFLIGHT: list[Header] = [
    (b"access-control-allow-methods", b"GET, HEAD, POST"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, last-event-id, x-reconnect-token",
    ),
    (b"access-control-max-age", b"600"),
]
"""What a page of an allowed foreign origin may send (Fetch standard, section 3.3.3)."""

Handler = Callable[[User, dict[str, object]], Awaitable[dict[str, object]]]


class LiveApp:
    """An ASGI 3.0 application with all endpoints.

    Served directly, it runs `broadcaster` in its lifespan; mounted, `async with broadcaster:` in
    the framework's lifespan does. `authenticate` and `authorize` are described in
    `holdfast.auth`. `allowed_origins` are those foreign origins (`https://…`, or `*`) whose pages
    may connect. `drain_at_signal` chains a handler for SIGTERM and SIGINT that ends the streams;
    without it, call `broadcaster.drain()` before the server waits for them. With `enabled` off,
    clients are told not to come back. `websocket_path` of `None` is no WebSocket.
    """

    def __init__(
        self,
        broadcaster: Broadcaster,
        *,
        authenticate: Authenticate,
        authorize: Authorize = subscribe_only,
        allowed_origins: Collection[str] = (),
        drain_at_signal: bool = True,
        enabled: bool = True,
        websocket_path: str | None = "/websocket",
        inbound: InboundLimits | None = None,
    ) -> None:
        if websocket_path is not None and not websocket_path.startswith("/"):
            raise ConfigurationError(f"websocket_path={websocket_path!r}: it must begin with /")
        if isinstance(allowed_origins, str):
            raise ConfigurationError("allowed_origins must be a list of origins, not a string")
        self._broadcaster = broadcaster
        self._enabled = enabled
        limits = inbound or InboundLimits()
        self._access = Access(broadcaster, authenticate, authorize, allowed_origins)
        self._commands = Commands(broadcaster)
        streams, polls = Streams(broadcaster, self._access), Polls(broadcaster, self._access)
        self._streams = {
            "/stream": streams.serve,
            "/reconnect": streams.serve,
            "/poll": polls.serve,
        }
        self._client = ClientFiles()
        self._sockets = Sockets(broadcaster, self._access, self._commands, limits)
        self._signals = DrainAtSignal(broadcaster.begin_drain) if drain_at_signal else None
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if self._signals is not None and self._broadcaster.state is BroadcasterState.RUNNING:
            self._signals.install()  # mounted: the first request is the first chance
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        cors: list[Header] = []
        try:
            await self._route(Request(scope), cors, receive, send)
        except Refused as error:
            headers = [(b"allow", error.detail.encode())] if error.status == 405 else []
            head = scope["method"] == "HEAD"
            await answer(send, error.status, error_body(error), [*headers, *cors], head=head)
        except HoldfastError:
            body = error_body(Refused("unavailable", "not running", status=503))
            await answer(send, 503, body, head=scope["method"] == "HEAD")
            raise
        except (ClientGone, OSError):
            pass

    # -- routes --------------------------------------------------------------------------------

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._enabled and _path(scope) == self._websocket_path:
            await self._sockets(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 4404, "reason": "no such path"})

    def _route(
        self, request: Request, cors: list[Header], receive: Receive, send: Send
    ) -> Awaitable[None]:
        """What answers the request, not begun yet; `cors` is filled for whatever answers."""
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
            status, body = self._reports.health()
            return answer(send, status, body, cors, head=request.method == "HEAD")
        if path in self._gets or path == "/websocket-info":
            _require_method(request, "GET", "HEAD")
            return self._report(request, path, cors, send)
        if path in self._posts:
            _require_method(request, "POST")
            return self._post(request, path, cors, receive, send)
        raise Refused("not_found", "there is nothing here", status=404)

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
        value = await read_json(receive, self._broadcaster.is_admitting)
        await answer(send, 200, await self._posts[path](user, value), cors)

    def _on_connection(
        self, command: Callable[[Outbox, dict[str, object]], Awaitable[dict[str, object]]]
    ) -> Handler:
        async def handle(user: User, value: dict[str, object]) -> dict[str, object]:
            outbox = self._outbox_of(user, value)
            outbox.seen()
            return await command(outbox, value)

        return handle

    def _outbox_of(self, user: User, value: dict[str, object]) -> Outbox:
        """The caller's connection. Another's and none at all look alike."""
        id = value.get("connectionId")
        outbox = self._broadcaster.outbox(id, user.id) if isinstance(id, str) else None
        if outbox is None:
            raise Refused("no_connection", "no connection of yours has this id", status=404)
        return outbox

    async def _test(self, user: User, value: dict[str, object]) -> dict[str, object]:
        """Send a probe to the caller's connection, and report whether the server took it."""
        outbox = self._outbox_of(user, value)
        return await self._commands.probe(outbox)

    # -- lifespan ------------------------------------------------------------------------------

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Run the Broadcaster from startup to shutdown (ASGI lifespan specification 2.0)."""
        async with AsyncExitStack() as stack:
            await receive()
            try:
                await stack.enter_async_context(self._broadcaster)
                if self._signals is not None:
                    self._signals.install()
                    stack.callback(self._signals.remove)
            except Exception as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                raise
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


def _path(scope: Scope) -> str:
    """The path below the mount point.

    Some frameworks leave the prefix in `path`, as the ASGI specification has it since 3.0, some
    cut it off, and Litestar adds a slash.
    """
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return path.rstrip("/") or "/"


def _require_method(request: Request, *allowed: str) -> None:
    if request.method not in allowed:
        raise Refused("method_not_allowed", ", ".join(allowed), status=405)
