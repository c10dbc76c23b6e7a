"""Connections open and close, half of them reset before the response: no resource is left.

`HOLDFAST_CHURN=10000` is the number of connections of the first round on uvicorn. The second round
has half as many.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
from typing import TYPE_CHECKING, NamedTuple

import pytest

from holdfast import Broadcaster
from holdfast.runtime.connection import Connection
from tests.support import ServerProcess
from tests.support.clients import HOST, request
from tests.support.sockets import reset_on_close
from tests.support.virtual_loop import run_virtual

if TYPE_CHECKING:
    from tests.support import ServerKind

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

FIRST_ROUND = int(os.environ.get("HOLDFAST_CHURN", "10000"))
AT_ONCE = 60

ARGS: dict[ServerKind, list[str]] = {
    # asyncio's own loop: only there the timers can be counted.
    "uvicorn": ["--log-level", "warning", "--loop", "asyncio"],
    "hypercorn": ["-w", "0"],
    "granian": ["--log-level", "warning", "--loop", "asyncio"],
}
OPTIONS = {
    "heartbeat_interval": 1.0,  # closed connections are checked and released within a second
    "max_connections_per_user": 1000,
}
"""The tests use few users; the server keeps at most a hundred sessions of each."""

COUNTED = ("connections", "tasks", "timers", "descriptors")

STREAM = "GET /stream?topics=t HTTP/1.1\r\nHost: {host}\r\nX-User: u{user}\r\n\r\n"
SOCKET = (
    "GET /websocket?topics=t HTTP/1.1\r\nHost: {host}\r\nX-User: u{user}\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Visit(NamedTuple):
    """One connection: the share of the request that it sends, and how it ends."""

    request: str
    sends: float = 1.0
    waits: bool = False
    resets: bool = True


COMPLETE = [
    Visit(each, waits=True, resets=how) for each in (STREAM, SOCKET) for how in (True, False)
]
INCOMPLETE = [Visit(each, sends) for each in (STREAM, SOCKET) for sends in (1.0, 0.6)]
VISITS = [*COMPLETE, *INCOMPLETE]


async def visit(port: int, visit_: Visit, user: int) -> None:
    """Connect, send the request, sometimes wait for the first frame, and disconnect."""
    reader, writer = await asyncio.open_connection(HOST, port)
    text = visit_.request.format(host=f"{HOST}:{port}", user=user).encode()
    writer.write(text[: int(len(text) * visit_.sends)])
    if visit_.waits:
        await reader.readuntil(b"connection_established")
    else:
        # A reset at once discards the request; a later reset meets the server at any point.
        await asyncio.sleep(random.choice([0.0, 0.001, 0.005, 0.02]))
    if visit_.resets:
        reset_on_close(writer.get_extra_info("socket"))
        writer.transport.abort()
    else:
        writer.close()


async def run_visits(port: int, number: int) -> None:
    """Open `number` connections of all kinds, some dozens at once."""
    numbers = iter(range(number))

    async def worker() -> None:
        for n in numbers:
            async with asyncio.timeout(30.0):
                await visit(port, VISITS[n % len(VISITS)], n // len(VISITS) % 4)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(worker())


async def internals(port: int) -> dict[str, int]:
    """Return the counts of everything that may leak."""
    return (await request(port, "GET", "/internals")).json()


async def opened(port: int) -> int:
    """Return the number of connections opened so far."""
    return (await request(port, "GET", "/connection-stats")).json()["statistics"]["opened"]


async def wait_until_released(port: int, before: dict[str, int]) -> dict[str, int]:
    """Return the counts as soon as none exceeds `before`, within half a minute."""
    now: dict[str, int] = {}
    for _ in range(100):
        now = await internals(port)
        if all(now[name] <= before[name] for name in COUNTED):
            return now
        await asyncio.sleep(0.3)
    raise AssertionError(f"counts before {before}, half a minute later {now}")


def serve(kind: ServerKind) -> ServerProcess:
    """Return a real server."""
    env = {"HOLDFAST_OPTIONS": json.dumps(OPTIONS)}
    return ServerProcess(kind, "tests.apps.live:app", args=ARGS[kind], env=env)


async def test_thousands_of_connections_leave_nothing_behind() -> None:
    """Connections, tasks, timers and descriptors return to the start; memory does not grow."""
    with serve("uvicorn") as server:
        before = await internals(server.port)
        await run_visits(server.port, FIRST_ROUND)
        assert await opened(server.port) >= FIRST_ROUND // 2
        first = await wait_until_released(server.port, before)
        await run_visits(server.port, FIRST_ROUND // 2)
        second = await wait_until_released(server.port, before)
        for name in COUNTED:
            assert before[name] == first[name] == second[name]
        assert second["resident_bytes"] - first["resident_bytes"] < 4 * 1024 * 1024
        assert "Traceback" not in server.output()


@pytest.mark.parametrize("kind", ["hypercorn", "granian"])
async def test_hundreds_of_connections_leave_nothing_behind(kind: ServerKind) -> None:
    """Other servers, which have tasks and timers of their own, release everything too."""
    with serve(kind) as server:
        before = await internals(server.port)
        await run_visits(server.port, 800)
        assert await opened(server.port) >= 400
        await wait_until_released(server.port, before)
        assert "Traceback" not in server.output()


def test_closed_connection_is_released_at_once() -> None:
    """No reference keeps a closed connection until its next deadline."""

    async def main() -> int:
        async with Broadcaster() as broadcaster:
            for _ in range(500):
                async with broadcaster.connect(topics=["t"]):
                    pass
            gc.collect()
            return sum(isinstance(each, Connection) for each in gc.get_objects())

    assert run_virtual(main()) < 10
