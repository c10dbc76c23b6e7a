"""Readers that stall, crawl or vanish behind a half-open link, beside others that do not."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.parsers import Client, MakeClient, Seen, StreamClient, WebsocketsClient
from tests.faults.returning import Returning, running
from tests.faults.wire import begin, data, position
from tests.support.clients import request
from tests.support.live import serve
from tests.support.proxy import Fault, Link, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.wire import FrameEncoder

LONG = os.environ.get("HOLDFAST_LONG") == "1"
SECONDS = 60.0 if LONG else 5.0
CRAWL = 1.0 if LONG else 20.0
"""Bytes per second."""
COUNT = 500
PAD = "x" * 12_000  # 6 MB in all: more than the buffers on the way, less than the history
LANES = ("LOW", "NORMAL", "HIGH", "CRITICAL")


@pytest.fixture
def port() -> Iterator[int]:
    """A server of its own for each test: its memory is looked at."""
    with serve(heartbeat_interval=2.0) as server:
        yield server.port


async def publish(port: int, *messages: dict[str, Any]) -> None:
    """Publish them in one request."""
    assert (await request(port, "POST", "/publish", {"messages": messages})).status == 200


async def behind(port: int) -> int:
    """How many connections have not been handed everything."""
    report = (await request(port, "GET", "/connection-stats")).json()["connections"]
    return sum(not each["live"] or each["buffer"]["held"] > 0 for each in report)


def is_whole(client: Client) -> bool:
    """Whether the end is among the last frames; heartbeats may follow it."""
    return any('"the end"' in each.text for each in client.seen()[-5:])


class Victim:
    """A client, and what it has seen over all its connections."""

    def __init__(self, make: MakeClient, at: str) -> None:
        self.last_id = at
        self.seen: list[Seen] = []
        self._make = make
        self._client: Client
        self.wire: FrameEncoder

    async def connect(self, port: int) -> None:
        """Go on from the last id."""
        self._client = self._make(port, "t", self.last_id)
        self.wire = await begin(port, self._client)

    def leave(self) -> None:
        """Keep what there is."""
        self.wire.transport.abort()
        self.seen += self._client.seen()
        self.last_id = self.seen[-1].id if self.seen else self.last_id

    async def read_to_end(self, port: int) -> None:
        """On this connection, and where it has ended, on another one."""
        for _ in range(5):
            await self.wire.until(is_whole, patience=60.0)
            self.leave()
            if is_whole(self._client):
                return
            await self.connect(port)
        raise AssertionError("five connections were not enough")


async def test_bad_readers_lose_nothing_and_cost_nobody_anything(port: int) -> None:
    """Stalled, at a few bytes a second, and half-open: each has everything once, in order.

    Meanwhile the others get each message at once. ``HOLDFAST_LONG=1``: a minute, at one byte a
    second.
    """
    victims: list[tuple[str, Victim, Link]] = []
    latencies: list[float] = []

    def note(data: Any) -> None:
        latencies.append(time.monotonic() - data["at"])

    others = [Returning(port, on_message=note) for _ in range(2)]
    async with Proxy(port) as proxy, running(*others):
        for make in (StreamClient, WebsocketsClient):
            for how in ("stalled", "crawling", "half-open"):
                victim = Victim(make, await position(port, "t"))
                fault = Fault(rate=CRAWL if how == "crawling" else None)
                proxy.fault = lambda _, fault=fault: fault  # type: ignore[misc]
                await victim.connect(proxy.port)
                if how != "crawling":
                    await victim.wire.until(lambda client: bool(client.seen()))
                victims.append((how, victim, list(proxy.links)[-1]))
        for other in others:
            await other.until(lambda other: other.connected)
        for how, _, link in victims:
            if how == "stalled":
                link.stall()
            if how == "half-open":
                link.swallow()

        for n in range(COUNT):
            message = {"n": n, "at": time.monotonic(), "pad": PAD}
            await publish(port, {"data": message, "priority": LANES[n * 3 // COUNT]})
            await asyncio.sleep(SECONDS / COUNT)
        end = {"n": COUNT, "at": time.monotonic(), "pad": "the end"}
        await publish(port, {"data": end, "priority": "LOW"})
        for other in others:
            await other.until(lambda other: len(other.messages) == COUNT + 1)
        # After 40 s, uvicorn ends the WebSockets that answered no ping: then it is the streams.
        assert await behind(port) >= (2 if LONG else 4)

        for how, victim, link in victims:
            if how == "stalled":
                link.resume()
            else:
                victim.leave()
                await victim.connect(port)
        await asyncio.gather(*(victim.read_to_end(port) for _, victim, _ in victims))

    for _, victim, _ in victims:
        frames = [each.frame for each in victim.seen]
        kinds = {frame["type"] for frame in frames}
        assert kinds <= {"connection_established", "message", "heartbeat"}
        firsts = [frame["data"] for frame in frames if frame["type"] == "connection_established"]
        assert {first["session"] for first in firsts} == {"resumed"}
        assert sorted(each["n"] for each in data(victim.seen)) == list(range(COUNT + 1))
        for lane in range(3):
            in_lane = [
                frame["data"]["n"]
                for frame in frames
                if frame["type"] == "message" and frame["priority"] == LANES[lane].lower()
            ]
            assert in_lane == sorted(in_lane)
    for other in others:
        assert [each["n"] for each in other.messages] == list(range(COUNT + 1))
        assert other.sessions == ["fresh"]
    assert statistics.median(latencies) < 0.1
    assert max(latencies) < 1.0


@pytest.mark.parametrize("make", [StreamClient, WebsocketsClient])
async def test_memory_while_ten_thousand_messages_pass_a_stalled_reader(
    port: int, make: MakeClient
) -> None:
    """The server's memory stays where it was; the reader has the rest, and is told what it lost."""
    numbers = iter(range(10_000))

    async def pass_by(count: int) -> float:
        """Publish so many; the server's memory then."""
        for _ in range(count // 100):
            await publish(port, *({"data": [next(numbers), "x" * 10_000]} for _ in range(100)))
        return float((await request(port, "GET", "/internals")).json()["resident_bytes"])

    other = Returning(port)
    victim = Victim(make, await position(port, "t"))
    async with Proxy(port) as proxy, running(other):
        await other.until(lambda other: other.connected)
        await victim.connect(proxy.port)
        await victim.wire.until(lambda client: bool(client.seen()))
        next(iter(proxy.links)).stall()
        settled = await pass_by(3000)
        assert await behind(port) == 1
        passed = await pass_by(7000)
        assert passed < settled + 16e6  # of 70 MB that went by
        await publish(port, {"data": [10_000, "the end"]})
        await other.until(lambda other: other.messages[-1:] == [[10_000, "the end"]])
        next(iter(proxy.links)).resume()
        await victim.read_to_end(port)
    assert other.sessions == ["fresh"]
    assert [n for n, _ in other.messages] == list(range(10_001))
    expected, lost, gaps = 0, 0, 0
    for frame in [each.frame for each in victim.seen]:
        if frame["type"] == "gap":
            assert frame["data"]["cause"] == "trimmed"
            # Without a number, the log had forgotten how many those were.
            lost, gaps = frame["data"]["count"], gaps + 1
        elif frame["type"] == "message":
            n = frame["data"][0]
            assert n > expected if lost is None else n == expected + lost
            expected, lost = n + 1, 0
    assert expected == 10_001
    assert gaps == 1
