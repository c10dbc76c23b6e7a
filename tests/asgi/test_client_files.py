"""GET /client.js, /tabs.js and /client.d.ts, and what the client needs of a WebSocket."""

from __future__ import annotations

import gzip
from importlib.resources import files
from typing import Any

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth import Request, User, anonymous
from tests.support.asgi import Socket, fetch

TYPES = {
    "/client.js": "text/javascript; charset=utf-8",
    "/client.d.ts": "text/plain; charset=utf-8",
}


@pytest.fixture
def app(broadcaster: Broadcaster) -> LiveApp:
    """An application that knows nobody."""
    return LiveApp(broadcaster, authenticate=lambda request: None)


@pytest.mark.parametrize("path", TYPES)
@pytest.mark.parametrize("prefix", ["", "/live"])
async def test_served_as_it_is(app: LiveApp, path: str, prefix: str) -> None:
    """The files of the package, to anybody, wherever the application is mounted."""
    answer = await fetch(app, "GET", prefix + path, root_path=prefix)
    assert answer.status == 200
    assert answer.body == (files("holdfast") / "browser" / path[1:]).read_bytes()
    assert answer.headers["content-type"] == TYPES[path]
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", TYPES)
async def test_head_and_etag(app: LiveApp, path: str) -> None:
    """HEAD has no body, and who has the file already gets 304."""
    get, head = await fetch(app, "GET", path), await fetch(app, "HEAD", path)
    assert (head.status, head.body, head.headers) == (200, b"", get.headers)
    etag = get.headers["etag"]
    for known, status in ((etag, 304), (f'W/{etag}, "x"', 304), ("*", 304), ('"x"', 200)):
        answer = await fetch(app, "GET", path, headers={"If-None-Match": known})
        assert (answer.status, answer.body == b"") == (status, status == 304)
        assert answer.headers["etag"] == etag
    assert (await fetch(app, "POST", path)).status == 405


async def test_any_page_may_import_it(app: LiveApp) -> None:
    """A browser sends Origin with every import of a module; the file is public."""
    answer = await fetch(app, "GET", "/client.js", headers={"Origin": "https://elsewhere.test"})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")


async def test_a_bearer_token_by_subprotocol(broadcaster: Broadcaster) -> None:
    """What a page offers as `bearer.<token>` is `Authorization` to the hook, and never chosen."""
    seen: list[str | None] = []

    def authenticate(request: Request) -> User | None:
        seen.append(request.headers.get("authorization"))
        return User(id="ann") if seen[-1] == "Bearer a/b+c= é" else None

    app = LiveApp(broadcaster, authenticate=authenticate)
    offered = {"Sec-WebSocket-Protocol": "holdfast, bearer.a%2Fb%2Bc%3D%20%C3%A9"}
    async with Socket(app, headers=offered) as socket:
        assert await socket.receive() == {"type": "websocket.accept", "subprotocol": "holdfast"}
        assert (await socket.frame())["type"] == "connection_established"
    async with Socket(app, headers={**offered, "Authorization": "Bearer other"}) as socket:
        await socket.accepted()
        assert await socket.closed() == 4401
    assert seen == ["Bearer a/b+c= é", "Bearer other"]


@pytest.mark.parametrize("offered", ["", "graphql-ws", "bearer.x", "mqtt, bearer.x"])
async def test_other_subprotocols_change_nothing(broadcaster: Broadcaster, offered: str) -> None:
    """Only who offers `holdfast` gets it chosen, and its token looked at."""
    app = LiveApp(broadcaster, authenticate=anonymous)
    headers = {"Sec-WebSocket-Protocol": offered} if offered else {}
    async with Socket(app, headers=headers) as socket:
        accepted: dict[str, Any] = await socket.receive()
        assert accepted == {"type": "websocket.accept"}
        assert (await socket.frame())["type"] == "connection_established"


@pytest.mark.parametrize(("name", "limit"), [("client.js", 6 * 1024), ("tabs.js", 3 * 1024)])
def test_size(name: str, limit: int) -> None:
    """At most 6 KiB go over the wire, compressed, and 3 KiB more where tabs share a stream."""
    content = (files("holdfast") / "browser" / name).read_bytes()
    assert len(gzip.compress(content, 9)) <= limit
