"""A server that answers each request with bytes of the test, valid or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"
TOKEN = "t" * 22
EPOCH = "e" * 12


@dataclass(frozen=True)
class ReceivedRequest:
    """A request of the client."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Responder = Callable[[ReceivedRequest, asyncio.StreamWriter], Awaitable[None]]
"""Writes the response to one request."""


def id_of(offset: int) -> str:
    """Return the event id after this offset."""
    return f"{EPOCH}~{offset}~{TOKEN}"


def event(frame: dict[str, Any], offset: int) -> bytes:
    """Return a frame as a server-sent event."""
    return f"data: {json.dumps(frame)}\nid: {id_of(offset)}\n\n".encode()


def first_frame(offset: int = 0, **more: Any) -> bytes:
    """Return a first frame, with `more` as further members of its data."""
    data = {
        "connectionId": "c",
        "reconnectToken": TOKEN,
        "session": "resumed" if offset else "fresh",
        "topics": ["t"],
        "rejected": [],
        "heartbeatInterval": None,
    }
    return event({"type": "connection_established", "data": data | more, "timestamp": 1}, offset)


def message(offset: int, data: Any = None) -> bytes:
    """Return a message, whose data are its offset unless they are given."""
    frame = {"type": "message", "topic": "t", "data": offset if data is None else data}
    return event(frame | {"priority": "normal", "timestamp": 1.5}, offset)


def closing(reason: str, *, reconnect: bool) -> bytes:
    """Return a closing frame."""
    frame = {"type": "closing", "data": {"reason": reason, "reconnect": reconnect}}
    return b"data: " + json.dumps(frame).encode() + b"\n\n"


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def stream(*chunks: bytes, stays: bool = True) -> Responder:
    """Respond with an event stream of these chunks, which stays open or ends."""

    async def respond(received: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"".join(chunks))
        await writer.drain()
        if stays:
            await asyncio.Event().wait()

    return respond


def status(line: str, *headers: str, body: bytes = b"") -> Responder:
    """Respond with this status line, these headers and this body."""

    async def respond(received: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        head = [f"HTTP/1.1 {line}", *headers, f"content-length: {len(body)}", "connection: close"]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)

    return respond


def error_body(code: str) -> bytes:
    """Return the body of an error response of holdfast."""
    return json.dumps({"error": {"code": code, "detail": "because"}}).encode()


class ScriptedServer:
    """Answers each request for a stream with the next responder. The last responder stays.

    `on_post` answers every POST, with 200 and ``{}`` unless a test replaces it.
    """

    def __init__(self, *responders: Responder) -> None:
        self.port = 0
        self.requests: list[ReceivedRequest] = []
        """The requests for streams."""
        self.posts: list[ReceivedRequest] = []
        self.on_post = status("200 OK", body=b"{}")
        self._responders = list(responders)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = head[0].split()
            pairs = (line.partition(":") for line in head[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            received = ReceivedRequest(method, path, headers, body)
            if method == "POST":
                self.posts.append(received)
                await self.on_post(received, writer)
            else:
                self.requests.append(received)
                last = len(self._responders) == 1
                respond = self._responders[0] if last else self._responders.pop(0)
                await respond(received, writer)
            await writer.drain()


@asynccontextmanager
async def scripted_server(*responders: Responder) -> AsyncIterator[ScriptedServer]:
    """Run a server with these responders for the length of the block."""
    scripted = ScriptedServer(*responders)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await scripted.serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the end of the block, which waits for this task
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    scripted.port = server.sockets[0].getsockname()[1]
    try:
        yield scripted
    finally:
        server.close()
        running = list(tasks)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
