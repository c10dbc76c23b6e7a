"""Acknowledger: which messages the client acknowledges, and what a refusal changes."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from holdfast.client import Subscribed
from tests.client.real_server import live, publish, report, serve
from tests.client.scripted_server import (
    ReceivedRequest,
    first_frame,
    id_of,
    message,
    scripted_server,
    status,
    stream,
)
from tests.client.streams import stream_from, take, until


@pytest.mark.real_time
async def test_acknowledgement_names_the_last_handled_id() -> None:
    """The client posts the last handled id once per pause, and is silent while idle."""
    async with (
        scripted_server(stream(first_frame(window=16384), message(1), message(2))) as server,
        stream_from(server) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]
        await until(lambda: bool(server.posts))
        await asyncio.sleep(0.3)
    assert [json.loads(each.body) for each in server.posts] == [
        {"connectionId": "c", "id": id_of(1)}
    ]


@pytest.mark.real_time
async def test_stream_without_a_window_is_not_acknowledged() -> None:
    """The client posts nothing to a server whose first frame has no window."""
    async with (
        scripted_server(stream(first_frame(), message(1), message(2))) as server,
        stream_from(server) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]
        await asyncio.sleep(0.3)
    assert server.posts == []


async def test_failed_token_function_delays_an_acknowledgement(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The failure is logged, and the client calls the function again."""
    asked_for = 0

    async def token() -> str:
        nonlocal asked_for
        asked_for += 1
        if asked_for in (2, 3):
            raise OSError("the issuer is away")
        return f"token-{asked_for}"

    async def post(received: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        known = received.headers["authorization"] == "Bearer token-4"
        await status("200 OK" if known else "401 x", body=b"{}")(received, writer)

    async with scripted_server(stream(first_frame(window=16384), message(1), message(2))) as server:
        server.on_post = post
        async with stream_from(server, token=token) as stream_:
            assert await take(stream_, 2) == [1, 2]
            waiting = asyncio.create_task(take(stream_, 1))
            await until(lambda: asked_for == 4 or waiting.done())
            assert not waiting.done()
            waiting.cancel()
    assert "the issuer is away" in caplog.text


class ToAnotherProcess(httpx.AsyncHTTPTransport):
    """Sends every POST to another process of the server, as a load balancer may."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            request.url = request.url.copy_with(port=self.port)
        return await super().handle_async_request(request)


@pytest.mark.slow
async def test_posts_that_reach_another_process(port: int) -> None:
    """Topics change by a new request, and the stream goes on without acknowledgements."""
    with serve() as other:
        async with (
            httpx.AsyncClient(transport=ToAnotherProcess(other.port)) as http,
            live(port, "e.a", http=http) as stream,
        ):
            assert await stream.subscribe("e.b") == Subscribed(("e.b",), ())
            assert await stream.unsubscribe("e.a") == ("e.a",)
            numbers = list(range(300))
            await publish(port, "e.b", *[[number, "x" * 1000] for number in numbers])
            got = await take(stream, 300)
            assert [number for number, _ in got] == numbers


class Forbidding(httpx.AsyncHTTPTransport):
    """ScriptedServer every POST with 403, as a firewall may."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(403, stream=httpx.ByteStream(b""), request=request)
        return await super().handle_async_request(request)


async def test_posts_that_a_proxy_forbids(port: int) -> None:
    """The window of a stream that cannot acknowledge does not stop the stream."""
    async with (
        httpx.AsyncClient(transport=Forbidding()) as http,
        live(port, "f.a", http=http) as stream,
    ):
        numbers = list(range(300))
        await publish(port, "f.a", *[[number, "x" * 1000] for number in numbers])
        assert [number for number, _ in await take(stream, 300)] == numbers


@pytest.mark.real_time
async def test_slow_application_holds_the_server_back(port: int) -> None:
    """One window is on the way while no message is handled, and the best lane overtakes."""
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
