"""BearerToken: when the client fetches a token."""

from __future__ import annotations

import asyncio
import time

import pytest

from holdfast.client import Gap, RequestRefused, Subscribed
from tests.client.real_server import live, publish
from tests.client.scripted_server import (
    HEAD,
    ReceivedRequest,
    closing,
    error_body,
    first_frame,
    message,
    scripted_server,
    status,
    stream,
)
from tests.client.streams import stream_from, take
from tests.support import ServerProcess

GOOD = stream(first_frame(), message(1))


async def test_token_is_fetched_again_after_a_401() -> None:
    """The client retries once at once, then with delays, until a token is accepted."""
    issued: list[str] = []

    async def token() -> str:
        issued.append(f"token-{len(issued)}")
        return issued[-1]

    refused = status("401 x", body=error_body("unauthorized"))
    expired = stream(first_frame(), message(1), closing("credentials_expired", reconnect=False))
    async with (
        scripted_server(refused, refused, expired, stream(first_frame(1), message(2))) as server,
        stream_from(server, token=token) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]
    sent = [each.headers["authorization"] for each in server.requests]
    assert sent == [f"Bearer token-{number}" for number in range(4)]


async def test_failed_token_function_is_an_error_at_first_and_a_delay_later() -> None:
    """A mistake in the function shows at once; an issuer that is away later is waited for."""
    fails = 2

    def token() -> str:
        nonlocal fails
        fails -= 1
        if 0 <= fails < 2:
            raise OSError("the issuer is away")
        return "good"

    async with scripted_server(GOOD) as server:
        with pytest.raises(OSError, match="the issuer is away"):
            async with stream_from(server, token=token):
                raise AssertionError("the block must not begin")
    fails = 3
    expired = stream(first_frame(), message(1), closing("credentials_expired", reconnect=False))
    async with (
        scripted_server(expired, stream(first_frame(1), message(2))) as server,
        stream_from(server, token=token) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]


@pytest.mark.real_time
async def test_token_function_is_called_by_one_task_at_a_time() -> None:
    """A POST during a reconnect waits for the token that is being fetched."""
    asking = most = asked_for = 0

    async def token() -> str:
        nonlocal asking, most, asked_for
        asking, asked_for = asking + 1, asked_for + 1
        most = max(most, asking)
        await asyncio.sleep(0.3)
        asking -= 1
        return f"token-{asked_for}"

    ends = asyncio.Event()

    async def expires(received: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + first_frame(window=16384) + message(1) + message(2))
        await ends.wait()
        writer.write(closing("credentials_expired", reconnect=False))

    async def post(received: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        ends.set()
        await status("401 x", body=b"{}")(received, writer)

    async with scripted_server(expires, stream(first_frame(2), message(3))) as server:
        server.on_post = post
        async with stream_from(server, token=token) as stream_:
            assert await take(stream_, 3) == [1, 2, 3]
    assert most == 1


@pytest.mark.slow
@pytest.mark.real_time
async def test_expired_token_is_renewed_in_the_middle_of_the_stream() -> None:
    """The server ends the stream when a token expires, and the next token resumes it."""
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
