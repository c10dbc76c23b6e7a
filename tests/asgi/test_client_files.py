"""GET /client.js, /tabs.js and /client.d.ts, and the subprotocols that the client offers."""

from __future__ import annotations

import gzip
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth import Request, User, anonymous
from tests.support.asgi import WebSocketExchange, fetch

ROOT = Path(__file__).parents[2]
TYPES = {
    "/client.js": "text/javascript; charset=utf-8",
    "/tabs.js": "text/javascript; charset=utf-8",
    "/client.d.ts": "text/plain; charset=utf-8",
}


@pytest.fixture
def app(broadcaster: Broadcaster) -> LiveApp:
    """Return an application that authenticates no client."""
    return LiveApp(broadcaster, authenticate=lambda request: None)


def packaged(path: str) -> bytes:
    """Return the packaged file that is served at a path."""
    return (files("holdfast") / "browser" / path[1:]).read_bytes()


@pytest.mark.parametrize("path", TYPES)
@pytest.mark.parametrize("prefix", ["", "/live"])
async def test_files_are_served_unchanged(app: LiveApp, path: str, prefix: str) -> None:
    """Any client gets the files of the package, wherever the application is mounted."""
    answer = await fetch(app, "GET", prefix + path, root_path=prefix)
    assert answer.status == 200
    assert answer.body == packaged(path)
    assert answer.headers["content-type"] == TYPES[path]
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["vary"] == "accept-encoding"
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("path", TYPES)
async def test_files_are_compressed_for_a_client_that_accepts_gzip(app: LiveApp, path: str) -> None:
    """A browser gets the file compressed, and each start compresses it to the same bytes."""
    answer = await fetch(app, "GET", path, headers={"Accept-Encoding": "gzip, deflate, br, zstd"})
    assert gzip.decompress(answer.body) == packaged(path)
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"] == TYPES[path]
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.body[4:8] == bytes(4), "the header has no time"


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("*", True),
        ("deflate, *;q=0.5", True),
        ("gzip;q=0.001", True),
        ("identity;q=0.5, gzip;q=1.0", True),
        ("identity;q=0, gzip;q=0.1", True),
        (" gzip ; q = 0.5 ", True),
        ("", False),
        ("br", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("identity, gzip;q=0.5", False),
        ("gzip;q=x", False),
        ("gzip;q=nan", False),
        ("gzip;q=2", False),
        ("gzip;level=1", False),
        (",;,=", False),
    ],
)
async def test_accept_encoding_is_weighted(app: LiveApp, accepted: str, compressed: bool) -> None:
    """The file is compressed if the client accepts gzip, and does not prefer it uncompressed."""
    answer = await fetch(app, "GET", "/client.js", headers={"Accept-Encoding": accepted})
    assert answer.status == 200
    assert answer.headers.get("content-encoding") == ("gzip" if compressed else None)
    body = gzip.decompress(answer.body) if compressed else answer.body
    assert body == packaged("/client.js")


@pytest.mark.parametrize("path", TYPES)
@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_head_and_etag(app: LiveApp, path: str, coding: str) -> None:
    """HEAD has no body, and a client that has the file already gets 304."""
    accept = {"Accept-Encoding": coding}
    get = await fetch(app, "GET", path, headers=accept)
    head = await fetch(app, "HEAD", path, headers=accept)
    assert (head.status, head.body, head.headers) == (200, b"", get.headers)
    etag = get.headers["etag"]
    for known, status in ((etag, 304), (f'W/{etag}, "x"', 304), ("*", 304), ('"x"', 200)):
        answer = await fetch(app, "GET", path, headers={"If-None-Match": known, **accept})
        assert (answer.status, answer.body == b"") == (status, status == 304)
        assert (answer.headers["etag"], answer.headers["vary"]) == (etag, "accept-encoding")
        assert ("content-encoding" in answer.headers) == (status == 200 and coding == "gzip")
    assert (await fetch(app, "POST", path)).status == 405


async def test_each_coding_has_its_own_etag(app: LiveApp) -> None:
    """A cache that has the compressed file does not take it for the plain one."""
    compressed = await fetch(app, "GET", "/client.js", headers={"Accept-Encoding": "gzip"})
    etag = compressed.headers["etag"]
    plain = await fetch(app, "GET", "/client.js", headers={"If-None-Match": etag})
    assert (plain.status, plain.body) == (200, packaged("/client.js"))
    assert plain.headers["etag"] != etag


async def test_pages_of_any_origin_may_import_the_file(app: LiveApp) -> None:
    """The file is public, because a browser sends Origin with every import."""
    answer = await fetch(app, "GET", "/client.js", headers={"Origin": "https://elsewhere.test"})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")


async def test_bearer_token_by_subprotocol(broadcaster: Broadcaster) -> None:
    """The hook gets `bearer.<token>` as `Authorization`, and the server never chooses it."""
    headers: list[str | None] = []

    def authenticate(request: Request) -> User | None:
        headers.append(request.headers.get("authorization"))
        return User(id="ann") if headers[-1] == "Bearer a/b+c= é" else None

    app = LiveApp(broadcaster, authenticate=authenticate)
    offered = {"Sec-WebSocket-Protocol": "holdfast, bearer.a%2Fb%2Bc%3D%20%C3%A9"}
    async with WebSocketExchange(app, headers=offered) as socket:
        assert await socket.receive() == {"type": "websocket.accept", "subprotocol": "holdfast"}
        assert (await socket.frame())["type"] == "connection_established"
    async with WebSocketExchange(
        app, headers={**offered, "Authorization": "Bearer other"}
    ) as socket:
        await socket.wait_accepted()
        assert await socket.wait_closed() == 4401
    assert headers == ["Bearer a/b+c= é", "Bearer other"]


@pytest.mark.parametrize("offered", ["", "graphql-ws", "bearer.x", "mqtt, bearer.x"])
async def test_other_subprotocols_change_nothing(broadcaster: Broadcaster, offered: str) -> None:
    """The server reads a token and chooses a subprotocol only if `holdfast` is offered."""
    app = LiveApp(broadcaster, authenticate=anonymous)
    headers = {"Sec-WebSocket-Protocol": offered} if offered else {}
    async with WebSocketExchange(app, headers=headers) as socket:
        accepted: dict[str, Any] = await socket.receive()
        assert accepted == {"type": "websocket.accept"}
        assert (await socket.frame())["type"] == "connection_established"


async def compressed_size(app: LiveApp, path: str) -> int:
    """Return the bytes that a browser receives for a file."""
    answer = await fetch(app, "GET", path, headers={"Accept-Encoding": "gzip"})
    return len(answer.body)


@pytest.mark.parametrize(("path", "limit"), [("/client.js", 7_000), ("/tabs.js", 3_000)])
async def test_size(app: LiveApp, path: str, limit: int) -> None:
    """A page loads 7 KB at most, and 3 KB more if its tabs share a stream."""
    assert await compressed_size(app, path) <= limit


async def test_documented_sizes_are_the_measured_ones(app: LiveApp) -> None:
    """The sizes in README.md and docs/client.md are the measured ones, rounded up."""
    client = math.ceil(await compressed_size(app, "/client.js") / 1000)
    tabs = math.ceil(await compressed_size(app, "/tabs.js") / 1000)
    assert f"served by LiveApp; {client} KB" in (ROOT / "README.md").read_text("utf-8")
    document = (ROOT / "docs" / "client.md").read_text("utf-8")
    assert f"{client} KB compressed" in document
    assert f"{tabs} KB more" in document
