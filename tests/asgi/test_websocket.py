"""/websocket: the handshake and its refusals."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth import User
from tests.support.asgi import WebSocketExchange, live_app


class TestHandshake:
    """The handshake. A refusal is accepted first, because a browser reports 1006 otherwise."""

    async def refused(self, app: LiveApp, **request: Any) -> tuple[str, int]:
        """Return the reason in the error frame, and the close code."""
        async with WebSocketExchange(app, **{"path": "/websocket?topics=t", **request}) as socket:
            await socket.wait_accepted()
            frame = await socket.frame()
            assert frame["type"] == "error"
            close_code = await socket.wait_closed()
        return frame["data"]["code"], close_code

    async def test_unauthenticated(self, broadcaster: Broadcaster) -> None:
        """A client without credentials is closed with 4401."""
        app = live_app(broadcaster, authenticate=lambda request: None)
        assert await self.refused(app) == ("unauthorized", 4401)

    @pytest.mark.parametrize(
        "origin",
        ["https://evil.test", "null", "", "http://", "https://example.test.evil.test", "http://[",
         "https://example.test:8443", "https://user@example.test", "file://"],
    )  # fmt: skip
    async def test_foreign_origin(self, broadcaster: Broadcaster, origin: str) -> None:
        """A page of a foreign origin is refused, because its browser sends our cookies."""
        app = live_app(broadcaster)
        assert await self.refused(app, headers={"Origin": origin}) == ("foreign_origin", 4403)

    @pytest.mark.parametrize(
        ("origin", "allowed_origins"),
        [
            ("https://example.test", []),
            ("http://EXAMPLE.test", []),
            (None, []),
            ("https://App.test", ["https://app.TEST/"]),
            ("null", ["null"]),
            ("https://anything.test", ["*"]),
        ],
    )
    async def test_own_or_allowed_origin(
        self, broadcaster: Broadcaster, origin: str | None, allowed_origins: list[str]
    ) -> None:
        """The same origin, an allowed origin and a client without an origin are accepted."""
        headers = {} if origin is None else {"Origin": origin}
        async with WebSocketExchange(
            live_app(broadcaster, allowed_origins=allowed_origins), headers=headers
        ) as socket:
            await socket.first_frame()

    async def test_bad_topics(self, broadcaster: Broadcaster) -> None:
        """An invalid topic is refused with a close code that means: do not reconnect."""
        for path in ("/websocket?topics=a%20b", "/websocket?topics=$user", "/websocket?topics=*b"):
            word, close_code = await self.refused(live_app(broadcaster), path=path)
            assert word == "invalid_topic"
            assert close_code >= 4400

    async def test_draining_and_full(self) -> None:
        """In a drain or over capacity, the close code means: reconnect."""
        async with Broadcaster(max_connections=1) as broadcaster:
            app = live_app(broadcaster)
            async with WebSocketExchange(app) as socket:
                await socket.first_frame()
                assert await self.refused(app) == ("over_capacity", 4006)
                broadcaster.begin_drain()
                assert await self.refused(app) == ("drain", 1012)
                assert await socket.wait_closed() == 1012

    async def test_other_path(self, broadcaster: Broadcaster) -> None:
        """The handshake is rejected on another path, and if WebSocket is disabled."""
        for app, path in (
            (live_app(broadcaster), "/other"),
            (live_app(broadcaster, websocket_path=None), "/websocket"),
            (live_app(broadcaster, enabled=False), "/websocket"),
        ):
            async with WebSocketExchange(app, path) as socket:
                assert (await socket.receive())["type"] == "websocket.close"

    @pytest.mark.parametrize("path", ["/live", "/live/", "/a/b", "/"])
    async def test_path_is_configurable(self, broadcaster: Broadcaster, path: str) -> None:
        """The path can be configured, and may end with a slash."""
        for request_path in (path, path.rstrip("/") or "/"):
            async with WebSocketExchange(
                live_app(broadcaster, websocket_path=path), request_path
            ) as socket:
                await socket.first_frame()

    async def test_client_that_disconnects_during_the_handshake(
        self, broadcaster: Broadcaster
    ) -> None:
        """A client that disconnects during the handshake causes no error."""
        app = live_app(broadcaster)
        socket = WebSocketExchange(app)
        socket.to_app.get_nowait()
        socket.disconnect()
        async with socket:
            await socket.wait_ended()

    async def test_expired_credentials_close_the_socket(self) -> None:
        """When the credentials expire, the socket is closed with 4401."""
        now = 1000.0

        def clock() -> float:
            return now + asyncio.get_running_loop().time()

        async with Broadcaster(clock=clock) as broadcaster:
            app = live_app(
                broadcaster, authenticate=lambda request: User(id="ann", expires_at=now + 60.0)
            )
            async with WebSocketExchange(app) as socket:
                await socket.first_frame()
                assert await asyncio.wait_for(socket.wait_closed(), 70.0) == 4401
                assert asyncio.get_running_loop().time() <= 61.0
            assert await self.refused(app) == ("unauthorized", 4401)
