"""The soak of one server with the memory broker: every fault at once."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.support.processes import ServerKind, ServerProcess
from tests.support.proxy import Proxy

from .client import SoakClient
from .environment import HEARTBEAT, Environment
from .published import PublishedMessages
from .results import Report, Results
from .runner import make_report, run_soak
from .server_faults import ServerFaults
from .workload import TOPICS, RandomPublisher, make_clients

ARGUMENTS: dict[ServerKind, list[str]] = {
    "uvicorn": ["--no-access-log", "--log-level", "warning"],
    "hypercorn": ["--log-level", "warning"],
    "granian": ["--no-access-log", "--log-level", "warning", "--backlog", "2048"],
    "daphne": ["--verbosity", "0"],
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a run: at least `cuts`, and about `deliveries`."""

    seconds: float
    seed: int
    cuts: int
    deliveries: int
    clients: int = 240
    server: ServerKind = "uvicorn"
    restarts: int = 2
    history: int = 100
    """Messages per log."""
    buffer: int = 50
    """Messages per connection."""


async def soak(plan: Plan) -> Report:
    """Run the soak."""
    options = {
        "history_limit": plan.history,
        "buffer_capacity": plan.buffer,
        "heartbeat_interval": HEARTBEAT,
        "max_connections_per_user": 1000,
    }
    server = ServerProcess(
        plan.server,
        "tests.apps.live:app",
        args=ARGUMENTS[plan.server],
        env={"HOLDFAST_OPTIONS": json.dumps(options)},
    )
    results = Results()
    environment = Environment(
        seed=plan.seed,
        # Every third cut belongs to a storm; a connection's mean life allows for the other two.
        mean_life=plan.seconds * plan.clients / max(1, plan.cuts) * 1.1,
        published=PublishedMessages(plan.history, TOPICS, results),
        results=results,
    )
    storms = max(1, round(plan.cuts / 3 / plan.clients))
    clients = make_clients(environment, plan.clients)
    publisher = RandomPublisher(
        environment=environment,
        rate=plan.deliveries * 1.08 / plan.seconds,
        users=tuple(sorted({client.user for client in clients if client.user is not None})),
        min_flood=plan.history * 5 // 3,
        clients=len(clients),
    )
    started_at = time.monotonic()
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, server)
        await _add_proxies(stack, environment, server.port, clients)
        faults = ServerFaults(
            environment=environment,
            server=server,
            clients=clients,
            seconds=plan.seconds,
            restarts=plan.restarts,
            storm_interval=plan.seconds / (storms + 1),
        )
        await faults.start_log()
        await run_soak(environment, clients, publisher, faults, plan.seconds)
        outputs = [*faults.outputs, server.output()]
    return make_report(
        environment,
        seconds=plan.seconds,
        started_at=started_at,
        outputs=outputs,
        server=plan.server,
        clients=plan.clients,
        history_per_log=plan.history,
        buffer_per_connection=plan.buffer,
    )


async def _add_proxies(
    stack: AsyncExitStack, environment: Environment, port: int, clients: list[SoakClient]
) -> None:
    rng = random.Random(f"{environment.seed} proxies")
    for client in clients:
        if client.kind in ("sse", "websocket") and rng.random() < 0.08:
            client.proxy = await stack.enter_async_context(Proxy(port))
