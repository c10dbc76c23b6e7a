"""GET /health, /connection-stats, /websocket-stats and /websocket-info."""

from __future__ import annotations

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth import anonymous
from tests.support.asgi import (
    HttpExchange,
    WebSocketExchange,
    authorize_unless_secret,
    fetch,
    live_app,
)


class TestReports:
    """Health, statistics, configuration."""

    async def test_health_needs_nobody(self, broadcaster: Broadcaster) -> None:
        """Health is open, and says whether connections are served."""
        app = live_app(broadcaster, authenticate=lambda request: None)
        answer = await fetch(app, "GET", "/health")
        assert (answer.status, answer.json()) == (200, {"status": "ok"})
        broadcaster.begin_drain()
        answer = await fetch(app, "GET", "/health")
        assert (answer.status, answer.json()) == (503, {"status": "draining"})

    async def test_statistics_are_guarded(self, broadcaster: Broadcaster) -> None:
        """Who is connected is for those who may read it; by default nobody may."""
        for options, status in (
            ({"authorize": authorize_unless_secret}, 200),
            ({"authorize": lambda user, action, topic: False}, 403),
            ({"authenticate": lambda request: None}, 401),
        ):
            app = live_app(broadcaster, **options)
            for path in ("/connection-stats", "/websocket-stats"):
                assert (await fetch(app, "GET", path)).status == status
        plain = LiveApp(broadcaster, authenticate=anonymous)
        assert (await fetch(plain, "GET", "/connection-stats")).status == 403

    async def test_statistics(self, app: LiveApp) -> None:
        """Both reports have the counts; the second only the WebSocket connections; no tokens."""
        async with (
            HttpExchange(app, "/stream?topics=t", headers={"X-User": "ann"}) as stream,
            WebSocketExchange(app, "/websocket?topics=t") as socket,
        ):
            data = await stream.first_frame_data()
            await socket.wait_accepted()
            await socket.frame()
            both = await fetch(app, "GET", "/connection-stats")
            assert both.json()["count"] == 2
            assert both.json()["statistics"]["connections"] == 2
            (ann,) = [c for c in both.json()["connections"] if c["user"] == "ann"]
            assert (ann["connection_id"], ann["transport"]) == (data["connectionId"], "sse")
            sockets = (await fetch(app, "GET", "/websocket-stats")).json()
            assert (sockets["count"], sockets["connections"][0]["transport"]) == (1, "websocket")
            assert data["reconnectToken"] not in both.body.decode()

    async def test_websocket_info(self, broadcaster: Broadcaster) -> None:
        """How to connect by WebSocket, or that one cannot."""
        info = (await fetch(live_app(broadcaster), "GET", "/websocket-info")).json()
        assert (info["enabled"], info["path"], info["heartbeatInterval"]) == (
            True, "/websocket", 30.0,
        )  # fmt: skip
        info = (
            await fetch(live_app(broadcaster, websocket_path=None), "GET", "/websocket-info")
        ).json()
        assert (info["enabled"], info["path"]) == (False, None)
