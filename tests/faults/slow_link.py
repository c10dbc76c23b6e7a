"""Measure the latency of a critical message behind 4 MB on a link of 1 Mbit/s.

    python -m tests.faults.slow_link

The command prints the latency for a hand-written queue per client, and for holdfast without and
with a window.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from tests.support.clients import EventStream, open_socket, open_stream, request
from tests.support.processes import ServerProcess
from tests.support.proxy import Fault, Proxy

RATE = 125_000
"""Bytes per second: 1 Mbit/s."""

MESSAGES, SIZE = 1000, 4000
PIECE = 50
"""Messages in one request."""

SETTLING = 1.0
"""Seconds until the server has sent all that it sends by itself."""


@dataclass(frozen=True)
class Contestant:
    """A server and a client for it."""

    name: str
    app: str
    listen: Callable[[int], AbstractAsyncContextManager[Any]]
    acknowledges: bool


def stream(port: int) -> AbstractAsyncContextManager[Any]:
    """Open an event stream that acknowledges nothing."""
    return open_stream(port)


def acknowledging_stream(port: int) -> AbstractAsyncContextManager[Any]:
    """Open an event stream whose client acknowledges by POST."""
    return open_stream(port, "/stream?topics=t&ack=true")


def acknowledging_socket(port: int) -> AbstractAsyncContextManager[Any]:
    """Open a WebSocket on which the client acknowledges."""
    return open_socket(port, "/websocket?topics=t&ack=true")


BY_HAND = Contestant("a queue per client", "tests.apps.queue_per_client:app", stream, False)
WITHOUT = Contestant("holdfast, SSE, not acknowledging", "tests.apps.live:app", stream, False)
WITH_SSE = Contestant("holdfast, SSE", "tests.apps.live:app", acknowledging_stream, True)
WITH_WEBSOCKET = Contestant(
    "holdfast, WebSocket", "tests.apps.live:app", acknowledging_socket, True
)


async def latency(contestant: Contestant, *, patience: float = 120.0) -> float:
    """Return the seconds from publish to arrival of the critical message, at most `patience`."""
    with ServerProcess("uvicorn", contestant.app) as server:
        proxy = Proxy(server.port, lambda _: Fault(rate=RATE))
        async with proxy, contestant.listen(proxy.port) as client:
            arrived = asyncio.ensure_future(_read(client, contestant, server.port))
            messages = [{"topic": "t", "data": "x" * SIZE, "priority": "LOW"}] * PIECE
            for _ in range(MESSAGES // PIECE):
                await request(server.port, "POST", "/publish", {"messages": messages})
            await asyncio.sleep(SETTLING)
            critical = {"topic": "t", "data": "fire", "priority": "CRITICAL"}
            began = time.monotonic()
            await request(server.port, "POST", "/publish", {"messages": [critical]})
            try:
                async with asyncio.timeout(patience):
                    return await arrived - began
            except TimeoutError:
                return patience


async def _read(client: Any, contestant: Contestant, port: int) -> float:
    """Read and acknowledge every frame up to the critical message. Returns its arrival time."""
    connection = ""
    while True:
        if isinstance(client, EventStream):
            event = await client.event()
            frame, id = event.json(), event.last_event_id
        else:
            frame = await client.frame()
            id = frame["id"]
        if frame["type"] == "connection_established":
            connection = frame["data"]["connectionId"]
        if frame.get("data") == "fire":
            return time.monotonic()
        if not contestant.acknowledges:
            continue
        if isinstance(client, EventStream):
            await request(port, "POST", "/ack", {"connectionId": connection, "id": id})
        else:
            await client.send({"type": "ack", "id": id})


def main() -> None:
    """Print the table."""
    found = {}
    for contestant in (BY_HAND, WITHOUT, WITH_SSE, WITH_WEBSOCKET):
        found[contestant.name] = asyncio.run(latency(contestant))
    sys.stdout.write("| 4 MB of LOW before it, 1 Mbit/s | critical after, s | of that by hand |\n")
    sys.stdout.write("| --- | --: | --: |\n")
    slowest = found[BY_HAND.name]
    for name, seconds in found.items():
        sys.stdout.write(f"| {name} | {seconds:.3f} | 1/{slowest / seconds:.0f} |\n")


if __name__ == "__main__":
    main()
