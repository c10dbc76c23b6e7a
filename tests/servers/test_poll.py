"""Long polling on real servers: an answer that waits."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio.to_thread
import pytest

from tests.support import SERVERS, ServerKind
from tests.support.clients import open_stream, request
from tests.support.live_server import publish, serve

pytestmark = pytest.mark.real_time


async def poll(port: int, topic: str, at: str | None = None, wait: float = 25.0) -> list[Any]:
    """Return the frames of one poll."""
    headers = {} if at is None else {"Last-Event-ID": at}
    path = f"/poll?topics={topic}&wait={wait}"
    response = await request(port, "GET", path, headers=headers)
    assert response.status == 200
    return list(response.json()["frames"])


async def polling(port: int) -> int:
    """Return the number of polls that wait on the server."""
    report = (await request(port, "GET", "/connection-stats")).json()
    return int(report["statistics"]["transports"].get("poll", 0))


async def until(port: int, count: int) -> None:
    """Wait until `count` polls wait."""
    async with asyncio.timeout(5.0):
        while True:
            if await polling(port) == count:
                return
            await asyncio.sleep(0.02)


async def test_successive_polls_miss_nothing(port: int) -> None:
    """Messages published during a poll, or between two polls, arrive once and in order."""
    (first,) = await poll(port, "row")
    at, got = first["id"], list[int]()

    async def consume() -> None:
        nonlocal at
        while len(got) < 200:
            frames = await poll(port, "row", at)
            got.extend(frame["data"] for frame in frames if frame["type"] == "message")
            at = frames[-1]["id"]

    consuming = asyncio.create_task(consume())
    for n in range(0, 200, 2):
        await publish(port, n, n + 1, topic="row")
    async with asyncio.timeout(20.0):
        await consuming
    assert got == list(range(200))


async def test_waiting_poll_is_answered_promptly(port: int) -> None:
    """A waiting poll is answered by the next message, not at the end of its time."""
    (first,) = await poll(port, "prompt")
    waiting = asyncio.create_task(poll(port, "prompt", first["id"]))
    await until(port, 1)
    await publish(port, 1, topic="prompt")
    async with asyncio.timeout(2.0):
        hello, message = await waiting
    assert (hello["data"]["session"], message["data"]) == ("resumed", 1)
    assert len(await poll(port, "prompt", message["id"], wait=0.2)) == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_disconnected_client_is_released(port: int, how: Any) -> None:
    """A disconnected poll ends within seconds, and its id resumes without loss."""
    (first,) = await poll(port, "leave")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET /poll?topics=leave HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {first['id']}\r\n\r\n"
    writer.write(head.encode())
    await until(port, 1)
    if how == "rst":
        writer.transport.abort()
    else:
        writer.close()
    await until(port, 0)
    await publish(port, 1, topic="leave")
    frames = await poll(port, "leave", first["id"])
    assert [frame["data"] for frame in frames[1:]] == [1]
    assert frames[0]["data"]["session"] == "resumed"
    del reader


async def test_id_of_a_poll_resumes_a_stream(port: int) -> None:
    """One position serves all transports, in both directions."""
    (first,) = await poll(port, "both")
    await publish(port, 1, topic="both")
    async with open_stream(port, "/stream?topics=both", last_event_id=first["id"]) as stream:
        assert (await stream.event()).json()["data"]["session"] == "resumed"
        assert await stream.messages(1) == [1]
        at = stream.decoder.last_event_id
    await publish(port, 2, topic="both")
    frames = await poll(port, "both", at)
    assert [frame["data"] for frame in frames[1:]] == [2]


@pytest.mark.parametrize("kind", SERVERS)
async def test_sigterm_answers_waiting_polls(kind: ServerKind) -> None:
    """While a poll waits, SIGTERM ends the process, and the client is asked to reconnect."""
    with serve(kind) as server:
        (first,) = await poll(server.port, "t")
        waiting = asyncio.create_task(poll(server.port, "t", first["id"]))
        await until(server.port, 1)
        assert await anyio.to_thread.run_sync(server.terminate) < 2.5
        if kind == "daphne":  # daphne drops its connections without an answer
            await asyncio.wait([waiting])
            assert waiting.exception() is not None or waiting.result()
        else:
            assert (await waiting)[-1]["data"] == {"reason": "drain", "reconnect": True}
