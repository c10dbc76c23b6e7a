"""Several nodes of one hub in this process, over a real Redis, and clients that hop between them.

The oracle is `Hopper.check`: whatever a client did not get lies in a gap that it was told of, or
before a reset that it was told of; nothing came twice or in another order; and nobody was told of
a gap or a reset that the test does not allow.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from holdfast import Broadcaster, Priority, Refused
from holdfast.brokers.redis import RedisBroker
from holdfast.errors import BrokerUnavailable, OutcomeUnknown
from tests.support.proxy import Link, Proxy

PATIENCE = 20.0
"""Seconds."""

TOPICS = ("t.a", "t.b")


@contextlib.asynccontextmanager
async def nodes(
    url: str, count: int, *, hub: str | None = None, **limits: Any
) -> AsyncIterator[list[Broadcaster]]:
    """So many started Broadcasters, each with a Redis client of its own."""
    hub = hub or secrets.token_hex(8)
    async with contextlib.AsyncExitStack() as stack:
        made: list[Broadcaster] = []
        for _ in range(count):
            client = await stack.enter_async_context(Redis.from_url(url))
            broker = RedisBroker(client, hub=hub, **limits)
            made.append(
                await stack.enter_async_context(
                    Broadcaster(broker=broker, heartbeat_interval=None, cleanup_interval=1.0)
                )
            )
        yield made


async def feed_links(client: Redis, proxy: Proxy) -> list[Link]:
    """The connections through the proxy that wait for the feed."""
    waiting = {
        int(each["addr"].rpartition(":")[2])
        for each in await client.client_list()
        if each["cmd"] == "xread"
    }
    return [link for link in proxy.links if link.server_port in waiting]


@dataclass
class Log:
    """What was published: numbers, in order, and what became of each."""

    published: list[int] = field(default_factory=list)
    """Those whose publishing returned."""
    unknown: list[int] = field(default_factory=list)
    """Those of which nobody knows."""
    at: dict[int, float] = field(default_factory=dict)
    lane: dict[int, str] = field(default_factory=dict)
    refused: int = 0
    seconds: list[float] = field(default_factory=list)
    """How long each that failed took to fail."""
    _number: Any = field(default_factory=itertools.count)
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One after the other, so that the numbers are in the order of the log."""

    async def publish(self, node: Broadcaster) -> bool:
        """Publish the next number; whether it is certain that it was published."""
        async with self._one:
            return await self._publish(node)

    async def _publish(self, node: Broadcaster) -> bool:
        number, began = next(self._number), time.monotonic()
        priority = (Priority.NORMAL, Priority.LOW, Priority.CRITICAL)[number % 3]
        self.lane[number] = priority.label
        try:
            await node.publish(TOPICS[number % 2], number, priority=priority)
        except BrokerUnavailable:
            self.refused += 1
        except OutcomeUnknown:
            self.unknown.append(number)
        except asyncio.CancelledError:
            self.unknown.append(number)
            raise
        else:
            self.published.append(number)
            self.at[number] = time.monotonic()
            return True
        self.seconds.append(time.monotonic() - began)
        return False

    async def publish_many(self, publishers: Sequence[Broadcaster], count: int) -> None:
        """So many in turn by these nodes, all certain; what fails is counted and left behind."""
        async with asyncio.timeout(PATIENCE):
            for node in itertools.islice(itertools.cycle(publishers), count):
                while not await self.publish(node):  # noqa: ASYNC110 - it is a try, not a look
                    await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def busy(
        self, publishers: Sequence[Broadcaster], pause: float = 0.003
    ) -> AsyncIterator[None]:
        """Publish without end, meanwhile."""

        async def go_on() -> None:
            for node in itertools.cycle(publishers):
                await asyncio.sleep(pause if await self.publish(node) else 0.05)

        task = asyncio.create_task(go_on())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


@dataclass
class Hopper:
    """A client that connects to one node after the other, with what it saw last."""

    nodes: Sequence[Broadcaster]
    at: int = 0
    topics: tuple[str, ...] = TOPICS
    got: list[int] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    """`fresh`, `resumed`, or the cause of a gap, of each connection."""
    gaps: list[dict[str, Any]] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)
    resets: list[float] = field(default_factory=list)
    """When it was told that it begins anew."""
    refusals: list[int] = field(default_factory=list)
    since: float | None = None
    """When it was first connected."""
    last_id: str | None = None
    cursors: list[tuple[str, int]] = field(default_factory=list)
    connected: bool = False
    _outbox: Any = None

    async def run(self) -> None:
        """Connect again and again, until cancelled."""
        while True:
            node = self.nodes[self.at % len(self.nodes)]
            try:
                async with node.connect(topics=self.topics, last_event_id=self.last_id) as outbox:
                    self._outbox = outbox
                    while (frames := await outbox.next_frames()) is not None:
                        outbox.mark_sent()
                        for frame in frames:
                            self._take(json.loads(frame.body), frame.id)
            except Refused as error:
                self.refusals.append(error.reason.status or 0)
            finally:
                self._outbox, self.connected = None, False
            self.at += 1
            await asyncio.sleep(0.02)

    def cut(self) -> None:
        """As if the line were cut: nothing more is read, and it comes back on the next node."""
        if self._outbox is not None:
            self._outbox.lost()

    def _take(self, frame: dict[str, Any], id: str) -> None:
        kind, data = frame["type"], frame.get("data")
        if kind == "connection_established":
            assert isinstance(data, dict)
            cause = data["gap"]["cause"] if "gap" in data else data["session"]
            self.sessions.append(cause)
            if cause in ("restart", "unknown"):
                self.resets.append(time.monotonic())
            if self.since is None:
                self.since = time.monotonic()
            self.connected = True
        elif kind == "message":
            assert isinstance(data, int)
            self.got.append(data)
        elif kind == "gap":
            assert isinstance(data, dict)
            self.gaps.append(data)
        else:
            self.controls.append(kind)
        if id:
            self.last_id = id

    async def until(self, condition: Callable[[Hopper], object]) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(PATIENCE):
            while not condition(self):  # noqa: ASYNC110 - many things make it true
                await asyncio.sleep(0.02)

    async def until_it_has(self, numbers: Sequence[int]) -> None:
        """Wait until it got all of these."""
        await self.until(lambda client: set(numbers) <= set(client.got))

    def check(
        self,
        log: Log,
        *,
        sessions: Sequence[str] = ("fresh", "resumed"),
        lost: frozenset[int] = frozenset(),
    ) -> None:
        """Everything that this client was owed came once and in order, or was declared.

        `sessions` are those that may be; `lost` is what the server itself lost.
        """
        assert set(self.sessions) <= set(sessions), self.sessions
        assert len(set(self.got)) == len(self.got), f"twice: {doubles(self.got)}"
        known = set(log.published) | set(log.unknown)
        assert set(self.got) <= known, set(self.got) - known
        for lane in ("critical", "normal", "low"):
            of_lane = [n for n in self.got if log.lane[n] == lane and n not in log.unknown]
            assert of_lane == sorted(of_lane), f"{lane} out of order"
        assert self.since is not None
        owed = {n for n in log.published if log.at[n] > self.since} - lost
        missing = owed - set(self.got)
        excused = {n for n in missing if any(log.at[n] < reset for reset in self.resets)}
        trimmed = sum(gap["count"] or len(owed) for gap in self.gaps)
        missing -= excused
        assert len(missing) <= trimmed, f"silently lost {sorted(missing)[:20]}; {self.sessions}"


def doubles(numbers: Sequence[int]) -> list[int]:
    """Those that occur twice."""
    seen: set[int] = set()
    return [number for number in numbers if number in seen or seen.add(number)]  # type: ignore[func-returns-value]


@contextlib.asynccontextmanager
async def hopping(*clients: Hopper) -> AsyncIterator[None]:
    """All of them run for the length of the block; whoever breaks, fails it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.run()) for client in clients]
        for client in clients:
            await client.until(lambda client: client.connected)
        yield
        for task in tasks:
            task.cancel()


async def settle(log: Log, clients: Sequence[Hopper], publisher: Broadcaster) -> None:
    """Publish until every client has the last; who was reset just then gets the next."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await log.publish_many([publisher], 3)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3.0):
                    for client in clients:
                        await client.until_it_has(log.published[-3:])
                    return
