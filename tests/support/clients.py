"""Raw clients that read the bytes of a server directly."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.eventstream import Event, EventStreamDecoder
from tests.support.sockets import reset_on_close

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

HOST = "127.0.0.1"
TIMEOUT = 10.0


@dataclass(frozen=True)
class Response:
    """A whole HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class HttpConnection:
    """One HTTP/1.1 request and its response, read piece by piece (RFC 9112)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def read_head(self) -> None:
        """Read status and headers."""
        self.status = int((await self._reader.readline()).split()[1])
        while (line := await self._reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.strip().lower()] = value.strip()

    async def chunk(self) -> bytes:
        """Return the next piece of the body, or `b""` at its clean end."""
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._reader.read(65536)
        line = await self._reader.readline()
        if not line:
            raise EOFError("the body was cut off before its last chunk")
        size = int(line.partition(b";")[0], 16)
        body = await self._reader.readexactly(size)
        await self._reader.readline()
        return body

    def pause(self) -> None:
        """Stop reading, so that the server's output fills the buffers of the connection."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def cut(self, how: Literal["fin", "rst"] = "fin") -> None:
        """Disconnect as a closed browser does (FIN), or as a crashed one (RST)."""
        if how == "rst":
            reset_on_close(self._writer.get_extra_info("socket"))
            self._writer.transport.abort()
        else:
            self._writer.close()


class EventStream(HttpConnection):
    """An event stream over HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self.decoder = EventStreamDecoder()
        self._events: list[Event] = []

    async def event(self) -> Event:
        """Return the next event. Raises EOFError at the end of the stream."""
        async with asyncio.timeout(TIMEOUT):
            while not self._events:
                chunk = await self.chunk()
                if not chunk:
                    raise EOFError("the stream ended")
                self._events += self.decoder.feed(chunk)
        return self._events.pop(0)

    async def messages(self, count: int) -> list[Any]:
        """Return the data of the next `count` messages, and skip all other frames."""
        found: list[Any] = []
        while len(found) < count:
            frame = (await self.event()).json()
            if frame["type"] == "message":
                found.append(frame["data"])
        return found

    async def rest(self) -> list[Any]:
        """Return the frames up to the end of the stream, clean or not."""
        found: list[Any] = []
        with contextlib.suppress(EOFError, ConnectionError, asyncio.IncompleteReadError):
            while True:
                found.append((await self.event()).json())
        return found


def _head(method: str, path: str, port: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@contextlib.asynccontextmanager
async def open_stream(
    port: int,
    path: str = "/stream?topics=t",
    *,
    last_event_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[EventStream]:
    """Request an event stream. The block begins when the response's headers have arrived."""
    sent = {"Accept": "text/event-stream", **(headers or {})}
    if last_event_id is not None:
        sent["Last-Event-ID"] = last_event_id
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(_head("GET", path, port, sent))
        stream = EventStream(reader, writer)
        async with asyncio.timeout(TIMEOUT):
            await stream.read_head()
        yield stream
    finally:
        writer.close()


async def request(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send a whole request with a JSON body. Returns the whole response."""
    content = b"" if body is None else json.dumps(body).encode()
    sent = {"Connection": "close", "Content-Length": str(len(content)), **(headers or {})}
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(_head(method, path, port, sent) + content)
        connection = HttpConnection(reader, writer)
        received = b""
        async with asyncio.timeout(TIMEOUT):
            await connection.read_head()
            length = connection.headers.get("content-length")
            while method != "HEAD" and (length is None or len(received) < int(length)):
                chunk = await connection.chunk()
                if not chunk:
                    break
                received += chunk
    finally:
        writer.close()
    return Response(connection.status, connection.headers, received)


class WebSocketClient:
    """A WebSocket that carries JSON objects."""

    def __init__(self, socket_: ClientConnection) -> None:
        self._socket = socket_

    async def frame(self) -> Any:
        """Return the next frame of the server."""
        async with asyncio.timeout(TIMEOUT):
            return json.loads(await self._socket.recv())

    async def send(self, value: Any) -> None:
        """Send an object as JSON, text or bytes unchanged."""
        await self._socket.send(value if isinstance(value, str | bytes) else json.dumps(value))

    async def wait_closed(self) -> int:
        """Read until the server closes. Returns the close code that this client saw."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(TIMEOUT):
                while True:
                    await self._socket.recv()
        return self._socket.close_code or 1005

    def cut(self) -> None:
        """Disconnect with a RST, as a crashed browser does."""
        reset_on_close(self._socket.transport.get_extra_info("socket"))
        self._socket.transport.abort()


@contextlib.asynccontextmanager
async def open_socket(
    port: int,
    path: str = "/websocket?topics=t",
    *,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[WebSocketClient]:
    """Open a WebSocket."""
    async with connect(
        f"ws://{HOST}:{port}{path}",
        additional_headers=headers,
        close_timeout=1.0,
        compression=None,
        proxy=None,
    ) as socket_:
        yield WebSocketClient(socket_)
