"""Several nodes of one log in this process, on a real Redis, and clients that move between them.

`RoamingClient.check` is the oracle. A message that a client did not receive lies in a gap or before
a reset that was reported to it. No message arrives twice or out of order. No client gets a gap or a
reset that the test does not allow.
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
from holdfast.runtime.connection import Connection
from tests.support.proxy import Link, Proxy

PATIENCE = 20.0
"""Seconds."""

TOPICS = ("t.a", "t.b")


@contextlib.asynccontextmanager
async def nodes(
    url: str, count: int, *, namespace: str | None = None, **limits: Any
) -> AsyncIterator[list[Broadcaster]]:
    """Start `count` Broadcasters, each with its own Redis client."""
    namespace = namespace or secrets.token_hex(8)
    async with contextlib.AsyncExitStack() as stack:
        made: list[Broadcaster] = []
        for _ in range(count):
            client = await stack.enter_async_context(Redis.from_url(url))
            broker = RedisBroker(client, namespace=namespace, **limits)
            made.append(
                await stack.enter_async_context(
                    Broadcaster(broker=broker, heartbeat_interval=None, cleanup_interval=1.0)
                )
            )
        yield made


async def feed_links(client: Redis, proxy: Proxy) -> list[Link]:
    """Return the connections through the proxy that wait for the feed."""
    waiting = {
        int(each["addr"].rpartition(":")[2])
        for each in await client.client_list()
        if each["cmd"] == "xread"
    }
    return [link for link in proxy.links if link.server_port in waiting]


@dataclass
class NumberedMessages:
    """The published messages: numbers in order, and the outcome of each."""

    published: list[int] = field(default_factory=list)
    """The numbers whose publishing returned."""
    unknown: list[int] = field(default_factory=list)
    """The numbers whose outcome is unknown."""
    published_at: dict[int, float] = field(default_factory=dict)
    """When each call began. A message may stand in the log long before its call returns, so a
    reset that came between the two lies behind the message."""
    lane: dict[int, str] = field(default_factory=dict)
    refused: int = 0
    failure_times: list[float] = field(default_factory=list)
    """The seconds that each failed call took."""
    _number: Any = field(default_factory=itertools.count)
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Publishers take turns, so that the numbers have the order of the log."""

    async def publish(self, node: Broadcaster) -> bool:
        """Publish the next number. Returns True if it was certainly published."""
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
            self.published_at[number] = began
            return True
        self.failure_times.append(time.monotonic() - began)
        return False

    async def publish_many(self, publishers: Sequence[Broadcaster], count: int) -> None:
        """Publish `count` numbers through the nodes in turn. A number that fails is left out."""
        async with asyncio.timeout(PATIENCE):
            for node in itertools.islice(itertools.cycle(publishers), count):
                while not await self.publish(node):  # noqa: ASYNC110 - each turn is an attempt
                    await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def busy(
        self, publishers: Sequence[Broadcaster], pause: float = 0.003
    ) -> AsyncIterator[None]:
        """Publish without pause during the block."""

        async def publish_repeatedly() -> None:
            for node in itertools.cycle(publishers):
                await asyncio.sleep(pause if await self.publish(node) else 0.05)

        task = asyncio.create_task(publish_repeatedly())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


@dataclass
class RoamingClient:
    """A client that connects to one node after the other with its last event id."""

    nodes: Sequence[Broadcaster]
    node_index: int = 0
    topics: tuple[str, ...] = TOPICS
    received: list[int] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    """`fresh`, `resumed`, or the cause of a gap, of each connection."""
    gaps: list[dict[str, Any]] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)
    reset_times: list[float] = field(default_factory=list)
    """The times at which a reset was reported."""
    refusals: list[int] = field(default_factory=list)
    connected_at: float | None = None
    """The time of the first connection."""
    last_id: str | None = None
    cursors: list[tuple[str, int]] = field(default_factory=list)
    connected: bool = False
    _connection: Connection | None = None

    async def run(self) -> None:
        """Connect again and again, until cancelled."""
        while True:
            node = self.nodes[self.node_index % len(self.nodes)]
            try:
                async with node.connect(
                    topics=self.topics, last_event_id=self.last_id
                ) as connection:
                    self._connection = connection
                    while (frames := await connection.next_frames()) is not None:
                        connection.mark_sent()
                        for frame in frames:
                            self._take(json.loads(frame.body), frame.id)
            except Refused as error:
                self.refusals.append(error.reason.status or 0)
            finally:
                self._connection, self.connected = None, False
            self.node_index += 1
            await asyncio.sleep(0.02)

    def cut(self) -> None:
        """Lose the connection: read nothing more, and reconnect to the next node."""
        if self._connection is not None:
            self._connection.mark_lost()

    def _take(self, frame: dict[str, Any], id: str) -> None:
        kind, data = frame["type"], frame.get("data")
        if kind == "connection_established":
            assert isinstance(data, dict)
            cause = data["gap"]["cause"] if "gap" in data else data["session"]
            self.sessions.append(cause)
            if cause in ("restart", "unknown"):
                self.reset_times.append(time.monotonic())
            if self.connected_at is None:
                self.connected_at = time.monotonic()
            self.connected = True
        elif kind == "message":
            assert isinstance(data, int)
            self.received.append(data)
        elif kind == "gap":
            assert isinstance(data, dict)
            self.gaps.append(data)
        else:
            self.controls.append(kind)
        if id:
            self.last_id = id

    async def wait_until(self, condition: Callable[[RoamingClient], object]) -> None:
        """Wait until the condition holds."""
        async with asyncio.timeout(PATIENCE):
            while not condition(self):  # noqa: ASYNC110 - many events change the condition
                await asyncio.sleep(0.02)

    async def wait_for(self, numbers: Sequence[int]) -> None:
        """Wait until the client has received all these numbers."""
        await self.wait_until(lambda client: set(numbers) <= set(client.received))

    def check(
        self,
        log: NumberedMessages,
        *,
        sessions: Sequence[str] = ("fresh", "resumed"),
        lost: frozenset[int] = frozenset(),
    ) -> None:
        """Check that every expected message came once and in order, or was reported lost.

        Args:
            log: the published messages.
            sessions: the sessions and causes that may occur.
            lost: the numbers that the server itself lost.
        """
        assert set(self.sessions) <= set(sessions), self.sessions
        assert len(set(self.received)) == len(self.received), (
            f"received twice: {repeated(self.received)}"
        )
        known = set(log.published) | set(log.unknown)
        assert set(self.received) <= known, set(self.received) - known
        for lane in ("critical", "normal", "low"):
            of_lane = [n for n in self.received if log.lane[n] == lane and n not in log.unknown]
            assert of_lane == sorted(of_lane), f"{lane} out of order"
        assert self.connected_at is not None
        owed = {n for n in log.published if log.published_at[n] > self.connected_at} - lost
        missing = owed - set(self.received)
        excused = {
            n for n in missing if any(log.published_at[n] < reset for reset in self.reset_times)
        }
        trimmed = sum(gap["count"] or len(owed) for gap in self.gaps)
        missing -= excused
        assert len(missing) <= trimmed, (
            f"lost without a report: {sorted(missing)[:20]}; {self.sessions}"
        )


def repeated(numbers: Sequence[int]) -> list[int]:
    """Return the numbers that occur more than once."""
    seen: set[int] = set()
    return [number for number in numbers if number in seen or seen.add(number)]  # type: ignore[func-returns-value]


@contextlib.asynccontextmanager
async def running(*clients: RoamingClient) -> AsyncIterator[None]:
    """Run the clients during the block. An exception of a client fails the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.run()) for client in clients]
        for client in clients:
            await client.wait_until(lambda client: client.connected)
        yield
        for task in tasks:
            task.cancel()


async def deliver_last(
    log: NumberedMessages, clients: Sequence[RoamingClient], publisher: Broadcaster
) -> None:
    """Publish until every client has the last messages. A reset may need a second round."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await log.publish_many([publisher], 3)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3.0):
                    for client in clients:
                        await client.wait_for(log.published[-3:])
                    return
