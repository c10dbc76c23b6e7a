"""The soak of several nodes on one Redis: the nodes are ended one by one, the clients move.

Each topic has one publisher and one lane. The publisher repeats each message, with an idempotency
key and on another node, until a node confirms it. The history is never trimmed. Each client
therefore has to receive every message of its topics once and in order, without a gap or a reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.support.clients import request
from tests.support.processes import ServerProcess
from tests.support.redis_server import RedisServer

from .client import REQUEST_ERRORS, SoakClient
from .environment import HEARTBEAT, Environment, checksum
from .published import LANES, PublishedMessages
from .received import END_TOPIC
from .results import Report, Results
from .runner import make_report, run_soak

TOPICS = {f"counter.{lane}": lane for lane in LANES}
"""Topic → its lane."""

REPEAT_DELAY = 0.05
"""Seconds until an unconfirmed message is published again."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a run."""

    seconds: float
    seed: int
    nodes: int = 3
    clients: int = 60
    rate: float = 25.0
    """Messages per second and topic."""
    life: float = 2.0
    """Mean number of seconds until a client cuts its connection."""
    kill_interval: float = 1.5
    """Seconds between the ends of nodes."""
    redis: str | None = None
    """The URL of a Redis. None: a new Redis is started."""


@dataclass(kw_only=True)
class RepeatingPublisher:
    """Publishes to each topic, one message at a time, and repeats it until it is confirmed."""

    environment: Environment
    rate: float

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.environment.seed} publisher")

    async def run(self) -> None:
        """Publish until the environment is calm. Never ends before a message is confirmed."""
        async with asyncio.TaskGroup() as tasks:
            for topic, lane in TOPICS.items():
                tasks.create_task(self._publish_repeatedly(topic, lane))

    async def _publish_repeatedly(self, topic: str, lane: str) -> None:
        while not self.environment.calm.is_set():
            await self._publish(topic, lane)
            await asyncio.sleep(self.rng.expovariate(self.rate))

    async def publish_end_markers(self) -> None:
        """Publish the last message of each lane, for all clients."""
        for lane in LANES:
            await self._publish(END_TOPIC, lane)

    async def _publish(self, topic: str, lane: str) -> None:
        events, published = self.environment.results.events, self.environment.published
        number = len(published.messages)
        published.add(topic, lane, checksum(number, topic, lane, None, ""))
        message = {
            "topic": topic, "data": [number, ""], "priority": lane.upper(),
            "idempotency_key": f"{self.environment.seed} {number}",
        }  # fmt: skip
        for attempt in itertools.count():
            events["publish requests repeated"] += attempt > 0
            port = await self.environment.pick_port(self.rng)
            with contextlib.suppress(*REQUEST_ERRORS):
                response = await request(port, "POST", "/publish", {"messages": [message]})
                if response.status == 200:
                    break
            await asyncio.sleep(REPEAT_DELAY)
        published.confirm(number)
        events["published"] += 1


@dataclass(kw_only=True)
class NodeFaults:
    """A `FaultInjector` that ends one node after the other and starts each again."""

    environment: Environment
    nodes: list[ServerProcess]
    clients: list[SoakClient]
    interval: float
    outputs: list[str] = field(default_factory=list)
    """The output of each node that was ended."""
    _restarting: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """End nodes until cancelled: two of three by SIGKILL, the third by SIGTERM."""
        for turn in itertools.count():
            await asyncio.sleep(self.interval)
            node, gracefully = self.nodes[turn % len(self.nodes)], turn % 3 == 2
            # A restart in progress continues when the run ends.
            self._restarting = asyncio.create_task(self._restart(node, gracefully))
            await asyncio.shield(self._restarting)

    async def _restart(self, node: ServerProcess, gracefully: bool) -> None:
        method = "SIGTERM" if gracefully else "SIGKILL"
        if not gracefully:  # the clients still pick this node until it is gone
            node.kill()
        self.environment.server_ending(node.port, method)
        self.environment.results.events[f"servers ended by {method}"] += 1
        await asyncio.to_thread(self._end_node, node, gracefully)
        for client in self.clients:
            client.server_ended(node.port)
        await asyncio.to_thread(node.__enter__)
        self.environment.server_started(node.port)

    def _end_node(self, node: ServerProcess, gracefully: bool) -> None:
        if gracefully:
            node.terminate(timeout=10.0)
        self.outputs.append(node.output())
        node.__exit__(None, None, None)

    async def settle(self) -> None:
        """Wait until no restart is in progress."""
        if self._restarting is not None:
            await self._restarting

    async def stop(self) -> None:
        """Do nothing: these faults create no clients."""


def make_clients(environment: Environment, count: int) -> list[SoakClient]:
    """Return clients with two topics each; a third of them use WebSocket."""
    rng = random.Random(f"{environment.seed} clients")
    return [
        SoakClient(
            environment,
            f"client-{number}",
            "sse" if number % 3 else "websocket",
            (*sorted(rng.sample(tuple(TOPICS), 2)), END_TOPIC),
        )
        for number in range(count)
    ]


async def soak(plan: Plan) -> Report:
    """Run the soak."""
    results = Results()
    environment = Environment(
        seed=plan.seed,
        mean_life=plan.life,
        published=PublishedMessages(None, (*TOPICS, END_TOPIC), results),
        results=results,
    )
    clients = make_clients(environment, plan.clients)
    publisher = RepeatingPublisher(environment=environment, rate=plan.rate)
    started_at = time.monotonic()
    async with AsyncExitStack() as stack:
        url = plan.redis or (await _start(stack, RedisServer())).url
        options = {"heartbeat_interval": HEARTBEAT, "max_connections_per_user": 1000}
        env = {
            "HOLDFAST_REDIS": url,
            "HOLDFAST_NAMESPACE": f"soak-{plan.seed}",
            "HOLDFAST_OPTIONS": json.dumps(options),
        }
        arguments = ["--log-level", "warning", "--timeout-graceful-shutdown", "1"]
        nodes = [
            await _start(
                stack, ServerProcess("uvicorn", "tests.apps.live:app", env=env, args=arguments)
            )
            for _ in range(plan.nodes)
        ]
        response = await request(nodes[0].port, "GET", f"/position?topics={END_TOPIC}")
        environment.published.start_epoch(response.json()["id"].partition("~")[0])
        for node in nodes:
            environment.server_started(node.port)
        faults = NodeFaults(
            environment=environment, nodes=nodes, clients=clients, interval=plan.kill_interval
        )
        await run_soak(environment, clients, publisher, faults, plan.seconds)
        outputs = [*faults.outputs, *(node.output() for node in nodes)]
    return make_report(
        environment,
        seconds=plan.seconds,
        started_at=started_at,
        outputs=outputs,
        nodes=plan.nodes,
        clients=plan.clients,
        messages_per_second_and_topic=plan.rate,
    )


async def _start(stack: AsyncExitStack, server: Any) -> Any:
    """Start a server in a worker thread; the stack ends it."""
    await asyncio.to_thread(server.__enter__)
    stack.callback(server.__exit__, None, None, None)
    return server
