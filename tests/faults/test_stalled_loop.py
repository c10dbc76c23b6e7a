"""An application blocks the event loop for seconds: no client loses anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import ServerProcess
from tests.support.clients import HOST, EventStream, open_socket, open_stream, request
from tests.support.live_server import publish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.support import ServerKind

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

STALL = 5.0
"""Seconds. Each deadline below is shorter."""


ARGS: dict[ServerKind, list[str]] = {
    "uvicorn": ["--log-level", "warning"],
    "hypercorn": ["-w", "0"],
}


def serve(kind: ServerKind, **options: Any) -> ServerProcess:
    """Return a real server with short deadlines."""
    options = {"heartbeat_interval": 1.0, "send_timeout": 2.0, **options}
    env = {"HOLDFAST_OPTIONS": json.dumps(options)}
    return ServerProcess(kind, "tests.apps.live:app", args=ARGS[kind], env=env)


async def stall(port: int) -> None:
    """Block the server's event loop."""
    assert (await request(port, "POST", "/stall", {"seconds": STALL})).status == 200


@contextlib.asynccontextmanager
async def frames_of(port: int, kind: str) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Open a stream of either kind. Yields a function that waits for its next frame."""
    if kind == "sse":
        async with open_stream(port) as stream:

            async def frame() -> Any:
                return (await stream.event()).json()

            yield frame
    else:
        async with open_socket(port) as client:
            pinging = asyncio.ensure_future(ping(client))
            yield client.frame
            pinging.cancel()


async def ping(client: Any) -> None:
    """Send input often enough for each deadline here."""
    while True:
        await client.send({"type": "ping"})
        await asyncio.sleep(0.5)


async def listen_through_stall(port: int, kind: str, ready: asyncio.Barrier) -> list[Any]:
    """Listen to the end on one connection. Returns the data of the messages."""
    got: list[Any] = []
    async with frames_of(port, kind) as next_frame:

        async def until(what: Callable[[Any], bool]) -> None:
            while not what(frame := await next_frame()):
                assert frame["type"] != "closing", f"disconnected: {frame['data']}"
                if frame["type"] == "message":
                    got.append(frame["data"])

        await until(lambda frame: frame["type"] == "connection_established")
        await ready.wait()
        await until(lambda frame: frame.get("data") == "after")
        sign = {"sse": "heartbeat", "websocket": "pong"}[kind]
        await until(lambda frame: frame["type"] == sign)
        await until(lambda frame: frame["type"] == sign)  # the stream continues
        await ready.wait()
        await until(lambda frame: frame.get("data") == "end")
    return got


async def stall_with_clients(port: int, kinds: list[str]) -> None:
    """Open one stream of each named kind; stall the loop between two messages."""
    ready = asyncio.Barrier(len(kinds) + 1)
    async with asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(listen_through_stall(port, kind, ready)) for kind in kinds]
        await ready.wait()
        await publish(port, *range(20))
        stalling = tasks.create_task(stall(port))
        during = tasks.create_task(publish(port, *range(20, 40)))
        await asyncio.wait([stalling, during])
        await publish(port, *range(40, 60))
        await publish(port, "after")
        await ready.wait()
        await publish(port, "end")
    for client in clients:
        assert client.result() == list(range(60))


async def test_no_client_is_disconnected_after_a_stall() -> None:
    """Fifty streams and their heartbeats continue after a stall."""
    with serve("uvicorn") as server:
        await stall_with_clients(server.port, ["sse", "websocket"] * 25)
        assert "Traceback" not in server.output()


async def test_input_received_during_a_stall_prevents_the_idle_close() -> None:
    """A client that sent input during the stall is not idle."""
    with serve("hypercorn", idle_timeout=3.0) as server:
        await stall_with_clients(server.port, ["websocket"] * 50)


async def test_send_in_progress_continues_after_a_stall() -> None:
    """A client that reads is not slow, although the loop sent the rest late."""
    with serve("hypercorn", history_limit=100) as server:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)  # a small buffer on the way
        raw.settimeout(0)
        await asyncio.get_running_loop().sock_connect(raw, (HOST, server.port))
        reader, writer = await asyncio.open_connection(sock=raw)
        writer.write(b"GET /stream?topics=t HTTP/1.1\r\nHost: test\r\n\r\n")
        stream = EventStream(reader, writer)
        await stream.read_head()
        assert (await stream.event()).json()["type"] == "connection_established"
        letters = "abcdefghijkl"
        for letter in letters:
            await publish(server.port, letter * 1_000_000)
        report = (await request(server.port, "GET", "/connection-stats")).json()
        assert report["connections"][0]["frames_sent"] < 1 + len(letters), "the send is not blocked"
        stalling = asyncio.ensure_future(stall(server.port))
        assert [data[0] for data in await stream.messages(len(letters))] == [*letters]
        await stalling
        writer.close()
