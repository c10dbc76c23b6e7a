"""A node: a Broadcaster on the Redis broker, and clients in the same process.

The clients go through `Broadcaster.connect` and the real event stream, into a `send` that inspects
its data. The argument is a JSON object. Commands come over an inherited socket.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from holdfast import Broadcaster, TokenLimits
from holdfast.brokers.redis import RedisBroker
from holdfast.core.message import UserId
from holdfast.core.presence import Member, NodeId
from holdfast.core.tokens import ConnectionId, Session
from holdfast.transports import sse
from tests.benchmarks.redis.channel import answer
from tests.benchmarks.redis.worker import percentile
from tests.support.node import node_of

SCOPE = {"type": "http", "http_version": "1.1"}
EVENT_ID = re.compile(rb"\nid: (\S+)\n\n")
STAMP = re.compile(rb'"t":(\d+)')
HELLO = b'"connection_established"'
PATIENCE = 120.0


def topics_of(number: int, kind: str) -> list[str]:
    """Return the subscriptions of a client: one of 1,000 topics or of 100 patterns, and `all`."""
    if kind == "watched":
        return ["watched"]
    if kind == "pattern":
        return [f"area.{number % 100}.*", "all"]
    return [f"area.{number % 100}.{number % 1000}", "all"]


class Guest:
    """A client: its last event id, and the number of its messages."""

    __slots__ = ("_room", "id", "latencies", "received", "session", "task")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.id = ""
        self.received = 0
        self.session = ""
        self.latencies: list[float] = []
        self.task: asyncio.Task[None] | None = None

    async def run(self, broadcaster: Broadcaster, topics: list[str], user: str | None) -> None:
        """Connect, with the last event id if there is one, and stay connected."""
        opening = broadcaster.connect(topics=topics, last_event_id=self.id or None, user=user)
        async with opening as connection:
            await sse.serve(connection, dict(SCOPE), self._room.receive, self._send)

    async def _send(self, event: Any) -> None:
        body = event.get("body", b"")
        if not body:
            return
        self.id = EVENT_ID.findall(body[-200:])[-1].decode()
        if HELLO in body:
            self.session = re.search(rb'"session":"(\w+)"', body)[1].decode()  # type: ignore[index]
        if self._room.watched:
            now = time.monotonic_ns()
            self.latencies += [(now - int(stamp)) / 1e6 for stamp in STAMP.findall(body)]
        self.received += body.count(b"^")
        self._room.look(self)


class Room:
    """Guests that connect together."""

    def __init__(self, broadcaster: Broadcaster, *, watched: bool = False) -> None:
        self.watched = watched
        self.guests: list[Guest] = []
        self._broadcaster = broadcaster
        self._never = asyncio.get_running_loop().create_future()
        self._missing: set[Guest] = set()
        self._wanted = 0
        self._complete = asyncio.Event()

    async def receive(self) -> Any:
        """Read nothing."""
        await asyncio.shield(self._never)

    def look(self, guest: Guest) -> None:
        """Return whether it was the last guest without all messages."""
        if guest.received >= self._wanted:
            self._missing.discard(guest)
            if not self._missing:
                self._complete.set()

    async def come(self, kind: str, wanted: int, *, users: bool) -> None:
        """Connect all at once. Returns when each has its first frame and `wanted` messages."""
        self._wanted, self._missing = wanted, set(self.guests)
        self._complete.clear()
        for number, guest in enumerate(self.guests):
            guest.received, user = 0, f"user{number}" if users else None
            topics = topics_of(number, kind)
            guest.task = asyncio.create_task(guest.run(self._broadcaster, topics, user))
        async with asyncio.timeout(PATIENCE):
            await self._complete.wait()

    async def come_alone(self, kind: str, wanted: int) -> None:
        """Connect one after the other."""
        everybody = self.guests
        for guest in everybody:
            self.guests = [guest]
            await self.come(kind, wanted, users=False)
        self.guests = everybody

    async def go_alone(self) -> None:
        """Disconnect one after the other."""
        everybody = self.guests
        for guest in everybody:
            self.guests = [guest]
            await self.go()
        self.guests = everybody

    async def go(self) -> None:
        """Disconnect all at once, and detach their sessions."""
        gone = [guest.task for guest in self.guests if guest.task is not None]
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)


class Node:
    """The commands."""

    def __init__(self, broadcaster: Broadcaster, broker: RedisBroker) -> None:
        self._broadcaster = broadcaster
        self._broker = broker
        self._room = Room(broadcaster)
        self._watchers = Room(broadcaster, watched=True)

    async def open(self, number: int, kind: str, *, users: bool) -> dict[str, Any]:
        """Connect `number` new clients at once."""
        self._room.guests = [Guest(self._room) for _ in range(number)]
        return await self._timed(self._room.come(kind, 0, users=users), number)

    async def leave(self, ids: str) -> dict[str, Any]:
        """Disconnect them, and write their event ids to a file."""
        result = await self._timed(self._room.go(), len(self._room.guests))
        text = "\n".join(guest.id for guest in self._room.guests)
        Path(ids).write_text(text, encoding="ascii")  # noqa: ASYNC240 - no other task runs
        return result

    async def resume(self, ids: str, kind: str, missed: int, *, users: bool) -> dict[str, Any]:
        """Reconnect them here at once. Returns when each has all missed messages."""
        self._room.guests = []
        for id in Path(ids).read_text(encoding="ascii").split():  # noqa: ASYNC240
            guest = Guest(self._room)
            guest.id = id
            self._room.guests.append(guest)
        work = self._room.come(kind, missed, users=users)
        result = await self._timed(work, len(self._room.guests))
        resumed = sum(guest.session == "resumed" for guest in self._room.guests)
        surplus = sum(guest.received - missed for guest in self._room.guests)
        return {**result, "resumed": resumed, "surplus": surplus}

    async def alone(self, number: int, step: str) -> dict[str, Any]:
        """Let `number` clients open, close or resume, one after the other."""
        if step == "open":
            self._room.guests = [Guest(self._room) for _ in range(number)]
        leaves = step == "leave"
        work = self._room.go_alone() if leaves else self._room.come_alone("topics", 0)
        return await self._timed(work, number)

    async def watch(self, number: int) -> dict[str, Any]:
        """Connect some clients on the topic `watched`, whose latency is measured."""
        self._watchers.guests = [Guest(self._watchers) for _ in range(number)]
        await self._watchers.come("watched", 0, users=False)
        return {}

    async def seen(self) -> dict[str, Any]:
        """Return the latencies of the watchers since the last call, in milliseconds."""
        found = [each for guest in self._watchers.guests for each in guest.latencies]
        for guest in self._watchers.guests:
            guest.latencies = []
        return {
            "count": len(found), "p50": percentile(found, 0.5), "p99": percentile(found, 0.99),
            "max": max(found, default=0.0),
        }  # fmt: skip

    async def reached(self, offset: int) -> dict[str, Any]:
        """Return when this node has read up to `offset`."""
        async with asyncio.timeout(PATIENCE):
            while node_of(self._broadcaster).log.delivered_offset < offset:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        return {}

    async def head(self) -> dict[str, Any]:
        """Return the end of the log."""
        return {"offset": (await self._broker.head()).offset}

    async def issue(self, number: int, *, attached: bool) -> dict[str, Any]:
        """Create `number` sessions, with a connection or without."""
        subscriptions = {"area.1.news": 1, "all": 1}
        tokens = self._broker.tokens

        async def one(place: int) -> None:
            session = Session(UserId(f"user{place}"), subscriptions, frozenset(subscriptions))  # type: ignore[arg-type]
            await tokens.issue(session, ConnectionId(f"c{place:021}") if attached else None)

        return await self._timed(_all(one(place) for place in range(number)), number)

    async def refresh(self) -> dict[str, Any]:
        """Refresh the sessions of its connections, as each node does between two sweeps."""
        return await self._timed(self._broker.tokens.refresh(), max(1, len(self._room.guests)))

    async def presence(self, number: int, *, come: bool) -> dict[str, Any]:
        """Let `number` users join or leave, each on one topic of 1,000 and online, in one step."""
        users = [UserId(f"user{place}") for place in range(number)]
        members: list[Member] = [("$user", user) for user in users]
        members += [(f"room.{place % 1000}", user) for place, user in enumerate(users)]
        came, went = (members, []) if come else ([], members)
        work = self._broker.presence.update(NodeId("n"), came, went, 60.0)
        return await self._timed(work, number)

    async def who(self, number: int) -> dict[str, Any]:
        """Query the presence of a topic `number` times."""
        presence = self._broker.presence
        work = _all(presence.users(f"room.{place % 1000}") for place in range(number))
        return await self._timed(work, number)

    async def _timed(self, work: Any, number: int) -> dict[str, Any]:
        start, used = time.monotonic(), time.process_time()
        await work
        taken, used = time.monotonic() - start, time.process_time() - used
        return {"seconds": taken, "rate": number / taken, "node_us": used / number * 1e6}


async def _all(work: Any) -> None:
    await asyncio.gather(*work)


async def main() -> None:
    """Answer commands until the channel is closed."""
    spec = json.loads(sys.argv[1])
    client = Redis.from_url(spec["url"])
    tokens = TokenLimits(total=200_000)
    broker = RedisBroker(client, namespace=spec["namespace"], tokens=tokens, timeout=30.0)
    started, used = time.monotonic(), time.process_time()
    await broker.start()
    hello = {"seconds": time.monotonic() - started, "cpu": time.process_time() - used}
    options: dict[str, Any] = {"max_connections": 100_000, "heartbeat_interval": None}
    options["presence"] = spec.get("presence", False)
    async with Broadcaster(broker=broker, **options) as broadcaster:
        made = Node(broadcaster, broker)
        names = "open leave resume alone watch seen reached head issue refresh presence who"
        handlers = {name: getattr(made, name) for name in names.split()}
        with suppress(asyncio.CancelledError):
            await answer(spec["channel"], handlers, hello)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
