"""The client against real servers, over links that are cut and stalled."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from typing import Any

import anyio
import anyio.to_thread
import pytest

from holdfast.client import Gap, Message, Priority, Status, StreamState, Subscribed
from tests.client.real_server import live, publish, reported, serve
from tests.client.streams import PATIENCE, take, until
from tests.support import SERVERS, ServerKind, ServerProcess
from tests.support.clients import request
from tests.support.proxy import CutKind, Fault, Proxy

LANES = ("CRITICAL", "HIGH", "NORMAL", "LOW")


@pytest.mark.parametrize("kind", SERVERS)
async def test_every_server(kind: ServerKind) -> None:
    """Each server delivers, gets acknowledgements, changes topics, and resumes after a cut."""
    with serve(kind) as server:
        async with Proxy(server.port) as proxy, live(proxy.port, "a") as stream:
            await publish(server.port, "a", 1, 2)
            assert await take(stream, 2) == [1, 2]
            assert await stream.subscribe("b") == Subscribed(("b",), ())
            proxy.cut()
            await publish(server.port, "b", *range(500))
            assert await take(stream, 500) == list(range(500))
            await reported(server.port, stream, lambda seen: seen["unacknowledged"] <= 1024)


@pytest.mark.real_time
async def test_message_has_all_published_members(port: int) -> None:
    """A message arrives with the members that it was published with."""
    data = {"n": [1, 2.5, None, True, "é\u2028\r\n"]}
    async with live(port, "all.*") as stream:
        began = time.time()
        await publish(port, "all.members", data, priority="HIGH", key="k")
        async with asyncio.timeout(PATIENCE):
            message = await anext(stream)
        assert isinstance(message, Message)
        seen = (message.topic, message.data, message.priority.label, message.key)
        assert seen == ("all.members", data, "high", "k")
        assert abs(message.timestamp - began) < 5.0
        assert (stream.topics, stream.rejected) == (("all.*",), ())


# -- cuts -------------------------------------------------------------------------------------


async def load(port: int, topic: str, count: int) -> None:
    """Publish in bursts, in all lanes, data of different lengths."""
    for first in range(0, count, 25):
        messages = [
            {"topic": topic, "data": [n, "x" * (n * 7 % 90)], "priority": LANES[n % 4]}
            for n in range(first, min(count, first + 25))
        ]
        assert (await request(port, "POST", "/publish", {"messages": messages})).status == 200
        await asyncio.sleep(0.005)


def check(got: list[list[Any]], count: int) -> None:
    """Assert that each message arrived once, and in the order of its lane."""
    lanes: defaultdict[int, list[int]] = defaultdict(list)
    for number, text in got:
        assert text == "x" * (number * 7 % 90)
        lanes[number % 4].append(number)
    for lane in range(4):
        assert lanes[lane] == list(range(lane, count, 4))


def cutting(seed: int) -> Proxy:
    """Return a proxy that cuts each connection after a random number of bytes, in either way."""
    drawn = random.Random(seed)
    hows: tuple[CutKind, ...] = ("fin", "rst")

    def fault(number: int) -> Fault:
        return Fault(cut_after=drawn.randrange(5000), how=drawn.choice(hows))

    return Proxy(0, fault)


@pytest.mark.real_time
@pytest.mark.slow
async def test_each_message_once_and_in_order_over_hundreds_of_cuts(port: int) -> None:
    """No cut, at any byte, loses, repeats or reorders a message."""
    count, gaps = 2500, list[Gap]()
    seed = random.randrange(2**32)
    proxy = cutting(seed)
    proxy.target = port
    async with proxy, asyncio.TaskGroup() as tasks:
        proxy.fault, cut = lambda _: Fault(), proxy.fault
        async with live(proxy.port, "cuts", on_gap=gaps.append) as stream:
            proxy.fault = cut
            proxy.cut()
            tasks.create_task(load(port, "cuts", count))
            got: list[Any] = []
            async with asyncio.timeout(60.0):
                while len(got) < count:
                    got += await take(stream, 10)
                    if len(got) % 200 == 0:  # fall behind, so that there is something read ahead
                        await asyncio.sleep(0.2)
            check(got, count)
    assert gaps == [], f"seed {seed}"
    assert proxy.opened > 200, f"seed {seed}"


@pytest.mark.slow
async def test_each_message_once_over_interrupted_consumers(port: int) -> None:
    """An application that dies while it handles a message resumes with that message."""
    count, gaps, lives = 1000, list[Gap](), 0
    seed = random.randrange(2**32)
    drawn, got = random.Random(seed), list[list[Any]]()
    position = (await request(port, "GET", "/position?topics=lives")).json()["id"]
    proxy = cutting(seed)
    proxy.target = port
    async with proxy, asyncio.TaskGroup() as tasks:
        tasks.create_task(load(port, "lives", count))
        async with asyncio.timeout(60.0):
            while len(got) < count:
                lives += 1
                async with live(proxy.port, position=position, on_gap=gaps.append) as stream:
                    dies = drawn.randrange(60)
                    async for message in stream:
                        if dies == 0:
                            break  # in the middle of handling: it has no effect
                        dies -= 1
                        got.append(message.data)  # type: ignore[arg-type]
                        if len(got) == count:
                            break
                    position = stream.position if dies == 0 else message.event_id
    check(got, count)
    assert gaps == [], f"seed {seed}"
    assert lives > 20


@pytest.mark.real_time
async def test_swallowed_connection_is_lost_by_its_silence() -> None:
    """The client reconnects over a link that delivers no bytes and reports no error."""
    with serve(heartbeat_interval=0.3) as server:
        async with Proxy(server.port) as proxy, live(proxy.port, "t") as stream:
            await publish(server.port, "t", 1)
            assert await take(stream, 1) == [1]
            for link in proxy.links:
                link.discard()
            await publish(server.port, "t", 2)
            began = time.monotonic()
            assert await take(stream, 1) == [2]
            assert time.monotonic() - began < 3.0


# -- servers that end -------------------------------------------------------------------------


@pytest.mark.real_time
async def test_killed_server_is_one_gap() -> None:
    """After kill -9 and a restart, the client reports the lost log once, in its place."""
    events: list[object] = []
    with serve() as first:
        async with live(first.port, "t", on_gap=events.append) as stream:
            await publish(first.port, "t", 1, 2, 3)
            assert await take(stream, 1) == [1]
            await reported(first.port, stream, lambda seen: seen["frames_sent"] >= 4)
            await asyncio.sleep(0.2)  # the rest arrives, and is not handled
            before = stream.connection_id
            await anyio.to_thread.run_sync(first.kill)
            env = {"HOLDFAST_OPTIONS": "{}"}
            again = ServerProcess("uvicorn", "tests.apps.live:app", env=env, port=first.port)
            with again:
                await until(lambda: stream.connection_id not in (None, before))
                assert events == []
                assert await take(stream, 2) == [2, 3]
                assert events == []
                await publish(first.port, "t", 4)
                assert await take(stream, 1) == [4]
                assert events == [Gap("restart", None)]


async def test_trimmed_messages_are_counted_once() -> None:
    """The counts of all gaps add up to the number of trimmed messages."""
    events: list[object] = []
    with serve(history_limit=5) as server:
        position = (await request(server.port, "GET", "/position?topics=t")).json()["id"]
        await publish(server.port, "t", *range(20))
        async with live(server.port, "t", position=position, on_gap=events.append) as stream:
            assert stream.status.session == "gap"
            assert await take(stream, 5) == list(range(15, 20))
    assert events == [Gap("trimmed", 15, ("t",), Priority.NORMAL)]


@pytest.mark.real_time
async def test_drained_server_is_a_reason_to_reconnect() -> None:
    """At SIGTERM the stream ends at once, and the client waits for the next server."""
    seen: list[Status] = []
    with serve() as first:
        async with live(first.port, "t", on_status=seen.append, on_gap=lambda _: None) as stream:
            before = stream.connection_id
            seconds = await anyio.to_thread.run_sync(first.terminate)
            assert seconds < 3.0
            with ServerProcess("uvicorn", "tests.apps.live:app", port=first.port) as second:
                await until(lambda: stream.connection_id not in (None, before))
                await publish(second.port, "t", 1)
                assert await take(stream, 1) == [1]
    reasons = [each.reason or "" for each in seen if each.state is StreamState.WAITING]
    assert "drain" in reasons[0]
