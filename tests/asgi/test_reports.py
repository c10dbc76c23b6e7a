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
    """Health, statistics and configuration."""

    async def test_health_needs_no_credentials(self, broadcaster: Broadcaster) -> None:
        """/health needs no credentials, and reports whether connections are served."""
        app = live_app(broadcaster, authenticate=lambda request: None)
        answer = await fetch(app, "GET", "/health")
        assert (answer.status, answer.json()) == (200, {"status": "ok"})
        broadcaster.begin_drain()
        answer = await fetch(app, "GET", "/health")
        assert (answer.status, answer.json()) == (503, {"status": "draining"})

    async def test_statistics_are_guarded(self, broadcaster: Broadcaster) -> None:
        """The statistics need a permission, which the default `authorize` refuses."""
        for options, status in (
            ({"authorize": authorize_unless_secret}, 200),
            ({"authorize": lambda user, action, topic: False}, 403),
            ({"authenticate": lambda request: None}, 401),
        ):
            app = live_app(broadcaster, **options)
            for path in ("/connection-stats", "/websocket-stats"):
                assert (await fetch(app, "GET", path)).status == status
        app_by_default = LiveApp(broadcaster, authenticate=anonymous)
        assert (await fetch(app_by_default, "GET", "/connection-stats")).status == 403

    async def test_statistics(self, app: LiveApp) -> None:
        """Both reports have the counts, /websocket-stats those of WebSockets, and no token."""
        async with (
            HttpExchange(app, "/stream?topics=t", headers={"X-User": "ann"}) as stream,
            WebSocketExchange(app, "/websocket?topics=t") as socket,
        ):
            data = await stream.first_frame_data()
            await socket.wait_accepted()
            await socket.frame()
            all_transports = await fetch(app, "GET", "/connection-stats")
            assert all_transports.json()["count"] == 2
            assert all_transports.json()["statistics"]["connections"] == 2
            (ann,) = [row for row in all_transports.json()["connections"] if row["user"] == "ann"]
            assert (ann["connection_id"], ann["transport"]) == (data["connectionId"], "sse")
            websockets = (await fetch(app, "GET", "/websocket-stats")).json()
            assert (websockets["count"], websockets["connections"][0]["transport"]) == (
                1,
                "websocket",
            )
            assert data["reconnectToken"] not in all_transports.body.decode()

    async def test_websocket_info(self, broadcaster: Broadcaster) -> None:
        """/websocket-info has the address of the WebSocket, or reports that it is disabled."""
        info = (await fetch(live_app(broadcaster), "GET", "/websocket-info")).json()
        assert (info["enabled"], info["path"], info["heartbeatInterval"]) == (
            True, "/websocket", 30.0,
        )  # fmt: skip
        info = (
            await fetch(live_app(broadcaster, websocket_path=None), "GET", "/websocket-info")
        ).json()
        assert (info["enabled"], info["path"]) == (False, None)
