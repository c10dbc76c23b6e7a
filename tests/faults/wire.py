"""Trials by the thousand: a client of `parsers` on a socket, and what each is to have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from tests.faults.parsers import Client, MakeClient, Seen
from tests.support.clients import request

T = TypeVar("T")
HOST = "127.0.0.1"
PATIENCE = 20.0

MESSAGES: list[dict[str, Any]] = [
    {"priority": "LOW", "data": "low 1"},
    {"priority": "NORMAL", "data": {"key\r\n": "é€𝄞"}, "key": "k"},
    {"priority": "CRITICAL", "data": "id: 1\r\n\r\ndata: 2\u2028\0"},
    {"priority": "HIGH", "data": "𝄞"},
    {"priority": "NORMAL", "data": None},
    {"priority": "LOW", "data": "the end"},
]
"""What is published: all priorities, multi-byte characters, and what would end an event."""
EXPECTED = [MESSAGES[n]["data"] for n in (2, 3, 1, 4, 0, 5)]
"""What each client is to have: best lane first, each lane in the order of the log."""
END = b'"the end"'


class FrameEncoder(asyncio.Protocol):
    """Feeds a client with what arrives.

    A callback and no reader: what arrived before a RST is the client's, to the last byte.
    """

    def __init__(self, client: Client) -> None:
        self.received = 0
        self.transport: asyncio.Transport
        self._client = client
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._client.opening())

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._client.feed(data)
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._news.set()

    async def until(self, enough: Callable[[Client], bool], patience: float = PATIENCE) -> None:
        """Wait until the client has enough, or the connection has ended."""
        async with asyncio.timeout(patience):
            while not (enough(self._client) or self.transport.is_closing()):
                self._news.clear()
                await self._news.wait()


async def begin(port: int, client: Client) -> FrameEncoder:
    """Connect; the connection stays open."""
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(lambda: FrameEncoder(client), HOST, port)
    return wire


async def receive(port: int, client: Client, enough: Callable[[Client], bool]) -> int:
    """Read until it is enough, and what follows within a moment; how many bytes those were."""
    wire = await begin(port, client)
    try:
        await wire.until(enough)
        if not wire.transport.is_closing():
            await asyncio.sleep(0.02)  # a message too many would follow at once
    finally:
        wire.transport.abort()
    return wire.received


def data(seen: Iterable[Seen]) -> list[Any]:
    """What the messages among these events hold."""
    frames = [each.frame for each in seen]
    return [frame["data"] for frame in frames if frame and frame["type"] == "message"]


def has_end(client: Client) -> bool:
    """Whether the last of all messages is here."""
    return any(END.decode() in each.text for each in client.seen())


async def come_back(port: int, make: MakeClient, topic: str, id: str) -> list[Seen]:
    """Present an id, and read all that follows it."""
    client = make(port, topic, id)

    def enough(client: Client) -> bool:
        if not (seen := client.seen()):
            return False
        first = seen[0].frame["data"]
        return not first.get("replay") or has_end(client)

    await receive(port, client, enough)
    seen = client.seen()
    assert seen[0].frame["type"] == "connection_established", seen
    return seen


def check(seen: list[Seen]) -> None:
    """Everything once and in order, and no gap declared."""
    assert data(seen) == EXPECTED
    for frame in [each.frame for each in seen]:
        assert frame["type"] in ("connection_established", "message")
        assert frame["type"] == "message" or frame["data"]["session"] == "resumed"


async def by_fifties(items: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
    """Do it with each, fifty at a time."""
    queue = iter(items)

    async def work() -> None:
        for item in queue:
            await do(item)

    async with asyncio.TaskGroup() as workers:
        for _ in range(50):
            workers.create_task(work())


async def position(port: int, topic: str) -> str:
    """The event id of a session of its own, made now."""
    answer = await request(port, "GET", f"/position?topics={topic}")
    return str(answer.json()["id"])


async def publish(port: int, topic: str) -> None:
    """Publish it all."""
    body = {"messages": [{"topic": topic, **message} for message in MESSAGES]}
    assert (await request(port, "POST", "/publish", body)).status == 200
