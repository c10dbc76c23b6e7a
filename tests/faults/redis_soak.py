"""The soak of several nodes on one Redis: they are killed one after the other, clients hop.

    python -m tests.faults.redis_soak --seconds 300

Every topic has one publisher, which repeats each message, with an idempotency key and on another
node, until it is certain that it was published. The history is never trimmed. So each client must
see each of its topics count up by one, for ever, and never be told of a gap or a reset.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.support.clients import open_socket, open_stream, request
from tests.support.processes import ServerProcess
from tests.support.redis_server import RedisServer

BREACHES = ("lost", "repeated", "false gap", "reset", "stuck", "5xx of a node that was up")
TOPICS = tuple(f"counter.{priority}" for priority in ("LOW", "NORMAL", "HIGH", "CRITICAL"))
AWAY = (OSError, EOFError, TimeoutError, ValueError, IndexError)
PATIENCE = 15.0
"""Seconds in which everybody must have the last messages."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a soak is to do."""

    seconds: float
    seed: int
    nodes: int = 3
    clients: int = 60
    rate: float = 25.0
    """Messages per second and topic."""
    life: float = 2.0
    """Seconds that a connection lives on average."""
    kill_every: float = 1.5
    """Seconds between the ends of nodes."""
    redis: str | None = None
    """The URL of a Redis; without it, one is started."""


@dataclass
class Site:
    """The nodes, and what happened."""

    plan: Plan
    servers: list[ServerProcess]
    up: list[int] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    newest: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOPICS, 0))
    quiet: bool = False

    def __post_init__(self) -> None:
        self.rng = random.Random(self.plan.seed)

    def breach(self, kind: str, what: str) -> None:
        assert kind in BREACHES
        self.happened[kind] += 1
        if len(self.examples) < 30:
            self.examples.append(f"{kind}: {what}")

    def port(self) -> int:
        """Some node that is up."""
        return self.rng.choice(self.up or [server.port for server in self.servers])


class Counting:
    """A client that knows the last number of each topic."""

    def __init__(self, site: Site, name: str, *, websocket: bool) -> None:
        self.site, self.name, self.websocket = site, name, websocket
        self.topics = tuple(site.rng.sample(TOPICS, 2))
        self.last: dict[str, int] = {}
        self.last_id: str | None = None

    async def run(self) -> None:
        """Connect again and again, until cancelled."""
        while True:
            port = self.site.port()
            life = self.site.rng.expovariate(1 / self.site.plan.life)
            with contextlib.suppress(*AWAY, Exception):
                async with asyncio.timeout(None if self.site.quiet else life):
                    await self._visit(port)
            await asyncio.sleep(self.site.rng.uniform(0, 0.2))

    async def _visit(self, port: int) -> None:
        topics = "topics=" + ",".join(self.topics)
        if self.websocket:
            headers = {} if self.last_id is None else {"Last-Event-ID": self.last_id}
            async with open_socket(port, f"/websocket?{topics}", headers=headers) as socket:
                while True:
                    frame = await socket.frame()
                    self._take(frame, frame["id"])
        path = f"/stream?{topics}"
        async with open_stream(port, path, last_event_id=self.last_id) as stream:
            if stream.status >= 500 and port in self.site.up:
                self.site.breach("5xx of a node that was up", f"{stream.status}")
            while True:
                event = await stream.event()
                self._take(event.json(), event.last_event_id)

    def _take(self, frame: dict[str, Any], id: str) -> None:
        site, kind, data = self.site, frame["type"], frame.get("data")
        if kind == "connection_established":
            assert isinstance(data, dict)
            site.happened[f"session: {data['session']}"] += 1
            if (data["session"] == "fresh") is not (self.last_id is None):
                site.breach("reset", f"{self.name} with {self.last_id}: {data}")
                self.last.clear()
        elif kind == "gap":
            site.breach("false gap", f"{self.name}: {data}")
        elif kind == "message":
            site.happened["deliveries"] += 1
            topic, number = frame["topic"], data
            assert isinstance(number, int)
            before = self.last.get(topic)
            if before is not None and number <= before:
                site.breach("repeated", f"{self.name}: {topic} {number} after {before}")
            elif before is not None and number != before + 1:
                site.breach("lost", f"{self.name}: {topic} {number} after {before}")
            self.last[topic] = number
        self.last_id = id or self.last_id

    def has_all(self) -> bool:
        """Whether it has the newest of each of its topics."""
        return all(self.last.get(topic) == self.site.newest[topic] for topic in self.topics)


async def publish(site: Site, topic: str) -> None:
    """Count up, without end; a number is repeated until it is there."""
    for number in itertools.count(1):
        message = {
            "topic": topic, "data": number, "priority": topic.partition(".")[2],
            "idempotency_key": f"{topic} {number}",
        }  # fmt: skip
        for attempt in itertools.count():
            site.happened["publishes that were repeated"] += attempt > 0
            with contextlib.suppress(*AWAY):
                answer = await request(site.port(), "POST", "/publish", {"messages": [message]})
                if answer.status == 200:
                    break
            await asyncio.sleep(0.05)
        site.newest[topic] = number
        site.happened["published"] += 1
        await asyncio.sleep(site.rng.expovariate(site.plan.rate))


async def end_nodes(site: Site) -> None:
    """End one node after the other, by SIGKILL and by SIGTERM, and start each again."""
    for turn in itertools.count():
        await asyncio.sleep(site.plan.kill_every)
        server = site.servers[turn % len(site.servers)]
        gracefully = turn % 3 == 2
        if not gracefully:  # nobody knows of it before
            server.kill()
        site.up.remove(server.port)
        site.happened[f"nodes ended by {'SIGTERM' if gracefully else 'SIGKILL'}"] += 1
        await asyncio.shield(asyncio.create_task(asyncio.to_thread(_again, server, gracefully)))
        site.up.append(server.port)


def _again(server: ServerProcess, gracefully: bool) -> None:
    if gracefully:
        server.terminate(timeout=10.0)
    server.__exit__(None, None, None)
    server.__enter__()


async def soak(plan: Plan) -> Counter[str]:
    """Run it; the counts of all that happened, and of each breach."""
    async with AsyncExitStack() as stack:
        url = plan.redis or (await enter(stack, RedisServer())).url
        options = {"heartbeat_interval": 2.0, "max_connections_per_user": 1000}
        env = {
            "HOLDFAST_REDIS": url,
            "HOLDFAST_HUB": f"soak-{plan.seed}",
            "HOLDFAST_OPTIONS": json.dumps(options),
        }
        servers = [
            ServerProcess(
                "uvicorn", "tests.apps.live:app", env=env,
                args=["--log-level", "warning", "--timeout-graceful-shutdown", "1"],
            )
            for _ in range(plan.nodes)
        ]  # fmt: skip
        for server in servers:
            await enter(stack, server)
        site = Site(plan, servers, [server.port for server in servers])
        await _run(site)
    for example in site.examples:
        sys.stderr.write(example + "\n")
    return site.happened


async def enter(stack: AsyncExitStack, server: Any) -> Any:
    """Start a server meanwhile; it ends with the stack."""
    await asyncio.to_thread(server.__enter__)
    stack.callback(server.__exit__, None, None, None)
    return server


async def _run(site: Site) -> None:
    clients = [
        Counting(site, f"client-{n}", websocket=n % 3 == 0) for n in range(site.plan.clients)
    ]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    faults = asyncio.create_task(end_nodes(site))
    publishers = [asyncio.create_task(publish(site, topic)) for topic in TOPICS]
    await asyncio.sleep(site.plan.seconds)
    await stop([faults])
    site.quiet = True
    await asyncio.sleep(2.0)
    site.up = [server.port for server in site.servers if server.running()]
    for publisher, topic in zip(publishers, TOPICS, strict=True):
        at = site.newest[topic]
        while site.newest[topic] == at:  # noqa: ASYNC110 - it ends between two messages
            await asyncio.sleep(0.01)
        await stop([publisher])
    deadline = time.monotonic() + PATIENCE
    while not all(client.has_all() for client in clients):
        await asyncio.sleep(0.1)
        if time.monotonic() > deadline:
            break
    for client in clients:
        behind = {t: (client.last.get(t), site.newest[t]) for t in client.topics}
        # What was under way when the publisher was stopped may have arrived.
        if any((last or 0) < newest for last, newest in behind.values()):
            site.breach("stuck", f"{client.name}: {behind}")
    await stop(tasks)


async def stop(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel, and wait."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> int:
    """Run a soak from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.redis_soak")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--rate", type=float, default=25.0)
    parser.add_argument("--kill-every", type=float, default=1.5)
    parser.add_argument("--redis", help="the URL of a Redis; without it, one is started")
    plan = Plan(**vars(parser.parse_args()))
    happened = asyncio.run(soak(plan))
    for name, count in sorted(happened.items()):
        sys.stdout.write(f"{name:<40} {count:>10,}\n")
    for name in BREACHES:
        sys.stdout.write(f"{name:<40} {happened[name]:>10,}\n")
    return 1 if any(happened[name] for name in BREACHES) else 0


if __name__ == "__main__":
    sys.exit(main())
