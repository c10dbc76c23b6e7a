"""The course of a soak: load and faults for some seconds, then calm, then the final check."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import resource
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from .client import MAX_WAIT, SoakClient
from .environment import Environment
from .results import Report

ERROR_WORDS = ("Traceback", "ERROR", "Exception")
"""A line of a server's output with one of these counts as an error."""


class Publisher(Protocol):
    """The source of all messages."""

    async def run(self) -> None:
        """Publish until the environment is calm."""

    async def publish_end_markers(self) -> None:
        """Publish the last message of each lane."""


class FaultInjector(Protocol):
    """The source of the faults that hit more than one connection."""

    async def run(self) -> None:
        """Inject faults until cancelled."""

    async def settle(self) -> None:
        """Wait until all servers are up again."""

    async def stop(self) -> None:
        """End the clients that the faults created."""


async def run_soak(
    environment: Environment,
    clients: Sequence[SoakClient],
    publisher: Publisher,
    faults: FaultInjector,
    seconds: float,
) -> None:
    """Run clients, load and faults for `seconds`, and check every client at the end."""
    running = {client.name: asyncio.create_task(client.run()) for client in clients}
    load = asyncio.create_task(publisher.run(), name="publisher")
    injecting = asyncio.create_task(faults.run(), name="faults")
    try:
        done, _ = await asyncio.wait(
            [load, injecting, *running.values()],
            timeout=seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in done:
            raise RuntimeError(f"{task.get_name()} ended") from task.exception()
        injecting.cancel()
        await asyncio.wait([injecting])
        await faults.settle()
        environment.calm.set()
        for client in clients:
            if client.proxy is not None:
                client.cut("to leave the proxy")
        await load
        await faults.stop()
        await _check_clients(clients, publisher)
    finally:
        injecting.cancel()
        load.cancel()
        await asyncio.gather(injecting, load, return_exceptions=True)
        await asyncio.gather(*(client.leave(running[client.name]) for client in clients))


async def _check_clients(clients: Sequence[SoakClient], publisher: Publisher) -> None:
    """Let all clients reconnect, publish the end markers, and check each client."""
    # A marker that is published before the last faults are over may reach no session.
    await _wait_until(lambda: all(client.is_healthy for client in clients), 2 * MAX_WAIT)
    await publisher.publish_end_markers()
    await _wait_until(
        lambda: all(client.received.has_all_end_markers() for client in clients), MAX_WAIT
    )
    for client in clients:
        client.check_complete()


async def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until `condition()` holds, at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - hundreds of clients change it step by step
                await asyncio.sleep(0.1)


def make_report(
    environment: Environment,
    *,
    seconds: float,
    started_at: float,
    outputs: Sequence[str],
    **parameters: object,
) -> Report:
    """Return the report. `outputs` are those of the servers, `started_at` is monotonic time."""
    results, took = environment.results, time.monotonic() - started_at
    errors = [
        line for output in outputs for line in output.splitlines()
        if any(word in line for word in ERROR_WORDS)
    ]  # fmt: skip
    results.events["error lines in server output"] = len(errors)
    results.examples.extend(f"server: {line[:300]}" for line in errors[:20])
    fixed = {
        "seed": environment.seed,
        "seconds": f"{seconds:.0f} ({took:.0f} with start and end)",
        "Python": platform.python_version(),
        "processor seconds of the clients": f"{sum(resource.getrusage(0)[:2]):.0f}",
        "processor seconds of the servers": f"{sum(resource.getrusage(-1)[:2]):.0f}",
    }
    named = {name.replace("_", " "): value for name, value in parameters.items()}
    return Report(fixed | named, results)
