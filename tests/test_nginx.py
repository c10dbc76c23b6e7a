"""nginx in front of a server, in several configurations."""

from __future__ import annotations

import asyncio
import json
import os
import zlib
from collections.abc import Iterator

import pytest

from tests.support import ServerProcess, needs
from tests.support.clients import open_socket, open_stream, request
from tests.support.live_server import publish
from tests.support.nginx import (
    BUFFERED,
    EXECUTABLES,
    HELD_BACK,
    HOST_HEADER,
    LOOKS_CONNECTED,
    WEBSOCKET,
    Nginx,
)

pytestmark = needs(executable=EXECUTABLES, reason="a real nginx stands in front")

COOKIE = {"Cookie": "user=ada"}
STREAM = "/live/stream?topics=t"
OPTIONS = json.dumps({"heartbeat_interval": 60.0})


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    """Return the port of a server with a heartbeat interval longer than any test."""
    app, env = "tests.apps.pages:app", {"HOLDFAST_OPTIONS": OPTIONS}
    with ServerProcess("uvicorn", app, env=env) as server:
        yield server.port


async def test_default_configuration_passes_streams(upstream):
    """`X-Accel-Buffering: no` suffices: each message arrives at once, over HTTP/1.0 upstream."""
    with Nginx(upstream) as nginx:
        async with open_stream(nginx.port, STREAM, headers=COOKIE) as stream:
            assert stream.status == 200
            for number in range(3):
                await publish(upstream, number)
                assert await stream.messages(1) == [number]


async def test_default_configuration_refuses_websockets_and_posts(upstream):
    """A WebSocket needs the upgrade headers, and a POST of a page needs its Host."""
    with Nginx(upstream) as nginx:
        refused = await request(
            nginx.port,
            "GET",
            "/live/websocket",
            headers={**COOKIE, "Upgrade": "websocket", "Connection": "Upgrade"},
        )
        assert refused.status == 404
        origin = {**COOKIE, "Origin": f"http://127.0.0.1:{nginx.port}"}
        posted = await request(nginx.port, "POST", "/live/ack", {}, headers=origin)
        assert posted.json()["error"]["code"] == "foreign_origin"
    with Nginx(upstream, HOST_HEADER) as nginx:
        origin = {**COOKIE, "Origin": f"http://127.0.0.1:{nginx.port}"}
        posted = await request(nginx.port, "POST", "/live/ack", {}, headers=origin)
        assert posted.json()["error"]["code"] == "no_connection"


async def test_upgrade_headers_pass_websockets(upstream):
    """A WebSocket works with the directives of nginx's documentation."""
    with Nginx(upstream, HOST_HEADER + WEBSOCKET) as nginx:
        path = "/live/websocket?topics=t"
        async with open_socket(nginx.port, path, headers=COOKIE) as socket:
            assert (await socket.frame())["type"] == "connection_established"
            await publish(upstream, "over nginx")
            assert (await socket.frame())["data"] == "over nginx"


async def test_buffering_does_not_delay_frames(upstream):
    """The buffer is passed on, even with `proxy_buffering on`, when the server pauses."""
    with Nginx(upstream, BUFFERED) as nginx:
        async with open_stream(nginx.port, STREAM, headers=COOKIE) as stream:
            for number in range(3):
                await publish(upstream, number)
                assert await stream.messages(1) == [number]


async def test_gzip_delays_frames(upstream):
    """A compressed stream has its headers, and no frame for a long time."""
    sent = {**COOKIE, "Accept-Encoding": "gzip"}
    with Nginx(upstream, LOOKS_CONNECTED) as nginx:
        async with open_stream(nginx.port, STREAM, headers=sent) as stream:
            assert stream.status == 200
            await publish(upstream, "held back")
            reading = asyncio.ensure_future(stream.chunk())
            done, _ = await asyncio.wait([reading], timeout=1.0)
            assert not done
            # zlib holds the frame until its buffers are full.
            await publish(upstream, *(os.urandom(500).hex() for _ in range(100)))
            compressed = await asyncio.wait_for(reading, 10.0)
    assert b'"held back"' in zlib.decompressobj(wbits=31).decompress(compressed)


async def test_gzip_delays_the_headers(upstream):
    """By default, nginx delays the headers of a compressed stream until its first bytes."""
    sent = {**COOKIE, "Accept-Encoding": "gzip"}
    with Nginx(upstream, HELD_BACK) as nginx, pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0), open_stream(nginx.port, STREAM, headers=sent):
            pass


async def test_read_timeout_cuts_an_idle_stream(upstream):
    """A stream ends after `proxy_read_timeout` without a byte."""
    with Nginx(upstream, read_timeout=1) as nginx:
        async with open_stream(nginx.port, STREAM, headers=COOKIE) as stream:
            assert (await stream.event()).json()["type"] == "connection_established"
            assert await stream.rest() == []


async def test_dead_upstream_gets_502():
    """A request without an upstream gets 502, which ends an EventSource."""
    with ServerProcess("uvicorn", "tests.apps.pages:app") as server, Nginx(server.port) as nginx:
        async with open_stream(nginx.port, STREAM, headers=COOKIE) as stream:
            assert stream.status == 200
            server.kill()
            await stream.rest()
        assert (await request(nginx.port, "GET", STREAM, headers=COOKIE)).status == 502
