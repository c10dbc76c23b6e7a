"""Interrupted operations: the endpoints of LiveApp and both transports (see `interruption`)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth import Action, Request, User
from holdfast.runtime.lifecycle import BroadcasterState
from tests.faults.interruption import World, WorldClient
from tests.support.asgi import scope
from tests.support.eventstream import EventStreamDecoder
from tests.support.node import node_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tests.faults.operations import Script


def live(world: World, broadcaster: Broadcaster | None = None) -> LiveApp:
    """Return all endpoints, with hooks that yield and may fail."""

    async def authenticate(request: Request) -> User:
        world.points.reach("authenticate")
        await asyncio.sleep(0)
        return User(id=request.headers.get("x-user"))

    async def authorize(user: User, action: Action, topic: str | None) -> bool:
        world.points.reach("authorize")
        await asyncio.sleep(0)
        return topic != "secret"

    return LiveApp(
        broadcaster or world.broadcaster,
        authenticate=authenticate,
        authorize=authorize,
    )


class AsgiPeer:
    """The server side of one request, and the client at the other end.

    Each `receive` and `send` yields to the event loop. A `send` may fail before the client has
    received anything, and after. The client disconnects when `enough()` holds.
    """

    def __init__(
        self,
        world: World,
        path: str,
        client: WorldClient,
        *,
        enough: Callable[[], bool] = lambda: False,
        says: Iterable[Mapping[str, Any]] = (),
        method: str = "GET",
        body: bytes = b"",
        turns: int = 1,
    ) -> None:
        headers = {"x-user": client.user or ""}
        if client.last_id is not None:
            headers["last-event-id"] = client.last_id
        self.client = client
        self.ignored = 0
        """The number of sessions (a first frame and its successors) to ignore."""
        self.status = 0
        self.body = b""
        self.ended = False
        """True if the server ended the response or WebSocket instead of falling silent."""
        self._points = world.points
        self._turns = turns
        self._enough = enough
        self._changed = asyncio.Event()
        self._decoder = EventStreamDecoder()
        socket = path.startswith("/websocket?")
        self._kind = "websocket" if socket else "http"
        self._polls = path.startswith("/poll")
        self._scope = scope(self._kind, path, headers, method=method)
        self._inbox: list[dict[str, Any]] = [{"type": "http.request", "body": body}]
        if socket:
            said = [{"type": "websocket.receive", "text": json.dumps(each)} for each in says]
            self._inbox = [{"type": "websocket.connect"}, *said]

    async def run(self, app: LiveApp) -> None:
        """Serve the request from start to end."""
        await app(self._scope, self.receive, self.send)

    async def receive(self) -> dict[str, Any]:
        """Return the client's next event; at last, its disconnect."""
        await asyncio.sleep(0)
        if self._inbox:
            return self._inbox.pop(0)
        while not (self._enough() or self.client.rejected):
            self._changed.clear()
            await self._changed.wait()
        return {"type": f"{self._kind}.disconnect", "code": 1001}

    async def send(self, event: Any) -> None:
        """Take an event of the application."""
        self._points.reach("send before")
        for _ in range(self._turns):
            await asyncio.sleep(0)
        self._arrived(event)
        self._points.reach("send after")
        await asyncio.sleep(0)

    def check_ended(self) -> None:
        """Check that the server ended the response if the broker failed."""
        if (self._points.failed or "").startswith("read"):
            assert self.ended, "the server did not end the response"

    def _arrived(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "http.response.start":
                self.status = event["status"]
            case "http.response.body":
                self.body += event.get("body", b"")
                self.ended = not event.get("more_body", False)
                if self._polls and self.ended and self.body and self.status == 200:
                    for frame in json.loads(self.body)["frames"]:
                        self.client.record(frame, frame["id"])
                for each in self._decoder.feed(b"" if self._polls else event.get("body", b"")):
                    self.client.record(each.json(), each.last_event_id)
            case "websocket.send":
                self._frame(json.loads(event["text"]))
            case "websocket.close":
                self.ended = True
        self._changed.set()

    def _frame(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "connection_established":
            self.ignored -= 1
        if self.ignored < 0 and "id" in frame:
            self.client.record(frame, frame["id"])


# -- streams and WebSockets ------------------------------------------------------------------------


async def stream_fresh(world: World) -> Script:
    """A first connection over SSE is fresh."""
    eve = WorldClient(world, "eve")
    yield AsgiPeer(world, "/stream?topics=t", eve, enough=lambda: bool(eve.sessions)).run(
        live(world)
    )
    assert eve.sessions in ([], ["fresh"])


async def stream_resumed(world: World) -> Script:
    """An interrupted replay over SSE continues after the last frame that the client has."""
    ada = world.ada
    wire = AsgiPeer(
        world, "/reconnect?topics=t", ada, enough=lambda: len(ada.received) >= len(world.expected)
    )
    yield wire.run(live(world))
    wire.check_ended()


async def stream_that_the_server_ends(world: World) -> Script:
    """The server closes a stream at any point."""
    ada = world.ada
    wire = AsgiPeer(world, "/stream", ada)

    async def ended_meanwhile() -> None:
        serving = asyncio.ensure_future(wire.run(live(world)))
        try:
            await asyncio.sleep(0.01)
            for connection in world.broadcaster.connections_of("ada"):
                world.broadcaster.disconnect(connection.id)
            await serving
        finally:
            serving.cancel()

    yield ended_meanwhile()


async def poll_fresh(world: World) -> Script:
    """A first poll is fresh."""
    eve = WorldClient(world, "eve")
    yield AsgiPeer(world, "/poll?topics=t", eve).run(live(world))
    assert eve.sessions in ([], ["fresh"])


async def poll_resumed(world: World) -> Script:
    """A poll delivers the replay as a whole, or nothing."""
    ada = world.ada
    before, wire = len(ada.received), AsgiPeer(world, "/poll?topics=t", ada)
    yield wire.run(live(world))
    assert len(ada.received) in (before, len(world.expected))


async def poll_that_waits(world: World) -> Script:
    """A poll without a new message waits, and is answered when its time is over."""
    ada = world.ada
    await ada.read(lambda: len(ada.received) >= len(world.expected))
    yield AsgiPeer(world, "/poll?topics=t&wait=2", ada).run(live(world))
    assert len(ada.received) == len(world.expected)


async def socket_fresh(world: World) -> Script:
    """A first connection over WebSocket is fresh."""
    eve = WorldClient(world, "eve")
    wire = AsgiPeer(world, "/websocket?topics=t", eve, enough=lambda: bool(eve.sessions))
    yield wire.run(live(world))
    assert eve.sessions in ([], ["fresh"])


async def socket_resumed_by_header(world: World) -> Script:
    """An interrupted replay over WebSocket continues after the last frame that the client has."""
    ada = world.ada
    wire = AsgiPeer(
        world, "/websocket?topics=t", ada, enough=lambda: len(ada.received) >= len(world.expected)
    )
    yield wire.run(live(world))
    wire.check_ended()


async def socket_resumed_by_message(world: World, turns: int = 1) -> Script:
    """A WebSocket whose first message asks to resume has two sessions, one after the other."""
    ada, last_id = world.ada, world.ada.last_id
    ada.last_id = None  # a browser cannot set headers on a WebSocket
    wire = AsgiPeer(
        world,
        "/websocket?topics=t",
        ada,
        enough=lambda: len(ada.received) >= len(world.expected),
        says=[{"type": "resume", "id": last_id}],
        turns=turns,
    )
    ada.last_id = last_id
    wire.ignored = 1
    yield wire.run(live(world))


async def socket_resumed_by_message_while_sending(world: World) -> Script:
    """The request to resume arrives while the first frame is being sent."""
    async for work in socket_resumed_by_message(world, turns=5):
        yield work


async def socket_with_commands(world: World) -> Script:
    """A client sends every kind of command, one after the other."""
    ada = world.ada
    says: list[dict[str, Any]] = [
        {"type": "ping"},
        {"type": "subscribe", "topics": ["u", "secret"]},
        {"type": "unsubscribe", "topics": ["u"]},
        {"type": "ack", "id": ada.last_id},
        {"type": "nonsense"},
    ]
    wire = AsgiPeer(
        world,
        "/websocket?topics=t",
        ada,
        enough=lambda: len(ada.received) >= len(world.expected),
        says=says,
    )
    yield wire.run(live(world))


# -- requests --------------------------------------------------------------------------------------


def request(method: str, path: str, **body: Any) -> Any:
    """Return an operation: a request by Eve, who has a stream. The repeated request is answered."""

    async def operation(world: World) -> Script:
        eve, app = WorldClient(world, "eve"), live(world)
        streaming = asyncio.ensure_future(AsgiPeer(world, "/stream?topics=t", eve).run(app))
        await asyncio.sleep(0.1)
        [connection] = world.broadcaster.connections_of("eve")
        whole = json.dumps({"connectionId": connection.id, "id": eve.last_id, **body})

        def once() -> AsgiPeer:
            caller = WorldClient(world, "eve")
            return AsgiPeer(world, path, caller, method=method, body=whole.encode())

        yield once().run(app)
        again = once()
        await again.run(app)
        assert again.status == 200
        assert connection.session.subscriptions == connection.subscriptions
        streaming.cancel()
        await asyncio.wait([streaming])

    operation.__name__ = f"{method}_{path.strip('/').partition('?')[0]}"
    return operation


async def refused_requests(world: World) -> Script:
    """Invalid requests are answered, one after the other."""
    app, eve = live(world), WorldClient(world, "eve")
    posts = {"/subscribe": b"{", "/ack": b"{}", "/nowhere": b"", "/test-connection": b"{}"}
    wires = [AsgiPeer(world, path, eve, method="POST", body=body) for path, body in posts.items()]
    wires.append(AsgiPeer(world, "/stream?topics=%00", eve))

    async def all_of_them() -> None:
        for wire in wires:
            await wire.run(app)

    yield all_of_them()
    assert {wire.status for wire in wires} <= {0, 200, 400, 404, 503}


async def lifespan(world: World) -> Script:
    """A Broadcaster whose startup or shutdown was interrupted can start again."""
    node = node_of(world.broadcaster)
    second = Broadcaster(broker=node.broker, clock=node.clock.time)
    told: list[str] = []

    async def once() -> None:
        inbox = ["lifespan.startup", "lifespan.shutdown"]

        async def receive() -> dict[str, str]:
            await asyncio.sleep(0.01)
            return {"type": inbox.pop(0)}

        async def send(event: Any) -> None:
            world.points.reach("send before")
            await asyncio.sleep(0)
            told.append(event["type"])
            world.points.reach("send after")

        await live(world, second)({"type": "lifespan"}, receive, send)

    yield once()
    await asyncio.sleep(3.0)
    assert second.state is not BroadcasterState.RUNNING
    await once()
    assert told[-2:] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
