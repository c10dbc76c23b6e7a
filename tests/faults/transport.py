"""A client of `parsers` on a real socket, and the messages that each client has to receive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from tests.faults.parsers import ClientType, ParsedEvent, SansIOClient
from tests.support.clients import request

T = TypeVar("T")
HOST = "127.0.0.1"
TIMEOUT = 20.0

MESSAGES: list[dict[str, Any]] = [
    {"priority": "LOW", "data": "low 1"},
    {"priority": "NORMAL", "data": {"key\r\n": "é€𝄞"}, "key": "k"},
    {"priority": "CRITICAL", "data": "id: 1\r\n\r\ndata: 2\u2028\0"},
    {"priority": "HIGH", "data": "𝄞"},
    {"priority": "NORMAL", "data": None},
    {"priority": "LOW", "data": "the end"},
]
"""The published messages: all priorities, multi-byte characters, and text that ends an event."""
EXPECTED = [MESSAGES[n]["data"] for n in (2, 3, 1, 4, 0, 5)]
"""The data that each client has to receive: by lane, and in each lane in the order of the log."""
END = b'"the end"'


class ClientTransport(asyncio.Protocol):
    """A socket that passes received bytes to a client.

    A callback, and not a stream reader, receives every byte that arrived before a RST.
    """

    def __init__(self, client: SansIOClient) -> None:
        self.received = 0
        self.transport: asyncio.Transport
        self._client = client
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._client.request_bytes())

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._client.feed(data)
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._news.set()

    async def wait_until(
        self, enough: Callable[[SansIOClient], bool], seconds: float = TIMEOUT
    ) -> None:
        """Wait until the client has enough, or the connection has ended."""
        async with asyncio.timeout(seconds):
            while not (enough(self._client) or self.transport.is_closing()):
                self._news.clear()
                await self._news.wait()


async def begin(port: int, client: SansIOClient) -> ClientTransport:
    """Connect; the connection stays open."""
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(lambda: ClientTransport(client), HOST, port)
    return wire


async def receive(port: int, client: SansIOClient, enough: Callable[[SansIOClient], bool]) -> int:
    """Read until `enough`, and for a moment longer. Returns the number of bytes."""
    wire = await begin(port, client)
    try:
        await wire.wait_until(enough)
        if not wire.transport.is_closing():
            await asyncio.sleep(0.02)  # an extra message would follow at once
    finally:
        wire.transport.abort()
    return wire.received


def data(seen: Iterable[ParsedEvent]) -> list[Any]:
    """Return the data of the messages among the events."""
    frames = [each.frame for each in seen]
    return [frame["data"] for frame in frames if frame and frame["type"] == "message"]


def has_last_message(client: SansIOClient) -> bool:
    """Return whether the last of all messages has arrived."""
    return any(END.decode() in each.text for each in client.events())


async def reconnect(port: int, make: ClientType, topic: str, id: str) -> list[ParsedEvent]:
    """Present an event id, and read everything that follows it."""
    client = make(port, topic, id)

    def enough(client: SansIOClient) -> bool:
        if not (seen := client.events()):
            return False
        first = seen[0].frame["data"]
        return not first.get("replay") or has_last_message(client)

    await receive(port, client, enough)
    seen = client.events()
    assert seen[0].frame["type"] == "connection_established", seen
    return seen


def check(seen: list[ParsedEvent]) -> None:
    """Check that every message came once and in order, without a gap."""
    assert data(seen) == EXPECTED
    for frame in [each.frame for each in seen]:
        assert frame["type"] in ("connection_established", "message")
        assert frame["type"] == "message" or frame["data"]["session"] == "resumed"


async def run_concurrently(items: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
    """Call `do` for each item, fifty at a time."""
    queue = iter(items)

    async def work() -> None:
        for item in queue:
            await do(item)

    async with asyncio.TaskGroup() as workers:
        for _ in range(50):
            workers.create_task(work())


async def position(port: int, topic: str) -> str:
    """Return the event id of a new session."""
    answer = await request(port, "GET", f"/position?topics={topic}")
    return str(answer.json()["id"])


async def publish(port: int, topic: str) -> None:
    """Publish all messages."""
    body = {"messages": [{"topic": topic, **message} for message in MESSAGES]}
    assert (await request(port, "POST", "/publish", body)).status == 200
