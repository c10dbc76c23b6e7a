"""The guarantees on real servers: uvicorn, hypercorn, granian and daphne, over real sockets.

uvicorn and granian need no options. hypercorn sends its worker processes no signal that a chained
handler could receive, so it runs as one process (`-w 0`). daphne runs no lifespan, so the
application starts the Broadcaster itself; on SIGTERM it ends streams at once.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import anyio.to_thread
import pytest

from tests.support import SERVERS, ServerKind, ServerProcess
from tests.support.clients import EventStream, open_socket, open_stream, request
from tests.support.live_server import publish

pytestmark = pytest.mark.real_time

ARGS: dict[ServerKind, list[str]] = {
    "uvicorn": ["--log-level", "warning"],
    "hypercorn": ["-w", "0"],
    "granian": ["--log-level", "warning"],
    "daphne": ["-v", "0"],
}

PATIENCE: dict[ServerKind, list[str]] = {
    "uvicorn": ["--timeout-graceful-shutdown", "1"],
    "granian": ["--workers-kill-timeout", "1"],
    "daphne": [],
}
"""The option with which each server does not wait for clients that read nothing.

hypercorn has none: even with `--graceful-timeout` it may wait for ever until its output is sent.
"""


def serve(kind: ServerKind) -> ServerProcess:
    """Start a server of the given kind."""
    return ServerProcess(kind, "tests.apps.live:app", args=ARGS[kind])


async def gone(port: int, connection_id: str) -> bool:
    """Return whether the server releases a connection within two seconds."""
    async with asyncio.timeout(2.0):
        while True:
            report = (await request(port, "GET", "/connection-stats")).json()
            if connection_id not in [each["connection_id"] for each in report["connections"]]:
                return True
            await asyncio.sleep(0.02)


async def hello(stream: EventStream) -> dict[str, Any]:
    """Return the data of the first frame."""
    frame = (await stream.event()).json()
    assert frame["type"] == "connection_established"
    return dict(frame["data"])


async def test_first_frame_arrives_at_once(port: int) -> None:
    """Headers and first frame arrive before anything is published."""
    async with open_stream(port) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-cache, no-transform"
        assert stream.headers["x-accel-buffering"] == "no"
        event = await stream.event()
        data = event.json()["data"]
        assert data["reconnectToken"] == stream.headers["x-reconnect-token"]
        assert data["session"] == "fresh"
        assert event.fields[-1] == "id"
        assert 1000 <= (stream.decoder.retry or 0) <= 3000


async def test_published_message_arrives_promptly_on_both_transports(port: int) -> None:
    """SSE and WebSocket carry the same frames, and the id of either resumes on the other."""
    async with open_stream(port, "/stream?topics=both") as stream:
        await hello(stream)
        async with open_socket(port, "/websocket?topics=both") as socket:
            await socket.frame()
            await publish(port, {"n": 1}, "é\u2028\r\n", topic="both", priority="HIGH")
            events = [await stream.event() for _ in range(2)]
            frames = [await socket.frame() for _ in range(2)]
            ids = [frame.pop("id") for frame in frames]
            assert [event.json() for event in events] == frames
            await publish(port, "later", topic="both")
            await stream.messages(1)
        headers = {"Last-Event-ID": events[-1].last_event_id}
        async with open_socket(port, "/websocket?topics=both", headers=headers) as socket:
            assert (await socket.frame())["data"]["session"] == "resumed"
            assert (await socket.frame())["data"] == "later"
    async with open_stream(port, "/stream?topics=both", last_event_id=ids[-1]) as stream:
        assert (await hello(stream))["session"] == "resumed"
        assert await stream.messages(1) == ["later"]


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_cut_client_resumes_without_loss(port: int, how: Literal["fin", "rst"]) -> None:
    """A client that is cut repeatedly in the middle receives each message once."""
    topic = f"cut-{how}"
    path = f"/stream?topics={topic}"
    at: str | None = None
    got: list[int] = []
    for turn in range(5):
        async with open_stream(port, path, last_event_id=at) as stream:
            assert (await hello(stream))["session"] == ("resumed" if turn else "fresh")
            await publish(port, *range(turn * 10, turn * 10 + 10), topic=topic)
            while len(got) < turn * 10 + 5:
                event = await stream.event()
                got.append(event.json()["data"])
                at = event.last_event_id
            stream.cut(how)
    assert got == list(range(len(got)))


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_disconnected_client_is_released(port: int, how: Literal["fin", "rst"]) -> None:
    """The stream of a closed or crashed client is released within two seconds."""
    async with open_stream(port) as stream:
        id = (await hello(stream))["connectionId"]
        stream.cut(how)
        assert await gone(port, id)


@pytest.mark.parametrize("how", ["close", "rst"])
async def test_disconnected_websocket_is_released(port: int, how: str) -> None:
    """The WebSocket of a closed or crashed client is released within two seconds."""
    async with open_socket(port) as socket:
        id = (await socket.frame())["data"]["connectionId"]
        if how == "rst":
            socket.cut()
            assert await gone(port, id)
    assert await gone(port, id)


async def test_websocket_commands(port: int) -> None:
    """Subscribe, ping, ack, resume as the first message, and an error that does not close."""
    async with open_socket(port, "/websocket") as socket:
        first = await socket.frame()
        await socket.send({"type": "subscribe", "topics": ["ws"]})
        assert (await socket.frame())["data"] == {"topics": ["ws"], "rejected": []}
        await socket.send("[")
        assert (await socket.frame())["data"]["code"] == "not_json"
        await socket.send(b"\0\1")
        assert (await socket.frame())["data"]["code"] == "not_text"
        await publish(port, 1, topic="ws")
        at = (await socket.frame())["id"]
        await socket.send({"type": "ack", "id": at})
        await socket.send({"type": "ping"})
        assert (await socket.frame())["type"] == "pong"
        await publish(port, 2, topic="ws")
        await socket.frame()
    assert first["data"]["session"] == "fresh"
    async with open_socket(port, "/websocket") as socket:
        await socket.send({"type": "resume", "id": at})
        while (frame := await socket.frame())["data"]["session"] != "resumed":
            pass
        assert frame["data"]["topics"] == ["ws"]
        assert (await socket.frame())["data"] == 2


async def test_head_ends_and_uses_up_no_token(port: int) -> None:
    """HEAD returns headers and ends; the presented token still works."""
    async with open_stream(port, "/stream?topics=head") as stream:
        await hello(stream)
        at = stream.decoder.last_event_id
    response = await request(port, "HEAD", "/stream?topics=head", headers={"Last-Event-ID": at})
    assert (response.status, response.body) == (200, b"")
    assert "x-reconnect-token" not in response.headers
    async with open_stream(port, "/stream?topics=head", last_event_id=at) as stream:
        assert (await hello(stream))["session"] == "resumed"


async def test_stalled_client_delays_no_other_client(port: int) -> None:
    """While one client reads nothing, another receives everything; later the first does, too."""
    pad = "x" * 30_000
    async with (
        open_stream(port, "/stream?topics=stall") as stalled,
        open_stream(port, "/stream?topics=stall") as healthy,
    ):
        await hello(stalled)
        await hello(healthy)
        stalled.pause()
        for start in range(0, 200, 2):
            await publish(port, [start, pad], [start + 1, pad], topic="stall")
            assert [n for n, _ in await healthy.messages(2)] == [start, start + 1]
        stalled._writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert [n for n, _ in await stalled.messages(200)] == list(range(200))


@pytest.mark.parametrize("kind", SERVERS)
async def test_sigterm_ends_the_process_and_notifies_clients(kind: ServerKind) -> None:
    """SIGTERM ends the process within 2.5 s, with open streams, one of them stalled.

    A client that reconnects to the next process gets `restart`.
    """
    with serve(kind) as server:
        async with (
            open_stream(server.port) as stream,
            open_stream(server.port) as stalled,
            open_socket(server.port) as socket,
        ):
            await hello(stream)
            await hello(stalled)
            await socket.frame()
            stalled.pause()
            await publish(server.port, *range(10))
            assert await stream.messages(10) == list(range(10))
            for _ in range(10):
                await socket.frame()
            took = asyncio.create_task(anyio.to_thread.run_sync(server.terminate))
            rest = await stream.rest()
            code = await socket.wait_closed()
            assert await took < 2.5
        at = stream.decoder.last_event_id
    if kind != "daphne":  # daphne drops its connections without an answer
        assert rest[-1]["type"] == "closing"
        assert rest[-1]["data"] == {"reason": "drain", "reconnect": True}
        assert code in (1012, 1005, 1006)
    with serve(kind) as server:
        async with open_stream(server.port, last_event_id=at) as stream:
            data = await hello(stream)
            assert (data["session"], data["gap"]["cause"]) == ("gap", "restart")


@pytest.mark.parametrize("kind", ["uvicorn", "granian", "hypercorn"])
async def test_own_endpoint_ends_at_the_signal(kind: ServerKind) -> None:
    """A stream of an application's own endpoint gets its closing frame at SIGTERM, too."""
    with ServerProcess(kind, "tests.apps.own_endpoint:app", args=ARGS[kind]) as server:
        async with open_stream(server.port) as stream:
            await hello(stream)
            took = asyncio.create_task(anyio.to_thread.run_sync(server.terminate))
            rest = await stream.rest()
            assert await took < 2.5
    assert rest[-1]["data"] == {"reason": "drain", "reconnect": True}


@pytest.mark.parametrize("kind", SERVERS)
async def test_worker_thread_of_a_source_does_not_keep_the_process(kind: ServerKind) -> None:
    """SIGTERM ends a process whose periodic source has run in a worker thread."""
    with ServerProcess(kind, "tests.apps.plain_source:app", args=ARGS[kind]) as server:
        async with open_stream(server.port, "/stream?topics=clock") as stream:
            await stream.event()
            await stream.event()
            assert await anyio.to_thread.run_sync(server.terminate) < 2.5


@pytest.mark.parametrize("kind", PATIENCE)
async def test_blocked_client_does_not_delay_the_end(kind: ServerKind) -> None:
    """A client that stopped reading megabytes ago does not delay SIGTERM.

    Each server waits until its output is sent, and needs its flag to end earlier.
    """
    with ServerProcess(kind, "tests.apps.live:app", args=ARGS[kind] + PATIENCE[kind]) as server:
        async with open_stream(server.port) as stalled:
            await hello(stalled)
            stalled.pause()
            pad = "x" * 30_000
            for _ in range(150):
                await publish(server.port, pad, pad)
            assert await anyio.to_thread.run_sync(server.terminate) < 2.5
