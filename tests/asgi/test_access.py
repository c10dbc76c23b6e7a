"""Access: the origins, and the hooks authenticate and authorize."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from holdfast import AuditAction, AuditEvent, Broadcaster, ConfigurationError, Reason
from holdfast.asgi import LiveApp
from holdfast.auth import Action, Request, User, anonymous
from tests.asgi.paths import GETS, POSTS, STREAMS
from tests.support.asgi import (
    HttpExchange,
    WebSocketExchange,
    authenticate_by_header,
    authorize_unless_secret,
    fetch,
    live_app,
)

CORS = {
    "access-control-allow-origin": "https://page.test",
    "access-control-allow-credentials": "true",
    "access-control-expose-headers": "x-reconnect-token",
    "vary": "origin",
}


class TestOrigins:
    """Requests of pages with another origin."""

    @pytest.fixture
    def cross_origin_app(self, broadcaster: Broadcaster) -> LiveApp:
        """Return a LiveApp that allows one foreign origin."""
        return live_app(broadcaster, allowed_origins=["https://page.test"])

    async def test_allowed_origin_gets_its_headers(self, cross_origin_app: LiveApp) -> None:
        """The page of an allowed origin may read the stream and the answers, with credentials."""
        headers = {"Origin": "https://page.test"}
        async with HttpExchange(cross_origin_app, "/stream?topics=t", headers=headers) as call:
            data = await call.first_frame_data()
            assert CORS.items() <= call.headers.items()
            body = {"connectionId": data["connectionId"], "topics": ["u"]}
            for method, path in [
                ("HEAD", "/stream"), ("GET", "/health"), ("GET", "/connection-stats"),
                ("POST", "/subscribe"), ("GET", "/nothing"), ("DELETE", "/stream"),
            ]:  # fmt: skip
                answer = await fetch(cross_origin_app, method, path, body=body, headers=headers)
                assert CORS.items() <= answer.headers.items(), (method, path, answer)

    @pytest.mark.parametrize("path", [*STREAMS, *GETS, *POSTS])
    async def test_preflight(self, cross_origin_app: LiveApp, path: str) -> None:
        """The preflight of an allowed origin is answered, and that of a foreign one is refused."""
        request_headers = {"Access-Control-Request-Method": "POST", "Origin": "https://page.test"}
        answer = await fetch(cross_origin_app, "OPTIONS", path, headers=request_headers)
        assert (answer.status, answer.body) == (204, b"")
        assert CORS.items() <= answer.headers.items()
        assert "POST" in answer.headers["access-control-allow-methods"]
        for name in ("authorization", "content-type", "last-event-id", "x-reconnect-token"):
            assert name in answer.headers["access-control-allow-headers"]
        answer = await fetch(
            cross_origin_app,
            "OPTIONS",
            path,
            headers={**request_headers, "Origin": "https://evil.test"},
        )
        assert answer.status in (403, 405)
        assert not any(name.startswith("access-control") for name in answer.headers)

    async def test_own_page_gets_no_cors_headers(self, cross_origin_app: LiveApp) -> None:
        """A request of the same origin, or without an origin, gets no CORS headers."""
        for headers in ({"Origin": "https://example.test"}, {}):
            async with HttpExchange(cross_origin_app, "/stream?topics=t", headers=headers) as call:
                await call.first_frame_data()
                assert not any(name.startswith("access-control") for name in call.headers)

    async def test_refused_origin_is_audited_without_raw_bytes(self) -> None:
        """A refused origin is escaped in the audit log."""
        events: list[AuditEvent] = []
        async with Broadcaster(audit=events.append) as broadcaster:
            origin = "https://evil.test/\r\n\x1b[31m" + "x" * 10_000
            await fetch(live_app(broadcaster), "GET", "/stream", headers={"Origin": origin})
        (event,) = [event for event in events if event.action is AuditAction.ORIGIN_REFUSED]
        assert event.detail.isprintable()
        assert len(event.detail) < 300

    def test_allowed_origins_may_not_be_a_string(self) -> None:
        """A string for `allowed_origins` raises, because it would be read as characters."""
        with pytest.raises(ConfigurationError, match="allowed_origins"):
            LiveApp(Broadcaster(), authenticate=anonymous, allowed_origins="https://page.test")

    def test_websocket_path_begins_with_a_slash(self) -> None:
        """A WebSocket path without a leading slash raises, because it would never match."""
        with pytest.raises(ConfigurationError, match="websocket_path"):
            LiveApp(Broadcaster(), authenticate=anonymous, websocket_path="ws")


class TestHooks:
    """The hooks authenticate and authorize."""

    async def test_coroutine_hooks(self, broadcaster: Broadcaster) -> None:
        """Both hooks may be coroutine functions."""

        async def authenticate(request: Request) -> User | None:
            await asyncio.sleep(1.0)
            return authenticate_by_header(request)

        async def authorize(user: User, action: Action, topic: str | None) -> bool:
            await asyncio.sleep(1.0)
            return authorize_unless_secret(user, action, topic)

        app = live_app(broadcaster, authenticate=authenticate, authorize=authorize)
        async with HttpExchange(app, "/stream?topics=t,secret", headers={"X-User": "ann"}) as call:
            data = await call.first_frame_data()
            assert (data["topics"], data["rejected"]) == (["t"], ["secret"])

    async def test_hook_that_raises_means_try_again(
        self, broadcaster: Broadcaster, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An exception in a hook is logged, and the client is asked to try again."""

        def raising(*_: Any) -> Any:
            raise RuntimeError("the database is down")

        with caplog.at_level(logging.ERROR, logger="holdfast"):
            for hook in ("authenticate", "authorize"):
                app = live_app(broadcaster, **{hook: raising})
                answer = await fetch(app, "GET", "/stream?topics=t")
                assert answer.status == 200
                assert b'"closing","data":{"reason":"failed","reconnect":true}' in answer.body
                assert b"database" not in answer.body
                assert (await fetch(app, "GET", "/connection-stats")).status == 503
                async with WebSocketExchange(app, "/websocket?topics=t") as socket:
                    await socket.wait_accepted()
                    assert await socket.wait_closed() == Reason.FAILED.close_code
        assert caplog.text.count("the database is down") >= 6

    async def test_patterns_are_refused_by_default(self, broadcaster: Broadcaster) -> None:
        """The default `authorize` allows single topics, and no patterns."""
        app = LiveApp(broadcaster, authenticate=anonymous)
        async with HttpExchange(app, "/stream?topics=a.b,a.*,**") as call:
            data = await call.first_frame_data()
            assert (data["topics"], data["rejected"]) == (["a.b"], ["**", "a.*"])

    async def test_unknown_client_opens_no_connection(self, broadcaster: Broadcaster) -> None:
        """A client that is not authenticated opens no connection and redeems no token."""
        app = live_app(broadcaster)
        async with HttpExchange(app, "/stream?topics=t") as call:
            await call.first_frame_data()
            event_id = call.decoder.last_event_id
        headers = {"Last-Event-ID": event_id, "X-User": "nobody"}
        assert (await fetch(app, "GET", "/stream?topics=t", headers=headers)).status == 401
        async with HttpExchange(
            app, "/stream?topics=t", headers={"Last-Event-ID": event_id}
        ) as call:
            assert (await call.first_frame_data())["session"] == "resumed"
