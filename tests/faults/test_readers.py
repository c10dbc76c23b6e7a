"""Readers that stall, crawl or vanish behind a half-open link, beside healthy readers."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.parsers import (
    ClientType,
    ParsedEvent,
    SansIOClient,
    StreamClient,
    WebsocketsClient,
)
from tests.faults.reconnecting import ReconnectingClient, running
from tests.faults.transport import begin, data, position
from tests.support.clients import request
from tests.support.live_server import serve
from tests.support.proxy import Fault, Link, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.transport import ClientTransport

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

LONG = os.environ.get("HOLDFAST_LONG") == "1"
SECONDS = 60.0 if LONG else 5.0
CRAWL = 1.0 if LONG else 20.0
"""Bytes per second."""
COUNT = 500
PAD = "x" * 12_000  # 6 MB in all: more than the buffers of the connection, less than the history
LANES = ("LOW", "NORMAL", "HIGH", "CRITICAL")


@pytest.fixture
def port() -> Iterator[int]:
    """Start a server for one test, because the test reads its memory."""
    with serve(heartbeat_interval=2.0) as server:
        yield server.port


async def publish(port: int, *messages: dict[str, Any]) -> None:
    """Publish the messages in one request."""
    assert (await request(port, "POST", "/publish", {"messages": messages})).status == 200


async def behind(port: int) -> int:
    """Return the number of connections that lag behind the log."""
    report = (await request(port, "GET", "/connection-stats")).json()["connections"]
    return sum(not each["live"] or each["buffer"]["held"] > 0 for each in report)


def is_whole(client: SansIOClient) -> bool:
    """Return whether the last message is among the last frames; heartbeats may follow it."""
    return any('"the end"' in each.text for each in client.events()[-5:])


class ImpairedClient:
    """A client with an impaired link, and what it received over all its connections."""

    def __init__(self, make: ClientType, at: str) -> None:
        self.last_id = at
        self.seen: list[ParsedEvent] = []
        self._make = make
        self._client: SansIOClient
        self.wire: ClientTransport

    async def connect(self, port: int) -> None:
        """Connect with the last event id."""
        self._client = self._make(port, "t", self.last_id)
        self.wire = await begin(port, self._client)

    def leave(self) -> None:
        """Disconnect, and keep the events."""
        self.wire.transport.abort()
        self.seen += self._client.events()
        self.last_id = self.seen[-1].id if self.seen else self.last_id

    async def read_to_end(self, port: int) -> None:
        """Read to the last message, over at most five connections."""
        for _ in range(5):
            await self.wire.wait_until(is_whole, seconds=60.0)
            self.leave()
            if is_whole(self._client):
                return
            await self.connect(port)
        raise AssertionError("five connections were not enough")


async def test_impaired_readers_lose_nothing_and_delay_no_other_client(port: int) -> None:
    """Readers that stall, crawl or are half-open receive everything once and in order.

    Meanwhile the other clients get each message at once. `HOLDFAST_LONG=1`: the test takes a
    minute, at one byte per second.
    """
    impaired: list[tuple[str, ImpairedClient, Link]] = []
    latencies: list[float] = []

    def record_latency(data: Any) -> None:
        latencies.append(time.monotonic() - data["at"])

    healthy = [ReconnectingClient(port, on_message=record_latency) for _ in range(2)]
    async with Proxy(port) as proxy, running(*healthy):
        for make in (StreamClient, WebsocketsClient):
            for how in ("stalled", "crawling", "half-open"):
                client = ImpairedClient(make, await position(port, "t"))
                fault = Fault(rate=CRAWL if how == "crawling" else None)
                proxy.fault = lambda _, fault=fault: fault  # type: ignore[misc]
                await client.connect(proxy.port)
                if how != "crawling":
                    await client.wire.wait_until(lambda each: bool(each.events()))
                impaired.append((how, client, list(proxy.links)[-1]))
        for other in healthy:
            await other.wait_until(lambda each: each.connected)
        for how, _, link in impaired:
            if how == "stalled":
                link.stall()
            if how == "half-open":
                link.discard()

        for n in range(COUNT):
            message = {"n": n, "at": time.monotonic(), "pad": PAD}
            await publish(port, {"data": message, "priority": LANES[n * 3 // COUNT]})
            await asyncio.sleep(SECONDS / COUNT)
        end = {"n": COUNT, "at": time.monotonic(), "pad": "the end"}
        await publish(port, {"data": end, "priority": "LOW"})
        for other in healthy:
            await other.wait_until(lambda each: len(each.messages) == COUNT + 1)
        # After 40 s, uvicorn ends the WebSockets that answered no ping: only the streams remain.
        assert await behind(port) >= (2 if LONG else 4)

        for how, client, link in impaired:
            if how == "stalled":
                link.resume()
            else:
                client.leave()
                await client.connect(port)
        await asyncio.gather(*(client.read_to_end(port) for _, client, _ in impaired))

    for _, client, _ in impaired:
        frames = [each.frame for each in client.seen]
        kinds = {frame["type"] for frame in frames}
        assert kinds <= {"connection_established", "message", "heartbeat"}
        firsts = [frame["data"] for frame in frames if frame["type"] == "connection_established"]
        assert {first["session"] for first in firsts} == {"resumed"}
        assert sorted(each["n"] for each in data(client.seen)) == list(range(COUNT + 1))
        for lane in range(3):
            in_lane = [
                frame["data"]["n"]
                for frame in frames
                if frame["type"] == "message" and frame["priority"] == LANES[lane].lower()
            ]
            assert in_lane == sorted(in_lane)
    for other in healthy:
        assert [each["n"] for each in other.messages] == list(range(COUNT + 1))
        assert other.sessions == ["fresh"]
    assert statistics.median(latencies) < 0.1
    assert max(latencies) < 1.0


@pytest.mark.parametrize("make", [StreamClient, WebsocketsClient])
async def test_stalled_reader_costs_bounded_memory(port: int, make: ClientType) -> None:
    """The memory of the server stays constant; the reader gets the rest, and a gap for its loss."""
    numbers = iter(range(10_000))

    async def publish_and_measure(count: int) -> float:
        """Publish `count` messages. Returns the server's memory afterwards."""
        for _ in range(count // 100):
            await publish(port, *({"data": [next(numbers), "x" * 10_000]} for _ in range(100)))
        return float((await request(port, "GET", "/internals")).json()["resident_bytes"])

    other = ReconnectingClient(port)
    client = ImpairedClient(make, await position(port, "t"))
    async with Proxy(port) as proxy, running(other):
        await other.wait_until(lambda each: each.connected)
        await client.connect(proxy.port)
        await client.wire.wait_until(lambda each: bool(each.events()))
        next(iter(proxy.links)).stall()
        settled = await publish_and_measure(3000)
        assert await behind(port) == 1
        passed = await publish_and_measure(7000)
        assert passed < settled + 16e6  # 70 MB have passed
        await publish(port, {"data": [10_000, "the end"]})
        await other.wait_until(lambda each: each.messages[-1:] == [[10_000, "the end"]])
        next(iter(proxy.links)).resume()
        await client.read_to_end(port)
    assert other.sessions == ["fresh"]
    assert [n for n, _ in other.messages] == list(range(10_001))
    expected, lost, gaps = 0, 0, 0
    for frame in [each.frame for each in client.seen]:
        if frame["type"] == "gap":
            assert frame["data"]["cause"] == "trimmed"
            # The count is null if the gap exceeds what the log remembers.
            lost, gaps = frame["data"]["count"], gaps + 1
        elif frame["type"] == "message":
            n = frame["data"][0]
            assert n > expected if lost is None else n == expected + lost
            expected, lost = n + 1, 0
    assert expected == 10_001
    assert gaps == 1
