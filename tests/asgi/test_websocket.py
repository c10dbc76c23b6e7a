"""/websocket: who gets a connection at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth import User
from tests.support.asgi import WebSocketExchange, live_app


class TestHandshake:
    """Who gets a connection at all. A refusal is accepted first: 1006 would say nothing."""

    async def refused(self, app: LiveApp, **request: Any) -> tuple[str, int]:
        """The code of the error frame, and the close code."""
        async with WebSocketExchange(app, **{"path": "/websocket?topics=t", **request}) as socket:
            await socket.wait_accepted()
            frame = await socket.frame()
            assert frame["type"] == "error"
            code = await socket.wait_closed()
        return frame["data"]["code"], code

    async def test_unauthenticated(self, broadcaster: Broadcaster) -> None:
        """Without credentials: 4401."""
        app = live_app(broadcaster, authenticate=lambda request: None)
        assert await self.refused(app) == ("unauthorized", 4401)

    @pytest.mark.parametrize(
        "origin",
        ["https://evil.test", "null", "", "http://", "https://example.test.evil.test", "http://[",
         "https://example.test:8443", "https://user@example.test", "file://"],
    )  # fmt: skip
    async def test_foreign_origin(self, broadcaster: Broadcaster, origin: str) -> None:
        """A page of another origin is refused: the browser would have sent its cookies along."""
        app = live_app(broadcaster)
        assert await self.refused(app, headers={"Origin": origin}) == ("foreign_origin", 4403)

    @pytest.mark.parametrize(
        ("origin", "allowed"),
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
        self, broadcaster: Broadcaster, origin: str | None, allowed: list[str]
    ) -> None:
        """The page's own host, a listed origin, and whoever is no browser get in."""
        headers = {} if origin is None else {"Origin": origin}
        async with WebSocketExchange(
            live_app(broadcaster, allowed_origins=allowed), headers=headers
        ) as socket:
            await socket.first_frame()

    async def test_bad_topics(self, broadcaster: Broadcaster) -> None:
        """A topic that is none is refused with a code that says not to try again."""
        for path in ("/websocket?topics=a%20b", "/websocket?topics=$user", "/websocket?topics=*b"):
            code, close = await self.refused(live_app(broadcaster), path=path)
            assert code == "invalid_topic"
            assert close >= 4400

    async def test_draining_and_full(self) -> None:
        """While there is no room or no future here, clients are told to come back."""
        async with Broadcaster(max_connections=1) as broadcaster:
            app = live_app(broadcaster)
            async with WebSocketExchange(app) as socket:
                await socket.first_frame()
                assert await self.refused(app) == ("over_capacity", 4006)
                broadcaster.begin_drain()
                assert await self.refused(app) == ("drain", 1012)
                assert await socket.wait_closed() == 1012

    async def test_other_path(self, broadcaster: Broadcaster) -> None:
        """Elsewhere, or where WebSocket is off, the handshake is rejected."""
        for app, path in (
            (live_app(broadcaster), "/other"),
            (live_app(broadcaster, websocket_path=None), "/websocket"),
            (live_app(broadcaster, enabled=False), "/websocket"),
        ):
            async with WebSocketExchange(app, path) as socket:
                assert (await socket.receive())["type"] == "websocket.close"

    @pytest.mark.parametrize("path", ["/live", "/live/", "/a/b", "/"])
    async def test_own_path(self, broadcaster: Broadcaster, path: str) -> None:
        """The path can be chosen, with a slash at its end or without."""
        for asked in (path, path.rstrip("/") or "/"):
            async with WebSocketExchange(
                live_app(broadcaster, websocket_path=path), asked
            ) as socket:
                await socket.first_frame()

    async def test_client_that_left_during_the_handshake(self, broadcaster: Broadcaster) -> None:
        """A client that is gone before it was accepted, or refused, causes no error."""
        app = live_app(broadcaster)
        socket = WebSocketExchange(app)
        socket.to_app.get_nowait()
        socket.disconnect()
        async with socket:
            await socket.wait_ended()

    async def test_expired_credentials_end_it(self) -> None:
        """When the credentials expire in mid-stream the socket is closed with 4401."""
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
