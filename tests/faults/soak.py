"""The soak: random faults under load, and an oracle that counts every broken promise.

    python -m tests.faults.soak --seconds 60
    python -m tests.faults.soak --seconds 480 --deliveries 1000000 --cuts 10000   the large one

What is done is decided by the seed; when it happens, by the machine. The exit status is 1 if
anything was counted that must not happen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import random
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import get_args

from tests.support.processes import ServerKind, ServerProcess
from tests.support.proxy import Proxy

from .chaos import Chaos
from .clients import PATIENCE, Client
from .ledger import Ledger
from .load import TOPICS, Publisher, make_clients
from .report import Report
from .site import Site

HEARTBEAT = 2.0
ARGUMENTS: dict[ServerKind, list[str]] = {
    "uvicorn": ["--no-access-log", "--log-level", "warning"],
    "hypercorn": ["--log-level", "warning"],
    "granian": ["--no-access-log", "--log-level", "warning", "--backlog", "2048"],
    "daphne": ["--verbosity", "0"],
}
TROUBLE = ("Traceback", "ERROR", "Exception")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a soak is to do."""

    seconds: float
    seed: int
    cuts: int
    deliveries: int
    clients: int = 240
    server: ServerKind = "uvicorn"
    restarts: int = 2
    history: int = 100
    buffer: int = 50


async def soak(plan: Plan) -> Report:
    """Run it, and report."""
    ledger = Ledger(plan.history, TOPICS)
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
    # Every third cut is one of a storm; a connection lives as long as the other two allow.
    storms = max(1, round(plan.cuts / 3 / plan.clients))
    mean_life = plan.seconds * plan.clients / max(1, plan.cuts) * 1.1
    site = Site(server.port, ledger, plan.seed, HEARTBEAT, mean_life)
    clients = make_clients(site, plan.clients)
    users = tuple(sorted({client.user for client in clients if client.user is not None}))
    rate, burst = plan.deliveries * 1.08 / plan.seconds, plan.history * 5 // 3
    publisher = Publisher(site, rate, users, burst, len(clients))
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, server)
        await _give_proxies(stack, site, clients)
        chaos = Chaos(
            *(site, server, clients, plan.seconds, plan.restarts),
            storm_every=plan.seconds / (storms + 1),
        )
        await chaos.begin()
        await _run(plan, site, clients, publisher, chaos)
        chaos.output.append(server.output())
    return _report(plan, site, publisher, chaos, time.monotonic() - started)


async def _give_proxies(stack: AsyncExitStack, site: Site, clients: list[Client]) -> None:
    rng = random.Random(f"{site.seed} proxies")
    for client in clients:
        if client.kind in ("sse", "websocket") and rng.random() < 0.08:
            client.proxy = await stack.enter_async_context(Proxy(site.port))


async def _run(
    plan: Plan, site: Site, clients: list[Client], publisher: Publisher, chaos: Chaos
) -> None:
    lives = [asyncio.create_task(client.run(), name=client.name) for client in clients]
    load = asyncio.create_task(publisher.run(), name="publisher")
    faults = asyncio.create_task(chaos.run(), name="chaos")
    running = [load, faults, *lives]
    try:
        done, _ = await asyncio.wait(
            running, timeout=plan.seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            raise RuntimeError(f"{task.get_name()} ended") from task.exception()
        faults.cancel()
        await asyncio.wait([faults])
        await chaos.settled()
        site.calm.set()
        for client in clients:
            if client.proxy is not None:
                client.cut("to leave the proxy")
        await load
        await chaos.stop()
        await _settle(site, clients, publisher)
    finally:
        faults.cancel()
        load.cancel()
        await asyncio.gather(faults, load, return_exceptions=True)
        await asyncio.gather(
            *(client.leave(life) for client, life in zip(clients, lives, strict=True))
        )


async def _settle(site: Site, clients: list[Client], publisher: Publisher) -> None:
    """Everybody comes back, everything arrives, and the accounts must balance."""
    # What the last faults left behind ends first, or the markers might go to no session at all.
    await _until(lambda: all(client.is_well for client in clients), 2 * PATIENCE)
    await publisher.end()
    await _until(lambda: all(client.inbox.has_all_markers() for client in clients), PATIENCE)
    for client in clients:
        if not client.inbox.has_all_markers():
            what = f"{client.situation()} has but {sorted(client.inbox.markers)} of the last"
            site.ledger.breach("stuck", what)
        client.account.debts.finish()


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for it, but not longer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - hundreds of clients make it true, bit by bit
                await asyncio.sleep(0.1)


def _report(plan: Plan, site: Site, publisher: Publisher, chaos: Chaos, seconds: float) -> Report:
    ledger = site.ledger
    troubles = [
        line for output in chaos.output for line in output.splitlines()
        if any(word in line for word in TROUBLE)
    ]  # fmt: skip
    examples = [*ledger.examples, *(f"server: {line[:300]}" for line in troubles[:20])]
    happened = dict(ledger.happened)
    happened["published"] = publisher.published
    happened["lines of trouble in the server's log"] = len(troubles)
    parameters: dict[str, object] = {
        "seed": plan.seed,
        "seconds": f"{plan.seconds:.0f} ({seconds:.0f} with beginning and end)",
        "server": plan.server,
        "clients": plan.clients,
        "history, messages per log": plan.history,
        "buffer, messages per connection": plan.buffer,
        "Python": platform.python_version(),
        "processor seconds of the clients": f"{sum(resource.getrusage(0)[:2]):.0f}",
        "processor seconds of the servers": f"{sum(resource.getrusage(-1)[:2]):.0f}",
    }
    return Report(parameters, happened, site.cuts, dict(ledger.counts), examples)


def main() -> int:
    """Run a soak from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--cuts", type=int, help="how many at least; 20 a second")
    parser.add_argument("--deliveries", type=int, help="how many about; 2,000 a second")
    parser.add_argument("--clients", type=int, default=240)
    parser.add_argument("--server", choices=get_args(ServerKind), default="uvicorn")
    parser.add_argument("--restarts", type=int, default=2)
    given = parser.parse_args()
    plan = Plan(
        seconds=given.seconds,
        seed=given.seed,
        cuts=given.cuts or int(given.seconds * 20),
        deliveries=given.deliveries or int(given.seconds * 2000),
        clients=given.clients,
        server=given.server,
        restarts=given.restarts,
    )
    report = asyncio.run(soak(plan))
    sys.stdout.write(report.table() + "\n")
    return 1 if report.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
