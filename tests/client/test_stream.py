"""The client against real servers, over links that are cut, swallowed and stalled."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import httpx
import pytest

from holdfast.client import (
    Gap,
    Message,
    Priority,
    RequestRefused,
    Status,
    Stream,
    StreamState,
    Subscribed,
    connect,
)
from holdfast.errors import InvalidTopic, NotRunning
from tests.client.until import PATIENCE, until
from tests.support import SERVERS, ServerKind, ServerProcess
from tests.support.clients import request
from tests.support.processes import ARGS, HOST, free_port
from tests.support.proxy import Fault, How, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAST = (0.0, 0.02)
LANES = ("CRITICAL", "HIGH", "NORMAL", "LOW")


def serve(kind: ServerKind = "uvicorn", **options: Any) -> ServerProcess:
    """A server whose history holds all that a test publishes."""
    env = {"HOLDFAST_OPTIONS": json.dumps({"history_limit": 100_000, **options})}
    return ServerProcess(kind, "tests.apps.live:app", args=ARGS[kind], env=env)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server for all tests that leave it running."""
    with serve() as server:
        yield server.port


def live(port: int, *topics: str, **options: Any) -> AbstractAsyncContextManager[Stream]:
    """A stream, without waits worth mentioning."""
    return connect(f"http://{HOST}:{port}", topics=topics, **{"retry_delays": FAST, **options})


async def publish(port: int, topic: str, *data: Any, **more: Any) -> None:
    """Publish each as one message."""
    body = {"messages": [{"topic": topic, "data": each, **more} for each in data]}
    assert (await request(port, "POST", "/publish", body)).status == 200


async def take(stream: Stream, count: int, *, within: float = PATIENCE) -> list[Any]:
    """The data of the next messages."""
    async with asyncio.timeout(within):
        return [(await anext(stream)).data for _ in range(count)]


async def report(port: int, stream: Stream) -> dict[str, Any]:
    """What the server says of the connection of now."""
    connections = (await request(port, "GET", "/connection-stats")).json()["connections"]
    (found,) = [one for one in connections if one["connection_id"] == stream.connection_id]
    return dict(found)


async def reported(port: int, stream: Stream, condition: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the server's report satisfies the condition."""
    async with asyncio.timeout(PATIENCE):
        while not condition(await report(port, stream)):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", SERVERS)
async def test_every_server(kind: ServerKind) -> None:
    """On each server: messages, acknowledgements, a change of topics, a cut, a resume."""
    with serve(kind) as server:
        async with Proxy(server.port) as proxy, live(proxy.port, "a") as stream:
            await publish(server.port, "a", 1, 2)
            assert await take(stream, 2) == [1, 2]
            assert await stream.subscribe("b") == Subscribed(("b",), ())
            proxy.cut()
            await publish(server.port, "b", *range(500))
            assert await take(stream, 500) == list(range(500))
            await reported(server.port, stream, lambda seen: seen["unacknowledged"] <= 1024)


async def test_message_has_what_was_published(port: int) -> None:
    """All members of a message arrive as they were published."""
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


# -- cuts ----------------------------------------------------------------------------------------


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
    """Each once, and in each lane in order."""
    lanes: defaultdict[int, list[int]] = defaultdict(list)
    for number, text in got:
        assert text == "x" * (number * 7 % 90)
        lanes[number % 4].append(number)
    for lane in range(4):
        assert lanes[lane] == list(range(lane, count, 4))


def cutting(seed: int) -> Proxy:
    """A proxy that cuts each connection after a random number of bytes, in a random way."""
    drawn = random.Random(seed)
    hows: tuple[How, ...] = ("fin", "rst")

    def fault(number: int) -> Fault:
        return Fault(cut_after=drawn.randrange(5000), how=drawn.choice(hows))

    return Proxy(0, fault)


async def test_each_message_once_and_in_order_over_hundreds_of_cuts(port: int) -> None:
    """Whatever byte the link is cut at, in either way, nothing is lost, repeated or reordered."""
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


async def test_each_message_once_over_interrupted_consumers(port: int) -> None:
    """A consumer that dies while it handles a message goes on there, over links that are cut."""
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


async def test_swallowed_link_is_noticed() -> None:
    """On a link on which nothing arrives any more, the silence is the sign."""
    with serve(heartbeat_interval=0.3) as server:
        async with Proxy(server.port) as proxy, live(proxy.port, "t") as stream:
            await publish(server.port, "t", 1)
            assert await take(stream, 1) == [1]
            for link in proxy.links:
                link.swallow()
            await publish(server.port, "t", 2)
            began = time.monotonic()
            assert await take(stream, 1) == [2]
            assert time.monotonic() - began < 3.0


# -- servers that end ----------------------------------------------------------------------------


async def test_killed_server_is_a_declared_gap() -> None:
    """After kill -9 and a new start, the log is gone: told once, in its place, and on it goes."""
    events: list[object] = []
    with serve() as first:
        async with live(first.port, "t", on_gap=events.append) as stream:
            await publish(first.port, "t", 1, 2, 3)
            assert await take(stream, 1) == [1]
            await reported(first.port, stream, lambda seen: seen["frames_sent"] >= 4)
            await asyncio.sleep(0.2)  # the rest is read, and not handled
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
    """What has left the history is told where it is missing, and the counts can be added."""
    events: list[object] = []
    with serve(history_limit=5) as server:
        position = (await request(server.port, "GET", "/position?topics=t")).json()["id"]
        await publish(server.port, "t", *range(20))
        async with live(server.port, "t", position=position, on_gap=events.append) as stream:
            assert stream.status.session == "gap"
            assert await take(stream, 5) == list(range(15, 20))
    assert events == [Gap("trimmed", 15, ("t",), Priority.NORMAL)]


async def test_drained_server_says_so() -> None:
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


# -- the position --------------------------------------------------------------------------------


async def test_interrupted_message_comes_again(port: int) -> None:
    """The position moves at the request for the next message; `event_id` is right after it."""
    after = ""
    async with live(port, "again") as stream:
        await publish(port, "again", 1, 2, 3)
        with pytest.raises(ValueError, match="handling"):
            async for message in stream:
                after = message.event_id
                if message.data == 2:
                    raise ValueError("handling failed")
        position = stream.position
    async with live(port, position=position) as stream:
        assert stream.topics == ("again",)
        assert await take(stream, 2) == [2, 3]
    async with live(port, "again", position=after) as stream:
        assert await take(stream, 1) == [3]


async def test_position_of_the_application(port: int) -> None:
    """What `Broadcaster.position` gave is where to begin: load, then subscribe."""
    position = (await request(port, "GET", "/position?topics=loaded")).json()["id"]
    await publish(port, "loaded", 1, 2)
    async with live(port, "loaded", position=position) as stream:
        assert await take(stream, 2) == [1, 2]
        assert stream.status.session == "resumed"
        assert stream.status.replay == 2


async def test_cancelled_consumer_loses_nothing(port: int) -> None:
    """Who gives up waiting, again and again, has each message once, on one connection."""
    async with live(port, "cancelled") as stream:
        id, got = stream.connection_id, list[Any]()
        published = 0
        while len(got) < 30:
            if len(got) == published:
                await publish(port, "cancelled", *range(published, published + 10))
                published += 10
            with anyio.move_on_after(random.choice([0.0, 0.001])):
                async for message in stream:
                    got.append(message.data)
        assert got == list(range(30))
        assert stream.connection_id == id


# -- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["plain", "swallowed", "cancelled"])
async def test_leaving_is_prompt_and_leaves_nothing(port: int, how: str) -> None:
    """The block ends within a second, with nothing left in the loop, whatever the link does."""
    before = asyncio.all_tasks()
    async with Proxy(port) as proxy:
        left = asyncio.Event()

        async def consume() -> None:
            try:
                await consume_some()
            finally:
                ours = [task for task in asyncio.all_tasks() if "Stream." in repr(task)]
                assert ours == []

        async def consume_some() -> None:
            async with live(proxy.port, "left") as stream:
                if how != "cancelled":
                    await publish(port, "left", 1)
                async for _ in stream:
                    break
                if how == "swallowed":
                    for link in proxy.links:
                        link.swallow()
                left.set()

        task = asyncio.create_task(consume())
        if how == "cancelled":
            await asyncio.sleep(0.3)
            task.cancel()
        else:
            async with asyncio.timeout(PATIENCE):
                await left.wait()
        began = time.monotonic()
        await asyncio.wait([task])
        assert time.monotonic() - began < 1.0
        assert task.cancelled() is (how == "cancelled")
        assert task.cancelled() or task.exception() is None
        if how != "swallowed":
            await until(lambda: not proxy.links)
    assert asyncio.all_tasks() <= before


async def test_error_of_the_block_comes_out_as_it_is(port: int) -> None:
    """An exception of the application is not wrapped, and the end of the block is told."""
    seen: list[Status] = []
    with pytest.raises(KeyError):
        async with live(port, "t", on_status=seen.append) as stream:
            raise KeyError("mine")
    assert seen[-1].state is StreamState.CLOSED
    with pytest.raises(NotRunning):
        await anext(stream)
    with pytest.raises(NotRunning):
        await stream.subscribe("u")
    with pytest.raises(RuntimeError, match="connect again"):
        async with stream:
            pass


async def test_error_of_a_callback_ends_the_stream(port: int) -> None:
    """What on_status raises is raised where messages are asked for, and not swallowed."""

    def on_status(status: Status) -> None:
        if status.state is StreamState.WAITING:
            raise KeyError("mine")

    async with Proxy(port) as proxy, live(proxy.port, "t", on_status=on_status) as stream:
        proxy.cut()
        with pytest.raises(KeyError):
            await take(stream, 1)


async def test_end_of_the_block_reaches_other_tasks(port: int) -> None:
    """Whoever waits for a message or a subscription in another task does not wait for ever."""
    async with Proxy(port) as proxy:
        async with live(proxy.port, "t", retry_delays=(20.0, 20.0)) as stream:
            reading = asyncio.create_task(anext(stream))
            proxy.cut()
            await until(lambda: stream.connection_id is None)
            subscribing = asyncio.create_task(stream.subscribe("u"))
            await asyncio.sleep(0.05)
        done, _ = await asyncio.wait([reading, subscribing], timeout=PATIENCE)
        for task in (reading, subscribing):
            assert task in done
            with pytest.raises(NotRunning):
                await task


async def test_second_iteration_at_a_time_is_refused(port: int) -> None:
    """Two tasks cannot share what "handled" means."""
    async with live(port, "t") as stream, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(take(stream, 1))
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(stream)
        await publish(port, "t", 1)
        assert await first == [1]


async def test_http_client_of_the_application_is_used_and_left_open(port: int) -> None:
    """Its headers and base url count, its timeouts do not, and it is not closed."""
    headers = {"x-user": "ann"}
    async with httpx.AsyncClient(
        base_url=f"http://{HOST}:{port}", headers=headers, timeout=0.2
    ) as http:
        async with connect("/", topics=["own"], http=http) as stream:
            await asyncio.sleep(0.5)
            assert (await report(port, stream))["user"] == "ann"
            await publish(port, "own", 1)
            assert await take(stream, 1) == [1]
        assert not http.is_closed
        assert (await http.get("/health")).status_code == 200


# -- topics --------------------------------------------------------------------------------------


async def test_topics_change_at_any_time(port: int) -> None:
    """What is subscribed comes from then on, what is unsubscribed no more, over cuts too."""
    async with Proxy(port) as proxy, live(proxy.port, "c.a") as stream:
        await publish(port, "c.b", "early")
        assert await stream.subscribe("c.b", "c.a") == Subscribed(("c.b", "c.a"), ())
        await publish(port, "c.b", 1)
        assert await take(stream, 1) == [1]
        proxy.cut()
        assert await stream.subscribe("c.c") == Subscribed(("c.c",), ())
        assert await stream.unsubscribe("c.a", "c.x") == ("c.a",)
        await publish(port, "c.a", "late")
        await publish(port, "c.c", 2)
        assert await take(stream, 1) == [2]
        assert set(stream.topics) == {"c.b", "c.c"}
        proxy.cut()
        await publish(port, "c.b", 3)
        assert await take(stream, 1) == [3]
        assert await stream.unsubscribe("c.b", "c.c") == ("c.b", "c.c")
        proxy.cut()
        await publish(port, "c.b", "late")
        assert await stream.subscribe("c.d") == Subscribed(("c.d",), ())
        await publish(port, "c.d", 4)
        assert await take(stream, 1) == [4]
        with pytest.raises(InvalidTopic):
            await stream.subscribe("c..d")


async def test_topic_that_was_left_can_be_had_again(port: int) -> None:
    """On one connection, a topic of the first request is left and taken again, from then on."""
    async with live(port, "l.a", "l.b") as stream:
        id = stream.connection_id
        assert await stream.unsubscribe("l.a") == ("l.a",)
        await publish(port, "l.a", "missed")
        assert await stream.subscribe("l.a") == Subscribed(("l.a",), ())
        await publish(port, "l.a", 1)
        assert await take(stream, 1) == [1]
        assert stream.connection_id == id


async def test_topics_of_a_session_are_kept_beside_new_ones(port: int) -> None:
    """A stream that names none takes those of its position, and keeps them when it adds one."""
    position = (await request(port, "GET", "/position?topics=kept")).json()["id"]
    async with Proxy(port) as proxy, live(proxy.port, position=position) as stream:
        await stream.subscribe("added")
        proxy.cut()
        await stream.subscribe("more")
        await publish(port, "kept", 1)
        assert await take(stream, 1) == [1]


async def test_change_while_there_is_no_link_waits_for_it(port: int) -> None:
    """Subscribing while the server is away becomes part of the next request."""
    async with Proxy(port) as proxy, live(proxy.port, "w.a") as stream:
        proxy.target = free_port()
        proxy.cut()
        await until(lambda: stream.connection_id is None)
        change = asyncio.create_task(stream.subscribe("w.b"))
        await asyncio.sleep(0.1)
        assert not change.done()
        proxy.target = port
        async with asyncio.timeout(PATIENCE):
            assert await change == Subscribed(("w.b",), ())
        await publish(port, "w.b", 1)
        assert await take(stream, 1) == [1]


async def test_too_many_topics_are_refused_and_forgotten() -> None:
    """A change that the server refuses raises, and does not come with the next request."""
    with serve(max_topics=2) as server:
        async with Proxy(server.port) as proxy, live(proxy.port, "a") as stream:
            with pytest.raises(RequestRefused) as caught:
                await stream.subscribe("b", "c")
            assert (caught.value.code, caught.value.status) == ("too_many_topics", 400)
            proxy.cut()
            await publish(server.port, "a", 1)
            assert await take(stream, 1) == [1]


class Elsewhere(httpx.AsyncHTTPTransport):
    """Sends every POST to another process of the server, as a load balancer may."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            request.url = request.url.copy_with(port=self.port)
        return await super().handle_async_request(request)


async def test_posts_that_reach_another_process(port: int) -> None:
    """Topics change by a new request, and a stream without acknowledgements is not held back."""
    with serve() as other:
        async with (
            httpx.AsyncClient(transport=Elsewhere(other.port)) as http,
            live(port, "e.a", http=http) as stream,
        ):
            assert await stream.subscribe("e.b") == Subscribed(("e.b",), ())
            assert await stream.unsubscribe("e.a") == ("e.a",)
            numbers = list(range(300))
            await publish(port, "e.b", *[[number, "x" * 1000] for number in numbers])
            got = await take(stream, 300)
            assert [number for number, _ in got] == numbers


class Forbidding(httpx.AsyncHTTPTransport):
    """Lets no POST through, as a firewall may."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(403, stream=httpx.ByteStream(b""), request=request)
        return await super().handle_async_request(request)


async def test_posts_that_are_forbidden_on_the_way(port: int) -> None:
    """A stream whose acknowledgements arrive nowhere is not held back by its window for ever."""
    async with (
        httpx.AsyncClient(transport=Forbidding()) as http,
        live(port, "f.a", http=http) as stream,
    ):
        numbers = list(range(300))
        await publish(port, "f.a", *[[number, "x" * 1000] for number in numbers])
        assert [number for number, _ in await take(stream, 300)] == numbers


# -- slow consumers ------------------------------------------------------------------------------


async def test_slow_consumer_holds_the_server_back(port: int) -> None:
    """Of 4 MB only a window is under way while nothing is handled; the best lane overtakes."""
    async with live(port, "slow") as stream:
        await publish(port, "slow", *[[number, "x" * 10_000] for number in range(400)])
        assert (await take(stream, 1))[0][0] == 0
        before = (await report(port, stream))["bytes_sent"]
        await asyncio.sleep(0.5)
        after = (await report(port, stream))["bytes_sent"]
        assert before == after < 64 * 1024
        await publish(port, "slow", ["now"], priority="CRITICAL")
        got = await take(stream, 400)
        assert [each[0] for each in got if each != ["now"]] == list(range(1, 400))
        assert got.index(["now"]) < 10


# -- tokens --------------------------------------------------------------------------------------


async def test_expired_token_is_renewed_in_the_middle_of_the_stream() -> None:
    """The server ends the stream when the credentials end; the next ones resume it without loss."""
    env = {"HOLDFAST_OPTIONS": "{}"}
    issued: list[str] = []

    async def token() -> str:
        issued.append(f"ann:{time.time() + 0.6}")
        return issued[-1]

    gaps: list[Gap] = []
    with ServerProcess("uvicorn", "tests.apps.bearer:app", env=env) as server:
        async with live(server.port, "t", token=token, on_gap=gaps.append) as stream:
            began, number = time.monotonic(), 0
            while time.monotonic() - began < 2.0:
                number += 1
                await publish(server.port, "t", number)
                assert await take(stream, 1) == [number]
                await asyncio.sleep(0.05)
            assert await stream.subscribe("u") == Subscribed(("u",), ())
        with pytest.raises(RequestRefused) as caught:
            async with live(server.port, "t", token="ann:5"):
                raise AssertionError("the block must not begin")
        assert (caught.value.status, caught.value.code) == (401, "unauthorized")
    assert 3 <= len(issued) <= 20
    assert gaps == []
