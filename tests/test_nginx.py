"""nginx in front: what a plain reader of event streams sees, configuration by configuration."""

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
    """The port of a server, with heartbeats too far apart to help."""
    app, env = "tests.apps.pages:app", {"HOLDFAST_OPTIONS": OPTIONS}
    with ServerProcess("uvicorn", app, env=env) as server:
        yield server.port


async def test_the_default_configuration_lets_streams_through(upstream):
    """`X-Accel-Buffering: no` is enough: each message is there at once, over HTTP/1.0 upstream."""
    with Nginx(upstream) as nginx:
        async with open_stream(nginx.port, STREAM, headers=COOKIE) as stream:
            assert stream.status == 200
            for number in range(3):
                await publish(upstream, number)
                assert await stream.messages(1) == [number]


async def test_the_default_configuration_refuses_websockets_and_posts_of_a_page(upstream):
    """Without upgrade there is no WebSocket, and without the page's Host no POST of a page."""
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


async def test_websockets_pass_where_the_upgrade_is_configured(upstream):
    """With the lines of nginx's own documentation a WebSocket works."""
    with Nginx(upstream, HOST_HEADER + WEBSOCKET) as nginx:
        path = "/live/websocket?topics=t"
        async with open_socket(nginx.port, path, headers=COOKIE) as socket:
            assert (await socket.frame())["type"] == "connection_established"
            await publish(upstream, "over nginx")
            assert (await socket.frame())["data"] == "over nginx"


async def test_buffering_alone_holds_nothing_back(upstream):
    """No frame is held back with `proxy_buffering on` and X-Accel-Buffering ignored."""
    with Nginx(upstream, BUFFERED) as nginx:
        async with open_stream(nginx.port, STREAM, headers=COOKIE) as stream:
            for number in range(3):
                await publish(upstream, number)
                assert await stream.messages(1) == [number]


async def test_gzip_looks_connected_and_delivers_nothing(upstream):
    """If nginx compresses the stream, the headers come, and no frame for a long time."""
    sent = {**COOKIE, "Accept-Encoding": "gzip"}
    with Nginx(upstream, LOOKS_CONNECTED) as nginx:
        async with open_stream(nginx.port, STREAM, headers=sent) as stream:
            assert stream.status == 200
            await publish(upstream, "held back")
            reading = asyncio.ensure_future(stream.chunk())
            done, _ = await asyncio.wait([reading], timeout=1.0)
            assert not done
            # The frame was held back: it comes when more data fills the buffers of zlib.
            await publish(upstream, *(os.urandom(500).hex() for _ in range(100)))
            compressed = await asyncio.wait_for(reading, 10.0)
    assert b'"held back"' in zlib.decompressobj(wbits=31).decompress(compressed)


async def test_headers_that_are_held_back_too(upstream):
    """By default the headers wait with the first frame, and there is no answer at all."""
    sent = {**COOKIE, "Accept-Encoding": "gzip"}
    with Nginx(upstream, HELD_BACK) as nginx, pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0), open_stream(nginx.port, STREAM, headers=sent):
            pass


async def test_an_idle_timeout_cuts_a_quiet_stream(upstream):
    """After `proxy_read_timeout` without a byte nginx ends the stream, in the middle of it."""
    with Nginx(upstream, read_timeout=1) as nginx:
        async with open_stream(nginx.port, STREAM, headers=COOKIE) as stream:
            assert (await stream.event()).json()["type"] == "connection_established"
            assert await stream.rest() == []


async def test_a_dead_upstream_is_a_502():
    """Without a server behind it, nginx answers with a status that ends an EventSource."""
    with ServerProcess("uvicorn", "tests.apps.pages:app") as server, Nginx(server.port) as nginx:
        async with open_stream(nginx.port, STREAM, headers=COOKIE) as stream:
            assert stream.status == 200
            server.kill()
            await stream.rest()
        assert (await request(nginx.port, "GET", STREAM, headers=COOKIE)).status == 502
