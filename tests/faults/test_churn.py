"""Connections that come and go, half of them reset before the response starts: nothing stays.

``HOLDFAST_CHURN=10000`` is how many come in the first round on uvicorn; half as many follow.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

from holdfast import Broadcaster
from holdfast.runtime.connection import Connection
from tests.support import ServerProcess
from tests.support.clients import HOST, request
from tests.support.virtual import run_virtual

if TYPE_CHECKING:
    from tests.support import ServerKind

FIRST_ROUND = int(os.environ.get("HOLDFAST_CHURN", "10000"))
AT_ONCE = 60
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST

ARGS: dict[ServerKind, list[str]] = {
    # asyncio's own loop: only there the timers can be counted.
    "uvicorn": ["--log-level", "warning", "--loop", "asyncio"],
    "hypercorn": ["-w", "0"],
    "granian": ["--log-level", "warning", "--loop", "asyncio"],
}
OPTIONS = {
    "heartbeat_interval": 1.0,  # what is closed is looked at, and forgotten, within a second
    "max_connections_per_user": 1000,
}
"""Few users: of each, a hundred sessions are kept, and no more."""

COUNTED = ("connections", "tasks", "timers", "descriptors")

STREAM = "GET /stream?topics=t HTTP/1.1\r\nHost: {host}\r\nX-User: u{user}\r\n\r\n"
SOCKET = (
    "GET /websocket?topics=t HTTP/1.1\r\nHost: {host}\r\nX-User: u{user}\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Visit(NamedTuple):
    """What one connection does: how much of its request it sends, and how it leaves."""

    request: str
    sends: float = 1.0
    waits: bool = False
    resets: bool = True


GREETED = [
    Visit(each, waits=True, resets=how) for each in (STREAM, SOCKET) for how in (True, False)
]
UNGREETED = [Visit(each, sends) for each in (STREAM, SOCKET) for sends in (1.0, 0.6)]
VISITS = [*GREETED, *UNGREETED]


async def visit(port: int, visit_: Visit, user: int) -> None:
    """Connect, ask, perhaps wait for the first frame, and leave."""
    reader, writer = await asyncio.open_connection(HOST, port)
    text = visit_.request.format(host=f"{HOST}:{port}", user=user).encode()
    writer.write(text[: int(len(text) * visit_.sends)])
    if visit_.waits:
        await reader.readuntil(b"connection_established")
    else:
        # A reset that comes at once takes the request with it; later, it meets the server anywhere.
        await asyncio.sleep(random.choice([0.0, 0.001, 0.005, 0.02]))
    if visit_.resets:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
    else:
        writer.close()


async def come_and_go(port: int, number: int) -> None:
    """So many visits of all kinds, some dozens at once."""
    numbers = iter(range(number))

    async def one_after_the_other() -> None:
        for n in numbers:
            async with asyncio.timeout(30.0):
                await visit(port, VISITS[n % len(VISITS)], n // len(VISITS) % 4)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(one_after_the_other())


async def internals(port: int) -> dict[str, int]:
    """What must not leak."""
    return (await request(port, "GET", "/internals")).json()


async def opened(port: int) -> int:
    """How many connections were let in so far."""
    return (await request(port, "GET", "/connection-stats")).json()["statistics"]["opened"]


async def calm(port: int, before: dict[str, int]) -> dict[str, int]:
    """The internals, as soon as there is no more of anything than before; within half a minute."""
    now: dict[str, int] = {}
    for _ in range(100):
        now = await internals(port)
        if all(now[name] <= before[name] for name in COUNTED):
            return now
        await asyncio.sleep(0.3)
    raise AssertionError(f"{before} before, {now} long after")


def serve(kind: ServerKind) -> ServerProcess:
    """A real server."""
    env = {"HOLDFAST_OPTIONS": json.dumps(OPTIONS)}
    return ServerProcess(kind, "tests.apps.live:app", args=ARGS[kind], env=env)


async def test_thousands_come_and_go() -> None:
    """Connections, tasks, timers, descriptors are back where they were; memory does not grow."""
    with serve("uvicorn") as server:
        before = await internals(server.port)
        await come_and_go(server.port, FIRST_ROUND)
        assert await opened(server.port) >= FIRST_ROUND // 2
        first = await calm(server.port, before)
        await come_and_go(server.port, FIRST_ROUND // 2)
        second = await calm(server.port, before)
        for name in COUNTED:
            assert before[name] == first[name] == second[name]
        assert second["resident_bytes"] - first["resident_bytes"] < 4 * 1024 * 1024
        assert "Traceback" not in server.output()


@pytest.mark.parametrize("kind", ["hypercorn", "granian"])
async def test_hundreds_come_and_go(kind: ServerKind) -> None:
    """The same on other servers, which have tasks and timers of their own at the start."""
    with serve(kind) as server:
        before = await internals(server.port)
        await come_and_go(server.port, 800)
        assert await opened(server.port) >= 400
        await calm(server.port, before)
        assert "Traceback" not in server.output()


def test_closed_connection_is_forgotten_at_once() -> None:
    """Nothing holds on to those that have gone until their next deadline would have come."""

    async def main() -> int:
        async with Broadcaster() as broadcaster:
            for _ in range(500):
                async with broadcaster.connect(topics=["t"]):
                    pass
            gc.collect()
            return sum(isinstance(each, Connection) for each in gc.get_objects())

    assert run_virtual(main()) < 10
