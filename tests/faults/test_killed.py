"""Servers are killed, terminated and restarted while clients are connected."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

from tests.faults.reconnecting import ConnectionRecord, ReconnectingClient, running
from tests.support import SERVERS, ServerKind, ServerProcess, free_port
from tests.support.clients import EventStream, open_socket, open_stream, request
from tests.support.live_server import publish
from tests.support.processes import ARGS, HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

APP = "tests.apps.live:app"
HEARTBEATS = {"HOLDFAST_OPTIONS": '{"heartbeat_interval": 2.0}'}


@contextlib.asynccontextmanager
async def serving(kind: ServerKind, port: int) -> AsyncIterator[ServerProcess]:
    """Run a server on this port. Clients in this event loop continue while it starts and ends."""
    server = ServerProcess(kind, APP, args=ARGS[kind], env=HEARTBEATS, port=port)
    await anyio.to_thread.run_sync(server.__enter__)
    try:
        yield server
    finally:
        await anyio.to_thread.run_sync(server.__exit__, None, None, None)


@pytest.mark.parametrize("kind", SERVERS)
async def test_kill_is_reported_once_to_each_client(kind: ServerKind) -> None:
    """After SIGKILL, each client gets `restart` once, and every message from then on.

    The log was in the memory of the process, so it cannot be resumed.
    """
    port = free_port()
    clients = [ReconnectingClient(port, pause=lambda: 0.05) for _ in range(20)]
    async with running(*clients):
        async with serving(kind, port) as server:
            for client in clients:
                await client.wait_until(lambda client: client.connected)
            async with open_socket(port) as websocket:
                await websocket.frame()
                await publish(port, *range(10))
                at = [(await websocket.frame())["id"] for _ in range(10)][-1]
                for client in clients:
                    await client.wait_until(lambda client: len(client.messages) == 10)
                await anyio.to_thread.run_sync(server.kill)
                assert await websocket.wait_closed() == 1006
        async with serving(kind, port):
            for client in clients:
                await client.wait_until(lambda client: len(client.connections) == 2)
            await publish(port, *range(10, 20))
            headers = {"Last-Event-ID": at}
            async with open_socket(port, headers=headers) as websocket:
                first = (await websocket.frame())["data"]
                assert first["gap"] == {"cause": "restart", "count": None}
            for client in clients:
                await client.wait_until(lambda client: len(client.messages) == 20)
    for client in clients:
        assert client.sessions == ["fresh", "restart"]
        assert client.messages == list(range(20))
        assert not any(connection.gaps for connection in client.connections)


async def read_to_end(stream: EventStream) -> tuple[list[Any], str, bool]:
    """Return all frames, the last event id, and whether the stream ended cleanly."""
    frames: list[Any] = []
    clean = False
    with contextlib.suppress(EOFError, OSError, asyncio.IncompleteReadError):
        async with asyncio.timeout(20):
            while chunk := await stream.chunk():
                frames += [event.json() for event in stream.decoder.feed(chunk)]
        clean = True
    return frames, stream.decoder.last_event_id, clean


def slowdown() -> float:
    """Return how many times slower than alone this process runs, because of other load."""
    wall, processor = time.perf_counter(), time.process_time()
    while time.process_time() - processor < 0.1:
        pass
    return (time.perf_counter() - wall) / (time.process_time() - processor)


@contextlib.asynccontextmanager
async def stalled(port: int, count: int) -> AsyncIterator[None]:
    """Open `count` streams that read nothing, until none of them takes any more bytes."""
    sockets = []
    try:
        for _ in range(count):
            one = socket.socket()
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.setblocking(False)
            await asyncio.get_running_loop().sock_connect(one, (HOST, port))
            one.send(b"GET /stream?topics=full HTTP/1.1\r\nHost: x\r\n\r\n")
        before, taken, waiting = -1, 0, 0
        async with asyncio.timeout(30):
            while waiting < count or taken != before:
                await publish(port, *["x" * 30_000] * 30, topic="full")
                report = (await request(port, "GET", "/connection-stats")).json()["connections"]
                before, taken = taken, sum(each["bytes_sent"] for each in report)
                waiting = sum(not each["live"] or each["buffer"]["held"] > 0 for each in report)
        yield
    finally:
        for one in sockets:
            one.close()


@pytest.mark.parametrize(
    ("kind", "within"), [("uvicorn", 2.0), ("granian", 2.0), ("hypercorn", 3.0)]
)
async def test_sigterm_ends_a_thousand_streams_in_time(kind: ServerKind, within: float) -> None:
    """The process ends in time although 50 of a thousand clients read nothing.

    All other clients get the closing frame with an id, and a clean end.
    """
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(kind, free_port()))
        # From Python 3.12 on, hypercorn waits for ever for clients that read nothing,
        # with any application (asyncio.Server.wait_closed).
        if kind != "hypercorn" or sys.version_info < (3, 12):
            await stack.enter_async_context(stalled(server.port, 50))
        readers = []
        for _ in range(19):
            readers += await asyncio.gather(
                *(stack.enter_async_context(open_stream(server.port)) for _ in range(50))
            )
        for reader in readers:
            await reader.event()
        await publish(server.port, "before")
        ending = [asyncio.create_task(read_to_end(reader)) for reader in readers]
        before = slowdown()
        took = await anyio.to_thread.run_sync(server.terminate, 20.0)
        slower = max(before, slowdown())
        for frames, id, clean in await asyncio.gather(*ending):
            kinds = [frame["type"] for frame in frames if frame["type"] != "heartbeat"]
            assert kinds == ["message", "closing"]
            assert frames[-1]["data"] == {"reason": "drain", "reconnect": True}
            assert id
            assert clean
        assert took < within * slower
        # hypercorn logs the tasks that it cancels itself. A traceback never leads through holdfast.
        assert "src/holdfast" not in server.output()


async def test_clients_survive_restarts_during_a_reconnect_storm() -> None:
    """Clients reconnect in a loop while the server is killed and started again three times.

    At the end all clients are connected. Each received, per life of the server, every message after
    the position of its first frame, once and without a hole.
    """
    port = free_port()
    clients = [
        ReconnectingClient(port, pause=lambda: random.uniform(0.01, 0.1)) for _ in range(100)
    ]
    numbers = itertools.count()
    lives: list[dict[float, Any]] = []  # the published data by offset
    outputs: list[str] = []

    enough = asyncio.Event()

    async def keep_publishing() -> None:
        with contextlib.suppress(OSError, EOFError, IndexError, ValueError):  # a cut answer
            while not enough.is_set():
                # The message may be in the log although the answer never arrived.
                lives[-1][math.inf] = next(numbers)
                [offset] = await publish(port, lives[-1][math.inf])
                lives[-1][offset] = lives[-1].pop(math.inf)
                await asyncio.sleep(0.01)

    async with running(*clients):
        for life in range(4):
            lives.append({})
            async with serving("uvicorn", port) as server:
                publishing = asyncio.create_task(keep_publishing())
                await asyncio.sleep(0.3 if life else 0.6)  # some clients are connected by then
                if life == 3:
                    enough.set()
                    await publishing
                    for client in clients:
                        await client.wait_until(lambda client: client.connected)
                    offsets = await publish(port, *range(-20, 0))
                    lives[-1] |= zip(offsets, range(-20, 0), strict=True)
                    for client in clients:
                        await client.wait_until(lambda client: client.messages[-1:] == [-1])
                await anyio.to_thread.run_sync(server.kill)
                await publishing
                outputs.append(server.output())
    for client in clients:
        assert client.sessions[0] == "fresh"
        assert client.sessions.count("restart") <= 3
        epochs: dict[str, list[ConnectionRecord]] = {}
        for connection in client.connections:
            epochs.setdefault(connection.id.split("~")[0], []).append(connection)
        for connections in epochs.values():
            assert connections[0].session == (
                "fresh" if connections[0] is client.connections[0] else "restart"
            )
            assert {connection.session for connection in connections[1:]} <= {"resumed"}
            start = int(connections[0].id.split("~")[1])
            got = [message for connection in connections for message in connection.messages]
            log = [each for each in lives if not got or got[0] in each.values()][-1]
            expected = [log[offset] for offset in sorted(log) if offset > start]
            assert got == expected[: len(got)]
    assert not any("Traceback" in output for output in outputs)
