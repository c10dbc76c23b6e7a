"""The connections of the clients, with five ways to read what a server sends.

A `RawConnection` can cut itself at any received byte, so that a cut needs no proxy.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, Literal, Protocol

import httpx
import httpx_sse
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.support.eventstream import EventStreamDecoder
from tests.support.framing import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    ChunkedBody,
    WebSocketFrames,
    masked_frame,
    websocket_handshake,
)
from tests.support.sockets import reset_on_close

HOST = "127.0.0.1"

CutMethod = Literal["fin", "rst"]
Kind = Literal["sse", "websocket", "poll", "httpx-sse", "websockets"]
POLL_WAIT = 2.0
"""Seconds that a poll waits for a message."""

OnFrame = Callable[[str, str | None], None]
"""Takes a frame as JSON, and its event id (None: the id is inside the frame)."""


class ClientConnection(Protocol):
    """One connection of a client."""

    ended: asyncio.Future[str]
    """The cause of its end: "closed", "cut", or an error."""

    def cut(self, method: CutMethod) -> None:
        """Close the connection at once."""

    def send(self, text: str) -> None:
        """Send a text message (WebSocket only)."""

    def pause(self) -> None:
        """Stop reading until `resume`."""

    def resume(self) -> None:
        """Continue reading."""


def request_path(kind: Kind, topics: tuple[str, ...]) -> str:
    """Return the path that a client of this kind requests, the same each time as in a browser."""
    query = f"?topics={','.join(topics)}"
    if kind == "poll":
        return f"/poll{query}&wait={POLL_WAIT}"
    return f"/{'stream' if 'sse' in kind else 'websocket'}{query}"


class RawConnection(asyncio.Protocol):
    """A connection that is read by the decoders of the tests.

    `cut_at` is the number of received bytes after which the connection cuts itself. `sends` limits
    the bytes of the request: the client sends only these, and then leaves.
    """

    def __init__(self, kind: Kind, request: bytes, on_frame: OnFrame) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.cut_at: int | None = None
        self.cut_method: CutMethod = "rst"
        self.sends: int | None = None
        self.received = 0
        self._kind, self._request, self._on_frame = kind, request, on_frame
        self._poll_body, self._poll_length = b"", 0
        self._head: bytes | None = b""
        self._chunks, self._events = ChunkedBody(), EventStreamDecoder()
        self._frames = WebSocketFrames()
        self._is_chunked = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self.ended.done():
            transport.abort()  # type: ignore[attr-defined]
            return
        self._transport.write(self._request[: self.sends])
        if self.sends is not None:
            self.cut(self.cut_method)

    def connection_lost(self, error: Exception | None) -> None:
        self._end("closed" if error is None else type(error).__name__)

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return
        if self.cut_at is not None and self.received + len(data) >= self.cut_at:
            self._read(data[: max(0, self.cut_at - self.received)])
            self.cut(self.cut_method)
            return
        self.received += len(data)
        self._read(data)

    def _read(self, data: bytes) -> None:
        try:
            if self._head is not None:
                self._head += data
                head, end, data = self._head.partition(b"\r\n\r\n")
                if not end:
                    return
                self._head = None
                if not self._is_accepted(head):
                    return
            if self._kind == "poll":
                self._read_poll(data)
            elif self._kind == "websocket":
                self._read_frames(data)
            else:
                self._read_events(data)
        except ValueError as error:
            self.cut("rst", f"malformed: {error}")

    def _is_accepted(self, head: bytes) -> bool:
        """Check the head of the response. Raises ValueError if it is malformed."""
        status_line, *fields = head.lower().split(b"\r\n")
        status = status_line.split()[1]
        # The body of a poll's 503 has the reason.
        if status.startswith(b"5") and not (self._kind == "poll" and status == b"503"):
            self.cut("rst", f"refused: {status.decode()}")
            return False
        expected = {"websocket": [b"101"], "poll": [b"200", b"503"]}.get(self._kind, [b"200"])
        if status not in expected:
            raise ValueError(f"{head!r}")
        self._is_chunked = b"transfer-encoding: chunked" in fields
        self._poll_length = sum(
            int(field.partition(b":")[2]) for field in fields if field.startswith(b"content-length")
        )
        return True

    def _read_poll(self, data: bytes) -> None:
        """Read the response as a whole: a client that lost a part of it has lost all of it."""
        self._poll_body += data
        if len(self._poll_body) < self._poll_length:
            return
        response = json.loads(self._poll_body)
        refusal = {"type": "error", "data": response.get("error")}
        for frame in response.get("frames", [refusal]):
            self._on_frame(json.dumps(frame, separators=(",", ":")), None)
        self.cut("fin", "closed")

    def _read_events(self, data: bytes) -> None:
        for piece in self._chunks.feed(data) if self._is_chunked else (data,):
            for event in self._events.feed(piece):
                self._on_frame(event.data, event.last_event_id)
        if self._chunks.is_complete:
            self.cut("fin", "closed")

    def _read_frames(self, data: bytes) -> None:
        for opcode, payload in self._frames.feed(data):
            if opcode == TEXT:
                self._on_frame(payload.decode(), None)
            elif opcode == PING:
                self._transport.write(masked_frame(PONG, payload))
            elif opcode == CLOSE:
                self._transport.write(masked_frame(CLOSE, payload[:2]))
                self.cut("fin", "closed")

    def _end(self, how: str) -> None:
        if not self.ended.done():
            self.ended.set_result(how)

    def cut(self, method: CutMethod, how: str = "cut") -> None:
        self._end(how)
        if self._transport is None:
            return
        if method == "rst":
            reset_on_close(self._transport.get_extra_info("socket"))
            self._transport.abort()
        else:
            self._transport.close()

    def send(self, text: str) -> None:
        self._transport.write(masked_frame(TEXT, text.encode()))

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self.ended.done():
            self._transport.resume_reading()


async def open_raw_connection(
    kind: Kind,
    port: int,
    path: str,
    headers: dict[str, str],
    on_frame: OnFrame,
    *,
    prepare: Callable[[RawConnection], None],
    receive_buffer: int | None = None,
) -> RawConnection:
    """Open a connection, after `prepare` was called with it.

    Args:
        receive_buffer: bytes that the kernel holds for the client.

    Raises:
        OSError: no server listens.
    """
    lines = [f"{name}: {value}" for name, value in headers.items()]
    host = f"{HOST}:{port}"
    if kind == "websocket":
        request = websocket_handshake(host, path, lines)
    else:
        head = [f"GET {path} HTTP/1.1", f"Host: {host}", "Accept: text/event-stream", *lines]
        request = "\r\n".join([*head, "", ""]).encode()
    connection = RawConnection(kind, request, on_frame)
    prepare(connection)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, (HOST, port))
        await loop.create_connection(lambda: connection, sock=sock)
    except BaseException:
        sock.close()
        raise
    return connection


class LibraryConnection:
    """A connection that is read by an independent library: httpx-sse, or websockets."""

    def __init__(
        self, kind: Kind, port: int, path: str, headers: dict[str, str], on_frame: OnFrame
    ) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._on_frame = on_frame
        read = self._read_events if kind == "httpx-sse" else self._read_messages
        self._task = asyncio.create_task(read(port, path, headers))

    async def _read_events(self, port: int, path: str, headers: dict[str, str]) -> None:
        url, how = f"http://{HOST}:{port}{path}", "closed"
        # `SoakClient` has its own deadlines.
        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:  # noqa: S113
            try:
                async with httpx_sse.aconnect_sse(client, "GET", url, headers=headers) as source:
                    async for event in source.aiter_sse():
                        self._on_frame(event.data, event.id)
            except (httpx.HTTPError, httpx_sse.SSEError) as error:
                how = type(error).__name__
            self._end(how)

    async def _read_messages(self, port: int, path: str, headers: dict[str, str]) -> None:
        how, url = "closed", f"ws://{HOST}:{port}{path}"
        try:
            async with connect(
                url, additional_headers=headers, close_timeout=1.0, proxy=None, max_size=None
            ) as messages:
                async for text in messages:
                    self._on_frame(str(text), None)
        except (OSError, WebSocketException, TimeoutError) as error:
            how = type(error).__name__
        self._end(how)

    def _end(self, how: str) -> None:
        if not self.ended.done():
            self.ended.set_result(how)

    def cut(self, method: CutMethod) -> None:
        self._end("cut")
        self._task.cancel()

    def send(self, text: str) -> None:
        raise NotImplementedError("a LibraryConnection only reads")

    def pause(self) -> None:
        """Do nothing: the libraries read all the time."""

    def resume(self) -> None:
        """Do nothing: the libraries read all the time."""
