"""Links: one connection of a client each, over five ways to read what the server sends.

A raw link can cut itself at any byte of what it receives, so that no proxy is needed for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable
from typing import Any, Literal, Protocol

import httpx
import httpx_sse
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from . import decoders

HOST = "127.0.0.1"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST

How = Literal["fin", "rst"]
Kind = Literal["sse", "websocket", "poll", "httpx-sse", "websockets"]
POLL_WAIT = 2.0

Arrived = Callable[[bytes, str | None], None]
"""Takes a frame: its JSON, and its event id (`None`: inside the JSON)."""


class Link(Protocol):
    """What a client holds of its connection."""

    ended: asyncio.Future[str]
    """How it ended: "closed", "cut", or what went wrong."""

    def cut(self, how: How) -> None:
        """Leave at once."""

    def send(self, text: str) -> None:
        """Send a text message; WebSocket only."""

    def pause(self) -> None:
        """Read nothing until `resume`."""

    def resume(self) -> None:
        """Read on."""


def path_of(kind: Kind, topics: tuple[str, ...]) -> str:
    """The path that a client of this kind asks for, the same each time, as a browser does."""
    named = f"?topics={','.join(topics)}"
    if kind == "poll":
        return f"/poll{named}&wait={POLL_WAIT}"
    return f"/{'stream' if 'sse' in kind else 'websocket'}{named}"


class RawLink(asyncio.Protocol):
    """A connection read by the decoders of decoders.py.

    ``cut_at`` is the number of received bytes after which the link cuts itself; with ``sends``,
    only so many bytes of the request go out, and then the client vanishes.
    """

    def __init__(
        self, kind: Kind, request: bytes, arrived: Arrived, on_open: Callable[[], None]
    ) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.cut_at: int | None = None
        self.how: How = "rst"
        self.sends: int | None = None
        self.received = 0
        self._request, self._arrived, self._on_open = request, arrived, on_open
        self._is_socket = kind == "websocket"
        self._is_poll = kind == "poll"
        self._body, self._length = b"", 0  # of a poll's answer
        self._head: bytes | None = b""
        self._chunks, self._events = decoders.ChunkedBody(), decoders.EventStreamBody()
        self._frames = decoders.SocketBody()
        self._is_chunked = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self.ended.done():
            transport.abort()  # type: ignore[attr-defined]
            return
        self._on_open()
        self._transport.write(self._request[: self.sends])
        if self.sends is not None:
            self.cut(self.how)

    def connection_lost(self, error: Exception | None) -> None:
        self._end("closed" if error is None else type(error).__name__)

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return
        if self.cut_at is not None and self.received + len(data) >= self.cut_at:
            data = data[: max(0, self.cut_at - self.received)]
            self._read(data)
            self.cut(self.how)
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
                self._check(head)
            if self._is_poll:
                self._read_answer(data)
            elif self._is_socket:
                self._read_frames(data)
            else:
                for piece in self._chunks.feed(data) if self._is_chunked else (data,):
                    for body, id in self._events.feed(piece):
                        self._arrived(body, id.decode("latin-1"))
                if self._chunks.is_complete:
                    self.cut("fin", "closed")
        except ValueError as error:
            self.cut("rst", f"malformed: {error}")

    def _check(self, head: bytes) -> None:
        status, *fields = head.lower().split(b"\r\n")
        expected = [b"101"] if self._is_socket else [b"200", b"503"][: 1 + self._is_poll]
        if status.split()[1] not in expected:
            raise ValueError(f"{head!r}")
        self._is_chunked = b"transfer-encoding: chunked" in fields
        self._length = sum(
            int(field.partition(b":")[2]) for field in fields if field.startswith(b"content-length")
        )

    def _read_answer(self, data: bytes) -> None:
        """All of it or nothing: whoever lost a part of an answer has lost the answer."""
        self._body += data
        if len(self._body) < self._length:
            return
        answer = json.loads(self._body)
        refusal = {"type": "error", "data": answer.get("error")}
        for frame in answer.get("frames", [refusal]):
            self._arrived(json.dumps(frame, separators=(",", ":")).encode(), None)
        self.cut("fin", "closed")

    def _read_frames(self, data: bytes) -> None:
        for opcode, payload in self._frames.feed(data):
            if opcode == decoders.TEXT:
                self._arrived(payload, None)
            elif opcode == decoders.PING:
                self._transport.write(decoders.mask(decoders.PONG, payload))
            elif opcode == decoders.CLOSE:
                self._transport.write(decoders.mask(decoders.CLOSE, payload[:2]))
                self.cut("fin", "closed")

    def _end(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)

    def cut(self, how: How, why: str = "cut") -> None:
        self._end(why)
        if self._transport is None:
            return
        if how == "rst":
            with contextlib.suppress(OSError):
                self._transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE
                )
            self._transport.abort()
        else:
            self._transport.close()

    def send(self, text: str) -> None:
        self._transport.write(decoders.mask(decoders.TEXT, text.encode()))

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self.ended.done():
            self._transport.resume_reading()


async def open_raw(
    kind: Kind,
    port: int,
    path: str,
    headers: dict[str, str],
    arrived: Arrived,
    *,
    on_open: Callable[[], None] = lambda: None,
    prepare: Callable[[RawLink], None] = lambda _: None,
    receive_buffer: int | None = None,
) -> RawLink:
    """Open a raw link; raises OSError. ``receive_buffer`` makes the kernel hold less."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    host = f"{HOST}:{port}"
    if kind == "websocket":
        request = decoders.upgrade(host, path, lines)
    else:
        head = [f"GET {path} HTTP/1.1", f"Host: {host}", "Accept: text/event-stream", *lines]
        request = "\r\n".join([*head, "", ""]).encode()
    link = RawLink(kind, request, arrived, on_open)
    prepare(link)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, (HOST, port))
        await loop.create_connection(lambda: link, sock=sock)
    except BaseException:
        sock.close()
        raise
    return link


class ForeignLink:
    """A connection that is read by a parser which nobody here wrote: httpx-sse, or websockets."""

    def __init__(
        self, kind: Kind, port: int, path: str, headers: dict[str, str], arrived: Arrived
    ) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._arrived = arrived
        self._socket: Any = None
        read = self._read_events if kind == "httpx-sse" else self._read_socket
        self._task = asyncio.create_task(read(port, path, headers))

    async def _read_events(self, port: int, path: str, headers: dict[str, str]) -> None:
        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:  # noqa: S113 - watched by who uses it
            await self._run(client, f"http://{HOST}:{port}{path}", headers)

    async def _run(self, client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> None:
        why = "closed"
        try:
            async with httpx_sse.aconnect_sse(client, "GET", url, headers=headers) as source:
                async for event in source.aiter_sse():
                    self._arrived(event.data.encode(), event.id)
        except (httpx.HTTPError, httpx_sse.SSEError) as error:
            why = type(error).__name__
        self._end(why)

    async def _read_socket(self, port: int, path: str, headers: dict[str, str]) -> None:
        why, url = "closed", f"ws://{HOST}:{port}{path}"
        try:
            async with connect(
                url, additional_headers=headers, close_timeout=1.0, proxy=None, max_size=None
            ) as self._socket:
                async for text in self._socket:
                    self._arrived(text.encode(), None)
        except (OSError, WebSocketException, TimeoutError) as error:
            why = type(error).__name__
        self._end(why)

    def _end(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)

    def cut(self, how: How) -> None:
        self._end("cut")
        self._task.cancel()

    def send(self, text: str) -> None:
        raise NotImplementedError("foreign clients only read")

    def pause(self) -> None:
        """These read all the time."""

    def resume(self) -> None:
        """These read all the time."""
