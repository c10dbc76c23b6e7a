"""The entry points of an event id, a token or topics, all used in the same way."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

from holdfast.auth.request import MAX_QUERY_BYTES
from holdfast.transports.websocket import InboundLimits
from tests.bad_inputs.inputs import as_json
from tests.support.asgi import HttpExchange, WebSocketExchange
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import run_ready

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from holdfast import Broadcaster

    App = Callable[[Any, Any, Any], Any]


def raw(text: str) -> bytes:
    """Return UTF-8, also for a text that has none."""
    return text.encode("utf-8", "surrogatepass")


def in_header(text: str) -> str:
    """Return a text whose header bytes in the in-process driver are `raw(text)`."""
    return raw(text).decode("latin-1")


def in_query(text: str) -> bytes:
    """Return the text percent-encoded."""
    return quote_from_bytes(raw(text), safe="").encode()


@dataclass(frozen=True)
class EntryPoint:
    """An entry point: transport, path, and the place of the value."""

    transport: str
    path: str
    place: str

    def __str__(self) -> str:
        return f"{self.transport} {self.path} {self.place}"

    @property
    def by_query(self) -> bool:
        return self.place.startswith("query")


def _entry_points(header: str, field: str) -> list[EntryPoint]:
    return [
        EntryPoint(transport, path, place)
        for transport, path in (
            ("http", "/stream"), ("http", "/reconnect"), ("http", "/poll"),
            ("websocket", "/websocket"),
        )
        for place in (f"header {header}", f"query {field}")
    ]  # fmt: skip


EVENT_ID_ENTRY_POINTS = [
    *_entry_points("last-event-id", "last_event_id"),
    EntryPoint("websocket", "/websocket", "message resume"),
]
TOKEN_ENTRY_POINTS = _entry_points("x-reconnect-token", "reconnect_token")


class Poll(HttpExchange):
    """A series of polls, read as one stream of frames."""

    def __init__(self, app: App, path: str, **options: Any) -> None:
        super().__init__(app, path, **options)
        self._app, self._options = app, options
        self._frames: list[dict[str, Any]] = []
        self._id = ""

    async def frame(self) -> Any:
        """Return the next frame of this answer or of later polls, without their first frames."""
        while not self._frames:
            if not self._id:
                body = b""
                while not self.is_complete:
                    body += await self.chunk()
                self._frames = json.loads(body)["frames"]
            else:
                kept = [
                    (name, value)
                    for name, value in self._options.get("headers", ())
                    if name in ("x-user", "origin", "host")
                ]
                headers = [*kept, ("last-event-id", self._id)]
                answer = await fetch_poll(self._app, headers)
                self._frames = answer[1:]
                self._id = str(answer[-1]["id"])
        frame = self._frames.pop(0)
        self._id = str(frame["id"])
        return frame


async def fetch_poll(app: App, headers: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the frames of one poll of a session."""
    async with HttpExchange(app, "/poll", headers=headers) as call:
        return list((await call.response()).json()["frames"])


def maker_of(path: str) -> type[HttpExchange | WebSocketExchange]:
    """Return the class that opens a connection at this path."""
    return WebSocketExchange if path == "/websocket" else Poll if path == "/poll" else HttpExchange


@dataclass
class Client:
    """An opened connection: its relevant first frame, and the frames behind it."""

    call: HttpExchange | WebSocketExchange
    first: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        """Return the data of the first frame."""
        return dict(self.first["data"])

    async def frame(self) -> Any:
        """Return the next frame."""
        return await self.call.frame()

    async def id(self) -> str:
        """Return the id of the last frame of a stream, or of the first frame elsewhere."""
        if isinstance(self.call, HttpExchange) and not isinstance(self.call, Poll):
            return self.call.decoder.last_event_id
        return str(self.first["id"])


def request_of(
    entry_point: EntryPoint,
    app: App,
    text: str,
    *,
    topics: str = "t",
    user: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> HttpExchange | WebSocketExchange:
    """Return the request that carries `text`."""
    query = f"topics={topics}".encode() if topics else b""
    sent = [*headers, *([] if user is None else [("x-user", user)])]
    kind, _, name = entry_point.place.partition(" ")
    if kind == "header":
        sent.append((name, in_header(text)))
    elif kind == "query":
        query += b"&" + name.encode() + b"=" + in_query(text)
    make = maker_of(entry_point.path)
    return make(app, entry_point.path, headers=sent, query_string=query)


def is_too_long(entry_point: EntryPoint, text: str) -> bool:
    """Return whether the query or the message exceeds its documented limit."""
    if entry_point.place == "message resume":
        return len(as_json({"type": "resume", "id": text})) > InboundLimits().max_bytes
    return entry_point.by_query and len(in_query(text)) + 40 > MAX_QUERY_BYTES


@asynccontextmanager
async def enter(
    entry_point: EntryPoint, app: App, text: str, **options: Any
) -> AsyncIterator[Client]:
    """Present `text`. The block begins with the first frame."""
    async with request_of(entry_point, app, text, **options) as call:
        if isinstance(call, HttpExchange):
            status = await call.read_head()
            assert status == 200, f"{status}: a browser's EventSource would give up for good"
        else:
            await call.wait_accepted()
        first = await call.frame()
        if entry_point.place == "message resume":
            assert isinstance(call, WebSocketExchange)
            call.send({"type": "resume", "id": text})
            first = await call.frame()
        assert first["type"] == "connection_established", first
        yield Client(call, first)


async def refusal(entry_point: EntryPoint, app: App, text: str, **options: Any) -> tuple[str, int]:
    """Return the error code of the answer, and its status or close code (0: still connected)."""
    async with request_of(entry_point, app, text, **options) as call:
        if isinstance(call, HttpExchange):
            answer = await call.response()
            return answer.json()["error"]["code"], answer.status
        await call.wait_accepted()
        frame = await call.frame()
        if entry_point.place == "message resume":  # answered, and the connection continues
            call.send({"type": "resume", "id": text})
            frame = await call.frame()
            call.send({"type": "ping"})
            assert (await call.frame())["type"] == "pong"
            return frame["data"]["code"], 0
        assert frame["type"] == "error", frame
        return frame["data"]["code"], await call.wait_closed()


class Bystander:
    """Another client, which must notice nothing."""

    def __init__(self, broadcaster: Broadcaster, client: Client) -> None:
        self._broadcaster = broadcaster
        self._client = client
        self._number = 0

    async def undisturbed(self) -> None:
        """Check that the client gets the next published message on its connection."""
        self._number += 1
        await self._broadcaster.publish("bystander", self._number)
        frame = await self._client.frame()
        assert (frame["type"], frame.get("data")) == ("message", self._number), frame


@asynccontextmanager
async def bystander(app: App, broadcaster: Broadcaster) -> AsyncIterator[Bystander]:
    """Connect another client."""
    entry_point = EntryPoint("websocket", "/websocket", "nothing")
    async with enter(entry_point, app, "", topics="bystander", user="bystander") as client:
        yield Bystander(broadcaster, client)


@asynccontextmanager
async def reader(broadcaster: Broadcaster) -> AsyncIterator[FrameReader]:
    """Connect a reader of all that Ann may see, who has to receive nothing during the block."""
    topics = ["t", "**"]
    async with broadcaster.connect(user="ann", topics=topics) as connection:
        made = FrameReader(connection)
        await made.first_frame()
        yield made
        await run_ready()
        await broadcaster.publish("t", "the next")
        assert await made.take(1) == ["the next"], "another message came before"
