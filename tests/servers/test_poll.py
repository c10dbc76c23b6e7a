"""Long polling on real servers: what each does with an answer that waits."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio.to_thread
import pytest

from tests.support import SERVERS, ServerKind
from tests.support.clients import open_stream, request
from tests.support.live import publish, serve


async def poll(port: int, topic: str, at: str | None = None, wait: float = 25.0) -> list[Any]:
    """The frames of one poll."""
    headers = {} if at is None else {"Last-Event-ID": at}
    path = f"/poll?topics={topic}&wait={wait}"
    response = await request(port, "GET", path, headers=headers)
    assert response.status == 200
    return list(response.json()["frames"])


async def polling(port: int) -> int:
    """How many polls wait on the server."""
    report = (await request(port, "GET", "/connection-stats")).json()
    return int(report["statistics"]["transports"].get("poll", 0))


async def until(port: int, count: int) -> None:
    """Wait until so many polls wait."""
    async with asyncio.timeout(5.0):
        while True:
            if await polling(port) == count:
                return
            await asyncio.sleep(0.02)


async def test_polls_in_a_row_miss_nothing(port: int) -> None:
    """What is published while a poll waits, or between two, comes once and in order."""
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


async def test_a_waiting_poll_is_answered_promptly(port: int) -> None:
    """A poll that has waited is answered when something is published, not at its end."""
    (first,) = await poll(port, "prompt")
    waiting = asyncio.create_task(poll(port, "prompt", first["id"]))
    await until(port, 1)
    await publish(port, 1, topic="prompt")
    async with asyncio.timeout(2.0):
        hello, message = await waiting
    assert (hello["data"]["session"], message["data"]) == ("resumed", 1)
    assert len(await poll(port, "prompt", message["id"], wait=0.2)) == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_client_that_leaves_is_let_go(port: int, how: Any) -> None:
    """Its poll ends within seconds, and the id from before resumes without loss."""
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


async def test_the_id_of_a_poll_resumes_a_stream(port: int) -> None:
    """One position for all transports, there and back."""
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
async def test_sigterm_answers_whoever_waits(kind: ServerKind) -> None:
    """With a poll waiting, SIGTERM ends the process, and the client is told to come back."""
    with serve(kind) as server:
        (first,) = await poll(server.port, "t")
        waiting = asyncio.create_task(poll(server.port, "t", first["id"]))
        await until(server.port, 1)
        assert await anyio.to_thread.run_sync(server.terminate) < 2.5
        if kind == "daphne":  # it drops its connections without a word
            await asyncio.wait([waiting])
            assert waiting.exception() is not None or waiting.result()
        else:
            assert (await waiting)[-1]["data"] == {"reason": "drain", "reconnect": True}
