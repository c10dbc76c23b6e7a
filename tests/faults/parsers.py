"""Clients without a network: bytes in, frames out, by parsers that nobody here wrote.

Event streams: h11 takes the HTTP response apart, and `STREAM_PARSERS` read its body, each piece as
it came off the wire. WebSockets: `websockets` and `wsproto`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import h11
import httpx
import httpx_sse
import sseclient
import wsproto
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri
from wsproto.events import AcceptConnection, Request, TextMessage
from wsproto.utilities import RemoteProtocolError

from tests.support.eventstream import EventStreamDecoder

HOST = "127.0.0.1"


class Seen(NamedTuple):
    """What a parser reported: the data of an event, and the last event id as of then."""

    text: str
    id: str

    @property
    def frame(self) -> Any:
        """The JSON of the data; `None` where it is no JSON, of an event that was cut in half."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None


def ours(pieces: list[bytes]) -> Iterator[Seen]:
    """The decoder of these tests."""
    decoder = EventStreamDecoder()
    for piece in pieces:
        for event in decoder.feed(piece):
            yield Seen(event.data, event.last_event_id)


def by_httpx_sse(pieces: list[bytes]) -> Iterator[Seen]:
    """httpx-sse keeps the last id over events, and drops an event that was not ended."""
    response = httpx.Response(
        200, headers={"content-type": "text/event-stream"}, content=iter(pieces)
    )
    for event in httpx_sse.EventSource(response).iter_sse():
        yield Seen(event.data, event.id)


def by_sseclient(pieces: list[bytes]) -> Iterator[Seen]:
    """sseclient-py dispatches what is there when the stream ends, or raises inside a character."""
    last = ""
    try:
        for event in sseclient.SSEClient(iter(pieces)).events():
            last = event.id or last
            yield Seen(event.data, last)
    except UnicodeDecodeError:
        return


StreamParser = Callable[[list[bytes]], Iterator[Seen]]
STREAM_PARSERS: tuple[StreamParser, ...] = (ours, by_httpx_sse, by_sseclient)


class Client(Protocol):
    """One connection, without the network."""

    answered: bool
    """Whether the head of the response, or of the handshake, is here and says yes."""

    def opening(self) -> bytes:
        """What to send first."""

    def feed(self, data: bytes) -> None:
        """Take what arrived."""

    def seen(self, parse: StreamParser = ours) -> list[Seen]:
        """All events, once nothing more arrives; of a stream, as ``parse`` reads them."""


class StreamClient:
    """An event stream by h11."""

    def __init__(self, port: int, topics: str, id: str) -> None:
        self._connection = h11.Connection(h11.CLIENT)
        self._request = h11.Request(
            method="GET",
            target=f"/stream?topics={topics}",
            headers=[
                ("Host", f"{HOST}:{port}"),
                ("Accept", "text/event-stream"),
                ("Last-Event-ID", id),
            ],
        )
        self.answered = False
        self._pieces: list[bytes] = []
        self._decoder = EventStreamDecoder()
        self._seen: list[Seen] = []

    def opening(self) -> bytes:
        head = self._connection.send(self._request)
        return (head or b"") + (self._connection.send(h11.EndOfMessage()) or b"")

    def feed(self, data: bytes) -> None:
        self._connection.receive_data(data)
        while True:
            event = self._connection.next_event()
            if isinstance(event, h11.Response):
                assert event.status_code == 200
                self.answered = True
            elif isinstance(event, h11.Data):
                self._pieces.append(bytes(event.data))
                for each in self._decoder.feed(self._pieces[-1]):
                    self._seen.append(Seen(each.data, each.last_event_id))
            else:
                return

    def seen(self, parse: StreamParser = ours) -> list[Seen]:
        return self._seen if parse is ours else list(parse(self._pieces))


class _SocketClient:
    """What both have in common: a frame is a whole text message, and holds its id."""

    def __init__(self) -> None:
        self.answered = False
        self._seen: list[Seen] = []

    def message(self, text: str) -> None:
        """Take a whole text message."""
        self._seen.append(Seen(text, json.loads(text)["id"]))

    def seen(self, parse: StreamParser = ours) -> list[Seen]:
        return self._seen


class WebsocketsClient(_SocketClient):
    """A WebSocket by the protocol core of `websockets`."""

    def __init__(self, port: int, topics: str, id: str) -> None:
        super().__init__()
        self._protocol = ClientProtocol(parse_uri(f"ws://{HOST}:{port}/websocket?topics={topics}"))
        self._id = id

    def opening(self) -> bytes:
        request = self._protocol.connect()
        request.headers["Last-Event-ID"] = self._id
        self._protocol.send_request(request)
        return b"".join(self._protocol.data_to_send())

    def feed(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self.answered = self._protocol.state is not State.CONNECTING
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                assert event.fin, "a frame of ours is one frame of the WebSocket"
                self.message(bytes(event.data).decode())


class WsprotoClient(_SocketClient):
    """A WebSocket by wsproto, which hands out what there is of a message already."""

    def __init__(self, port: int, topics: str, id: str) -> None:
        super().__init__()
        self._connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._request = Request(
            host=f"{HOST}:{port}",
            target=f"/websocket?topics={topics}",
            extra_headers=[(b"last-event-id", id.encode())],
        )
        self._begun = ""

    def opening(self) -> bytes:
        return self._connection.send(self._request)

    def feed(self, data: bytes) -> None:
        try:
            self._connection.receive_data(data)
        except RemoteProtocolError as error:
            raise AssertionError(f"wsproto takes exception to {data!r}") from error
        for event in self._connection.events():
            self.answered = self.answered or isinstance(event, AcceptConnection)
            if isinstance(event, TextMessage):
                self._begun += event.data
                if event.message_finished:
                    self.message(self._begun)
                    self._begun = ""


MakeClient = type[StreamClient] | type[WebsocketsClient] | type[WsprotoClient]
