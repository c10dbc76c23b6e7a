"""A server that answers each request with the bytes that the test says, right or wrong."""

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
class Asked:
    """A request: its first line, its headers, its body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def id_of(offset: int) -> str:
    """An event id."""
    return f"{EPOCH}~{offset}~{TOKEN}"


def event(frame: dict[str, Any], offset: int) -> bytes:
    """A frame as an event."""
    return f"data: {json.dumps(frame)}\nid: {id_of(offset)}\n\n".encode()


def hello(offset: int = 0, **more: Any) -> bytes:
    """The first frame."""
    data = {
        "connectionId": "c",
        "reconnectToken": TOKEN,
        "session": "resumed" if offset else "fresh",
        "topics": ["t"],
        "rejected": [],
        "heartbeatInterval": None,
    }
    return event({"type": "connection_established", "data": data | more, "timestamp": 1}, offset)


def message(number: int, data: Any = None) -> bytes:
    """A message, whose data are its number unless given."""
    frame = {"type": "message", "topic": "t", "data": number if data is None else data}
    return event(frame | {"priority": "normal", "timestamp": 1.5}, number)


def closing(reason: str, *, reconnect: bool) -> bytes:
    """A last frame."""
    frame = {"type": "closing", "data": {"reason": reason, "reconnect": reconnect}}
    return b"data: " + json.dumps(frame).encode() + b"\n\n"


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def stream(*chunks: bytes, stays: bool = True) -> Answer:
    """An event stream of these chunks, which then stays open, or ends."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"".join(chunks))
        await writer.drain()
        if stays:
            await asyncio.Event().wait()

    return answer


def status(line: str, *headers: str, body: bytes = b"") -> Answer:
    """An answer with this status line, which ends."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        head = [f"HTTP/1.1 {line}", *headers, f"content-length: {len(body)}", "connection: close"]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)

    return answer


def problem(code: str) -> bytes:
    """An error as holdfast words it."""
    return json.dumps({"error": {"code": code, "detail": "because"}}).encode()


class Answers:
    """Answers the first request for a stream with the first answer, and so on; the last stays.

    A POST is answered with `post`: 200 and ``{}``. `asked` are the requests for streams.
    """

    def __init__(self, *answers: Answer) -> None:
        self.port = 0
        self.asked: list[Asked] = []
        self.posted: list[Asked] = []
        self.post = status("200 OK", body=b"{}")
        self._answers = list(answers)

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
            asked = Asked(method, path, headers, body)
            if method == "POST":
                self.posted.append(asked)
                await self.post(asked, writer)
            else:
                self.asked.append(asked)
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                await answer(asked, writer)
            await writer.drain()


@asynccontextmanager
async def answering(*answers: Answer) -> AsyncIterator[Answers]:
    """Such a server, for the length of the block."""
    answers_ = Answers(*answers)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await answers_.serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the end of the block, which waits for this
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    answers_.port = server.sockets[0].getsockname()[1]
    try:
        yield answers_
    finally:
        server.close()
        running = list(tasks)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
