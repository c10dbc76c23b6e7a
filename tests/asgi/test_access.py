"""Who may have what: origins, and what the hooks of an application decide."""

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
    """Pages of other origins."""

    @pytest.fixture
    def shared(self, broadcaster: Broadcaster) -> LiveApp:
        """All endpoints, for one foreign origin besides."""
        return live_app(broadcaster, allowed_origins=["https://page.test"])

    async def test_allowed_origin_gets_its_headers(self, shared: LiveApp) -> None:
        """An allowed foreign page may read the stream and the answers, with credentials."""
        headers = {"Origin": "https://page.test"}
        async with HttpExchange(shared, "/stream?topics=t", headers=headers) as call:
            data = await call.first_frame_data()
            assert CORS.items() <= call.headers.items()
            body = {"connectionId": data["connectionId"], "topics": ["u"]}
            for method, path in [
                ("HEAD", "/stream"), ("GET", "/health"), ("GET", "/connection-stats"),
                ("POST", "/subscribe"), ("GET", "/nothing"), ("DELETE", "/stream"),
            ]:  # fmt: skip
                answer = await fetch(shared, method, path, body=body, headers=headers)
                assert CORS.items() <= answer.headers.items(), (method, path, answer)

    @pytest.mark.parametrize("path", [*STREAMS, *GETS, *POSTS])
    async def test_preflight(self, shared: LiveApp, path: str) -> None:
        """An allowed page's preflight is answered, a foreign one's refused; nothing is consumed."""
        asked = {"Access-Control-Request-Method": "POST", "Origin": "https://page.test"}
        answer = await fetch(shared, "OPTIONS", path, headers=asked)
        assert (answer.status, answer.body) == (204, b"")
        assert CORS.items() <= answer.headers.items()
        assert "POST" in answer.headers["access-control-allow-methods"]
        for name in ("authorization", "content-type", "last-event-id", "x-reconnect-token"):
            assert name in answer.headers["access-control-allow-headers"]
        answer = await fetch(
            shared, "OPTIONS", path, headers={**asked, "Origin": "https://evil.test"}
        )
        assert answer.status in (403, 405)
        assert not any(name.startswith("access-control") for name in answer.headers)

    async def test_own_page_gets_no_cors_headers(self, shared: LiveApp) -> None:
        """A page of the same host needs none, and a request without an origin neither."""
        for headers in ({"Origin": "https://example.test"}, {}):
            async with HttpExchange(shared, "/stream?topics=t", headers=headers) as call:
                await call.first_frame_data()
                assert not any(name.startswith("access-control") for name in call.headers)

    async def test_refused_origin_is_audited_without_raw_bytes(self) -> None:
        """What an attacker sends as an origin does not get into a log as it is."""
        events: list[AuditEvent] = []
        async with Broadcaster(audit=events.append) as broadcaster:
            origin = "https://evil.test/\r\n\x1b[31m" + "x" * 10_000
            await fetch(live_app(broadcaster), "GET", "/stream", headers={"Origin": origin})
        (event,) = [e for e in events if e.action is AuditAction.ORIGIN_REFUSED]
        assert event.detail.isprintable()
        assert len(event.detail) < 300

    def test_a_string_is_no_list_of_origins(self) -> None:
        """A string would be taken apart into characters."""
        with pytest.raises(ConfigurationError, match="allowed_origins"):
            LiveApp(Broadcaster(), authenticate=anonymous, allowed_origins="https://page.test")

    def test_websocket_path_begins_with_a_slash(self) -> None:
        """A path without one would never match."""
        with pytest.raises(ConfigurationError, match="websocket_path"):
            LiveApp(Broadcaster(), authenticate=anonymous, websocket_path="ws")


class TestHooks:
    """authenticate and authorize."""

    async def test_coroutine_hooks(self, broadcaster: Broadcaster) -> None:
        """Both hooks may wait."""

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

    async def test_hook_that_fails_has_not_answered(
        self, broadcaster: Broadcaster, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An error in a hook lets nobody in and turns nobody away for good; only the log tells."""

        def broken(*_: Any) -> Any:
            raise RuntimeError("the database is gone")

        with caplog.at_level(logging.ERROR, logger="holdfast"):
            for hook in ("authenticate", "authorize"):
                app = live_app(broadcaster, **{hook: broken})
                answer = await fetch(app, "GET", "/stream?topics=t")
                assert answer.status == 200
                assert b'"closing","data":{"reason":"failed","reconnect":true}' in answer.body
                assert b"database" not in answer.body
                assert (await fetch(app, "GET", "/connection-stats")).status == 503
                async with WebSocketExchange(app, "/websocket?topics=t") as socket:
                    await socket.wait_accepted()
                    assert await socket.wait_closed() == Reason.FAILED.close_code
        assert caplog.text.count("the database is gone") >= 6

    async def test_pattern_is_a_right_of_its_own(self, broadcaster: Broadcaster) -> None:
        """By default single topics may be seen, patterns may not."""
        app = LiveApp(broadcaster, authenticate=anonymous)
        async with HttpExchange(app, "/stream?topics=a.b,a.*,**") as call:
            data = await call.first_frame_data()
            assert (data["topics"], data["rejected"]) == (["a.b"], ["**", "a.*"])

    async def test_authenticated_before_anything_is_opened(self, broadcaster: Broadcaster) -> None:
        """An unknown client opens no connection and uses up no token."""
        app = live_app(broadcaster)
        async with HttpExchange(app, "/stream?topics=t") as call:
            await call.first_frame_data()
            at = call.decoder.last_event_id
        headers = {"Last-Event-ID": at, "X-User": "nobody"}
        assert (await fetch(app, "GET", "/stream?topics=t", headers=headers)).status == 401
        async with HttpExchange(app, "/stream?topics=t", headers={"Last-Event-ID": at}) as call:
            assert (await call.first_frame_data())["session"] == "resumed"
