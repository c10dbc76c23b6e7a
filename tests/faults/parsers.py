"""Clients without I/O: bytes in, frames out, mostly by independent parsers.

h11 parses the HTTP response of an event stream, and each of `STREAM_PARSERS` reads its body in the
pieces of the network. `websockets` and `wsproto` read WebSockets.
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


class ParsedEvent(NamedTuple):
    """An event as a parser reports it: its data, and the last event id at that time."""

    text: str
    id: str

    @property
    def frame(self) -> Any:
        """Return the JSON of the data, or None if the event was torn and is not JSON."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None


def by_test_decoder(pieces: list[bytes]) -> Iterator[ParsedEvent]:
    """Parse with the decoder of the tests."""
    decoder = EventStreamDecoder()
    for piece in pieces:
        for event in decoder.feed(piece):
            yield ParsedEvent(event.data, event.last_event_id)


def by_httpx_sse(pieces: list[bytes]) -> Iterator[ParsedEvent]:
    """Parse with httpx-sse: it keeps the last id, and drops an event without its end."""
    response = httpx.Response(
        200, headers={"content-type": "text/event-stream"}, content=iter(pieces)
    )
    for event in httpx_sse.EventSource(response).iter_sse():
        yield ParsedEvent(event.data, event.id)


def by_sseclient(pieces: list[bytes]) -> Iterator[ParsedEvent]:
    """Parse with sseclient-py: it dispatches a torn event, or raises inside a character."""
    last = ""
    try:
        for event in sseclient.SSEClient(iter(pieces)).events():
            last = event.id or last
            yield ParsedEvent(event.data, last)
    except UnicodeDecodeError:
        return


StreamParser = Callable[[list[bytes]], Iterator[ParsedEvent]]
STREAM_PARSERS: tuple[StreamParser, ...] = (by_test_decoder, by_httpx_sse, by_sseclient)


class SansIOClient(Protocol):
    """One connection without I/O."""

    accepted: bool
    """True once the response or the handshake has arrived and accepts the request."""

    def request_bytes(self) -> bytes:
        """Return the bytes of the request."""

    def feed(self, data: bytes) -> None:
        """Take received bytes."""

    def events(self, parse: StreamParser = by_test_decoder) -> list[ParsedEvent]:
        """Return all events, once no more bytes arrive. `parse` reads the body of a stream."""


class StreamClient:
    """An event stream, parsed by h11."""

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
        self.accepted = False
        self._pieces: list[bytes] = []
        self._decoder = EventStreamDecoder()
        self._seen: list[ParsedEvent] = []

    def request_bytes(self) -> bytes:
        head = self._connection.send(self._request)
        return (head or b"") + (self._connection.send(h11.EndOfMessage()) or b"")

    def feed(self, data: bytes) -> None:
        self._connection.receive_data(data)
        while True:
            event = self._connection.next_event()
            if isinstance(event, h11.Response):
                assert event.status_code == 200
                self.accepted = True
            elif isinstance(event, h11.Data):
                self._pieces.append(bytes(event.data))
                for each in self._decoder.feed(self._pieces[-1]):
                    self._seen.append(ParsedEvent(each.data, each.last_event_id))
            else:
                return

    def events(self, parse: StreamParser = by_test_decoder) -> list[ParsedEvent]:
        return self._seen if parse is by_test_decoder else list(parse(self._pieces))


class _WebSocketClient:
    """A WebSocket. Each frame of the protocol is a whole text message with its own id."""

    def __init__(self) -> None:
        self.accepted = False
        self._seen: list[ParsedEvent] = []

    def message(self, text: str) -> None:
        """Take a whole text message."""
        self._seen.append(ParsedEvent(text, json.loads(text)["id"]))

    def events(self, parse: StreamParser = by_test_decoder) -> list[ParsedEvent]:
        return self._seen


class WebsocketsClient(_WebSocketClient):
    """A WebSocket, parsed by the protocol core of `websockets`."""

    def __init__(self, port: int, topics: str, id: str) -> None:
        super().__init__()
        self._protocol = ClientProtocol(parse_uri(f"ws://{HOST}:{port}/websocket?topics={topics}"))
        self._id = id

    def request_bytes(self) -> bytes:
        request = self._protocol.connect()
        request.headers["Last-Event-ID"] = self._id
        self._protocol.send_request(request)
        return b"".join(self._protocol.data_to_send())

    def feed(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self.accepted = self._protocol.state is not State.CONNECTING
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                assert event.fin, "a frame of the protocol is one frame of the WebSocket"
                self.message(bytes(event.data).decode())


class WsprotoClient(_WebSocketClient):
    """A WebSocket, parsed by wsproto, which returns a message in parts."""

    def __init__(self, port: int, topics: str, id: str) -> None:
        super().__init__()
        self._connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._request = Request(
            host=f"{HOST}:{port}",
            target=f"/websocket?topics={topics}",
            extra_headers=[(b"last-event-id", id.encode())],
        )
        self._begun = ""

    def request_bytes(self) -> bytes:
        return self._connection.send(self._request)

    def feed(self, data: bytes) -> None:
        try:
            self._connection.receive_data(data)
        except RemoteProtocolError as error:
            raise AssertionError(f"wsproto rejects {data!r}") from error
        for event in self._connection.events():
            self.accepted = self.accepted or isinstance(event, AcceptConnection)
            if isinstance(event, TextMessage):
                self._begun += event.data
                if event.message_finished:
                    self.message(self._begun)
                    self._begun = ""


ClientType = type[StreamClient] | type[WebsocketsClient] | type[WsprotoClient]
