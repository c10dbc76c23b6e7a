"""A client of the soak counts each violation that a frame, an answer or a silence shows."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.soak.client import SoakClient
from tests.soak.environment import Environment, checksum
from tests.soak.published import LANES, PublishedMessages
from tests.soak.received import END_TOPIC
from tests.soak.results import Results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"
ID = "AAAAAAAAAAAA~1~BBBBBBBBBBBBBBBBBBBBBB"
FIRST_FRAME: dict[str, Any] = {
    "type": "connection_established",
    "data": {
        "session": "fresh", "rejected": [], "topics": ["t", END_TOPIC],
        "reconnectToken": "token", "connectionId": "connection",
    },
}  # fmt: skip


def make_client() -> SoakClient:
    """Return a client that may receive messages of the topics `t` and `end`."""
    results = Results()
    published = PublishedMessages(None, ("t", END_TOPIC), results)
    published.start_epoch("A" * 12)
    environment = Environment(seed=1, mean_life=1e9, published=published, results=results)
    environment.calm.set()
    client = SoakClient(environment, "client", "sse", ("t", END_TOPIC))
    client.received.expect_connection(client.oracle.connect(), resume_by_message=False)
    return client


def violations(client: SoakClient) -> dict[str, int]:
    """Return the violations so far."""
    return dict(client.environment.results.violations)


def receive(client: SoakClient, frame: dict[str, Any], id: str = ID) -> None:
    """Pass a frame to the client."""
    client.received.receive(json.dumps(frame), id)


def publish(client: SoakClient, topic: str = "t", lane: str = "normal") -> dict[str, Any]:
    """Publish a message. Returns its frame."""
    number = len(client.environment.published.messages)
    checked = checksum(number, topic, lane, None, "text")
    client.environment.published.add(topic, lane, checked)
    return {"type": "message", "topic": topic, "priority": lane, "data": [number, "text"]}


async def test_intact_frames_are_accepted() -> None:
    """A run without faults counts no violation."""
    client = make_client()
    receive(client, FIRST_FRAME)
    for _ in range(2):
        receive(client, publish(client))
    for lane in LANES:
        receive(client, publish(client, END_TOPIC, lane))
    client.check_complete()
    assert violations(client) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"data": [0, "other text"]},
        {"data": [0]},
        {"data": "text"},
        {"data": [7, "text"]},
        {"priority": "high"},
        {"key": "k"},
    ],
)
async def test_changed_message_is_corrupted(change: dict[str, Any]) -> None:
    """The checksum covers number, topic, lane, key and text."""
    client = make_client()
    receive(client, FIRST_FRAME)
    receive(client, publish(client) | change)
    assert violations(client) == {"corrupted": 1}


async def test_frame_that_is_not_json_is_corrupted() -> None:
    """Each event has the JSON of one frame."""
    client = make_client()
    client.received.receive('{"type":', ID)
    assert violations(client) == {"corrupted": 1}


@pytest.mark.parametrize("id", ["", ID[:-1], "1", ID.replace("1", "01")])
async def test_malformed_event_id_is_corrupted(id: str) -> None:
    """Each frame has an event id of docs/protocol.md, section 5."""
    client = make_client()
    receive(client, FIRST_FRAME, ID)
    receive(client, {"type": "heartbeat"}, id)
    assert violations(client) == {"corrupted": 1}


async def test_unknown_frame_is_spurious() -> None:
    """The protocol lists all types of frames."""
    client = make_client()
    receive(client, FIRST_FRAME)
    receive(client, {"type": "surprise"})
    assert violations(client) == {"spurious": 1}


async def test_frame_of_a_gap_reaches_the_oracle() -> None:
    """A gap frame over a message that is still in the history is a violation."""
    client = make_client()
    receive(client, FIRST_FRAME)
    publish(client)
    receive(client, {"type": "gap", "data": {"priority": "normal", "topics": [], "count": 1}})
    receive(client, publish(client))
    assert violations(client) == {"unjustified": 1}


async def test_client_without_its_end_markers_is_stuck() -> None:
    """Each client has to receive the last message of each lane."""
    client = make_client()
    receive(client, FIRST_FRAME)
    for lane in LANES:
        frame = publish(client, END_TOPIC, lane)
        if lane != "low":
            receive(client, frame)
    client.check_complete()
    assert violations(client) == {"stuck": 1, "lost": 1}


@asynccontextmanager
async def answering(answer: bytes, client: SoakClient) -> AsyncIterator[None]:
    """Run the client against a server that gives each request the same answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        client.stopped = not answer.endswith(b"open\n\n")
        if not client.stopped:
            with contextlib.suppress(ConnectionError):
                await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    client.environment.server_started(server.sockets[0].getsockname()[1])
    async with server, asyncio.timeout(10.0):
        yield


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", "refused"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "refused"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "corrupted"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "corrupted"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "unjustified"),
    ],
)
async def test_answer_that_is_not_a_stream_is_a_violation(answer: bytes, kind: str) -> None:
    """A server that is up answers with a stream, and ends it only for a reason."""
    client = make_client()
    async with answering(answer, client):
        await client.run()
    assert violations(client) == {kind: 1}


async def test_refusal_of_a_server_that_is_ending_is_accepted() -> None:
    """A server that was sent SIGTERM may answer 503."""
    client = make_client()
    async with answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", client):
        client.port = await client.environment.pick_port(client.rng)
        client.environment.server_ending(client.port, "SIGTERM")
        await client._connect()
        await client._monitor(0.0)
    assert violations(client) == {}


async def test_silent_connection_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a byte, heartbeats included, has a stuck server."""
    client = make_client()
    client.environment.heartbeat = 0.05
    monkeypatch.setattr("tests.soak.client.MAX_WAIT", 0.2)
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n: open\n\n", client):
        running = asyncio.create_task(client.run())
        while "stuck" not in violations(client):  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)
        await client.leave(running)
    assert set(violations(client)) == {"stuck"}


async def test_client_shares_its_token_until_the_duplicated_tab_connects() -> None:
    """The first connection of the tab copies the session, whose topics must not change before."""
    client = make_client()
    receive(client, FIRST_FRAME)
    twin = client.duplicate("twin")
    assert client.shares_token
    twin.received.expect_connection(twin.oracle.connect(), resume_by_message=False)
    resumed = {"session": "resumed", "reconnectToken": "token-2"}
    receive(twin, FIRST_FRAME | {"data": FIRST_FRAME["data"] | resumed})
    assert not client.shares_token
    assert violations(client) == {}
