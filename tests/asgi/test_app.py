"""LiveApp: every endpoint, every method, and what each refuses."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import (
    AuditAction,
    AuditEvent,
    Broadcaster,
    CloseReason,
    ConfigurationError,
    NotRunning,
)
from holdfast.asgi import LiveApp
from holdfast.asgi import http as http_module
from holdfast.auth import Action, Request, User, anonymous
from holdfast.runtime.lifecycle import BroadcasterState
from tests.support.asgi import Conversation, Http, Socket, fetch, scope
from tests.support.brokers import LateBroker
from tests.support.virtual import settle, wall_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STREAMS = ["/stream", "/reconnect"]
GETS = ["/health", "/connection-stats", "/websocket-stats", "/websocket-info"]
POSTS = ["/subscribe", "/unsubscribe", "/ack", "/test-connection"]
CORS = {
    "access-control-allow-origin": "https://page.test",
    "access-control-allow-credentials": "true",
    "access-control-expose-headers": "x-reconnect-token",
    "vary": "origin",
}


def by_name(request: Request) -> User | None:
    """Whoever says a name has it; "nobody" is refused."""
    name = request.headers.get("x-user")
    return None if name == "nobody" else User(id=name)


def everything(user: User, action: Action, topic: str | None) -> bool:
    """Everything, but what is secret."""
    return topic is None or not topic.startswith("secret")


def live(broadcaster: Broadcaster, **options: Any) -> LiveApp:
    """All endpoints, for everybody who says a name."""
    options = {"authenticate": by_name, "authorize": everything, **options}
    return LiveApp(broadcaster, drain_at_signal=False, **options)


@pytest.fixture
async def broadcaster() -> AsyncIterator[Broadcaster]:
    """A running broadcaster."""
    async with Broadcaster() as made:
        yield made


@pytest.fixture
def app(broadcaster: Broadcaster) -> LiveApp:
    """All endpoints."""
    return live(broadcaster)


async def open_stream(call: Http) -> dict[str, Any]:
    """The first frame of an event stream."""
    assert await call.start() == 200
    frame = await call.frame()
    assert frame["type"] == "connection_established"
    return dict(frame["data"])


class TestStreams:
    """GET /stream and /reconnect."""

    @pytest.mark.parametrize("path", STREAMS)
    @pytest.mark.parametrize(
        ("query", "topics"),
        [
            ("topics=a,b", ["a", "b"]),
            ("metrics=a,b", ["a", "b"]),
            ("topics=a&metrics=b", ["a"]),
            ("topics=,a,,b,", ["a", "b"]),
            ("topics=%61", ["a"]),
            ("topics=%C3%A9", ["é"]),
            ("topics=a.*", ["a.*"]),
            ("topics=", []),
            ("", []),
        ],
    )
    async def test_topics(self, app: LiveApp, path: str, query: str, topics: list[str]) -> None:
        """The topics of the query are subscribed; `metrics` is an alias."""
        async with Http(app, f"{path}?{query}") as call:
            assert (await open_stream(call))["topics"] == topics

    async def test_where_a_position_may_come_from(
        self, app: LiveApp, broadcaster: Broadcaster
    ) -> None:
        """The header counts before the query; header token before query token."""
        async with Http(app, "/stream?topics=t") as call:
            await open_stream(call)
            at = call.decoder.last_event_id
        await broadcaster.publish("t", 1)
        epoch, _, token = at.split("~")
        bad = f"{epoch}~0~{'A' * 22}"
        for path, headers, session in [
            (f"/stream?topics=t&last_event_id={bad}", {"Last-Event-ID": at}, "resumed"),
            (f"/reconnect?last_event_id={at}", {}, "resumed"),
            (f"/reconnect?token={token}", {}, "gap"),
            ("/reconnect", {"X-Reconnect-Token": token}, "gap"),
            (f"/reconnect?last_event_id={at}", {"Last-Event-ID": bad}, "gap"),
            (f"/reconnect?token={'A' * 22}", {"X-Reconnect-Token": token}, "gap"),
            (f"/stream?topics=t&token={'A' * 22}", {"Last-Event-ID": at}, "resumed"),
            ("/reconnect", {"Last-Event-ID": ""}, "fresh"),
            ("/stream?topics=t&last_event_id=&token=", {}, "fresh"),
        ]:
            async with Http(app, path, headers=headers) as call:
                data = await open_stream(call)
                assert data["session"] == session, (path, headers)
                if session == "resumed":
                    assert (await call.frame())["data"] == 1
                    at = f"{call.decoder.last_event_id.split('~')[0]}~0~{data['reconnectToken']}"
                    token = data["reconnectToken"]

    @pytest.mark.parametrize(
        "text",
        ["0", "-1", "+5", "1_000", "x" * 500, "%00", "../../etc", "é", "\xff\xfe", "~~", "null",
         "٥".encode().decode("latin-1"), "A" * 60_000],
        ids=lambda text: ascii(text)[:20],
    )  # fmt: skip
    async def test_bad_cursor_is_never_an_http_error(self, app: LiveApp, text: str) -> None:
        """A browser's EventSource would give up for good: so it is 200, and declared."""
        for headers in ({"Last-Event-ID": text}, {"X-Reconnect-Token": text}):
            async with Http(app, "/stream?topics=t", headers=headers) as call:
                data = await open_stream(call)
                assert data["session"] == "gap"
                assert data["gap"]["cause"] == "unknown"

    @pytest.mark.parametrize("path", STREAMS)
    async def test_head_consumes_nothing(self, app: LiveApp, path: str) -> None:
        """HEAD answers the headers and ends, and leaves connection and token alone."""
        async with Http(app, "/stream?topics=t") as call:
            await open_stream(call)
            at = call.decoder.last_event_id
            answer = await fetch(app, "HEAD", f"{path}?topics=t", headers={"Last-Event-ID": at})
            assert (answer.status, answer.body) == (200, b"")
            assert answer.headers["content-type"] == "text/event-stream"
            assert "x-reconnect-token" not in answer.headers
            await settle()
            assert not call.task.done(), "the connection was not taken over"

    @pytest.mark.parametrize(
        "header", [{"Sec-Purpose": "prefetch"}, {"Purpose": "prefetch"}, {"X-Moz": "prefetch"}]
    )
    async def test_prefetch_consumes_nothing(self, app: LiveApp, header: dict[str, str]) -> None:
        """A browser that only looks ahead does not use up a token."""
        async with Http(app, "/stream?topics=t") as call:
            await open_stream(call)
            at = call.decoder.last_event_id
        await fetch(app, "GET", "/stream?topics=t", headers={"Last-Event-ID": at, **header})
        async with Http(app, "/stream?topics=t", headers={"Last-Event-ID": at}) as call:
            assert (await open_stream(call))["session"] == "resumed"

    @pytest.mark.parametrize(
        ("accept", "status"),
        [
            ("text/event-stream", 200), ("*/*", 200), ("text/*", 200), ("", 200),
            ("TEXT/Event-Stream; q=0.5", 200), ("text/html, text/event-stream", 200),
            ("application/json", 406), ("text/html,application/xml;q=0.9", 406),
            ("text/plain", 406), ("nonsense", 406),
        ],
    )  # fmt: skip
    async def test_accept(self, app: LiveApp, accept: str, status: int) -> None:
        """Whoever takes no event stream is told so."""
        async with Http(app, "/stream?topics=t", headers={"Accept": accept}) as call:
            assert await call.start() == status

    async def test_refusals(self, broadcaster: Broadcaster, app: LiveApp) -> None:
        """Bad topics are 400, unknown clients 401, foreign pages 403; all as JSON errors."""
        for path, headers, status, code in [
            ("/stream?topics=a%20b", {}, 400, "invalid_topic"),
            ("/stream?topics=$user", {}, 400, "invalid_topic"),
            ("/stream?topics=" + ",".join(f"t{n}" for n in range(201)), {}, 400, "too_many_topics"),
            ("/stream?topics=" + "x" * 70_000, {}, 400, "invalid_query"),
            ("/stream?topics=%00", {}, 400, "invalid_topic"),
            ("/stream?topics=t", {"X-User": "nobody"}, 401, "unauthorized"),
            ("/stream?topics=t", {"Origin": "https://evil.test"}, 403, "foreign_origin"),
            ("/stream?topics=t", {"Origin": "null"}, 403, "foreign_origin"),
        ]:
            answer = await fetch(app, "GET", path, headers=headers)
            assert (answer.status, answer.json()["error"]["code"]) == (status, code)
            assert answer.headers["content-type"] == "application/json"
        assert broadcaster.statistics().opened == 0

    async def test_rejected_topic_is_no_error(self, app: LiveApp) -> None:
        """Topics that the hook refuses are named, the others work."""
        async with Http(app, "/stream?topics=secret,open") as call:
            data = await open_stream(call)
            assert (data["topics"], data["rejected"]) == (["open"], ["secret"])

    async def test_no_room_and_no_future_mean_come_back_later(self) -> None:
        """A 503 would end an EventSource for good: a stream that ends at once, with a delay."""
        async with Broadcaster(max_connections=1) as broadcaster:
            app = live(broadcaster)
            async with Http(app, "/stream?topics=t") as first:
                await open_stream(first)
                for reason in ("over capacity", "drain"):
                    async with Http(app, "/stream?topics=t") as call:
                        assert await call.start() == 200
                        assert call.headers["content-type"] == "text/event-stream"
                        frame = await call.frame()
                        assert frame["data"] == {"reason": reason, "reconnect": True}
                        assert await call.event() is None
                        assert 2000 <= (call.decoder.retry or 0) <= 10_000
                        assert call.decoder.last_event_id == "", "no id: the client keeps its own"
                    broadcaster.begin_drain()

    async def test_failed_broadcaster_means_come_back_later(self) -> None:
        """When a task has died, streams are answered the same way, and health says so."""
        broker = LateBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            app = live(broadcaster)
            await broker.die(ConnectionError())
            await settle()
            assert (await fetch(app, "GET", "/health")).status == 503
            async with Http(app, "/stream?topics=t") as call:
                assert await call.start() == 200
                assert (await call.frame())["data"] == {"reason": "failed", "reconnect": True}

    async def test_disabled(self, broadcaster: Broadcaster) -> None:
        """When switched off, 204: an EventSource does not come back."""
        app = live(broadcaster, enabled=False)
        for path in STREAMS:
            for method in ("GET", "HEAD"):
                answer = await fetch(app, method, f"{path}?topics=t")
                assert (answer.status, answer.body) == (204, b"")
                assert "content-length" not in answer.headers

    async def test_credentials_that_expire_end_the_stream(self) -> None:
        """A stream does not outlive the credentials that opened it."""
        until = wall_clock() + 60.0
        async with Broadcaster(clock=wall_clock) as broadcaster:
            app = live(broadcaster, authenticate=lambda request: User(id="ann", expires_at=until))
            async with Http(app, "/stream?topics=t") as call:
                await open_stream(call)
                while (frame := await call.frame())["type"] != "closing":
                    pass
                assert frame["data"] == {"reason": "credentials expired", "reconnect": False}
                assert await call.event() is None
                assert until <= wall_clock() <= until + 1.0
            assert (await fetch(app, "GET", "/stream?topics=t")).status == 401


class TestMethods:
    """What each path takes."""

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
    @pytest.mark.parametrize("path", [*STREAMS, *GETS])
    async def test_only_get_and_head(self, app: LiveApp, path: str, method: str) -> None:
        """Anything else is 405 and says what is allowed."""
        answer = await fetch(app, method, f"{path}?topics=t")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.json()["error"]["code"] == "method_not_allowed"

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
    @pytest.mark.parametrize("path", POSTS)
    async def test_only_post(self, app: LiveApp, path: str, method: str) -> None:
        """The same where something is changed."""
        answer = await fetch(app, method, path)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert (answer.body == b"") == (method == "HEAD")

    @pytest.mark.parametrize(
        "path", ["/", "", "/nothing", "/stream/x", "/Stream", "//stream", "/%"]
    )
    async def test_not_found(self, app: LiveApp, path: str) -> None:
        """Elsewhere there is nothing."""
        for method in ("GET", "POST"):
            answer = await fetch(app, method, path)
            assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")

    @pytest.mark.parametrize("path", GETS)
    async def test_head_is_get_without_its_body(self, app: LiveApp, path: str) -> None:
        """HEAD has the headers of GET."""
        get, head = await fetch(app, "GET", path), await fetch(app, "HEAD", path)
        assert head.status == get.status == 200
        assert head.body == b""
        assert set(head.headers) == set(get.headers)
        assert get.headers["content-length"] == str(len(get.body))
        assert get.headers["cache-control"] == "no-store"


class TestCommands:
    """POST /subscribe, /unsubscribe, /ack, /test-connection."""

    async def test_subscribe_and_unsubscribe(self, app: LiveApp, broadcaster: Broadcaster) -> None:
        """A live connection's topics change, and the stream shows it."""
        async with Http(app, "/stream?topics=t", headers={"X-User": "ann"}) as call:
            id = (await open_stream(call))["connectionId"]

            async def post(path: str, **body: Any) -> Any:
                body = {"connectionId": id, **body}
                return await fetch(app, "POST", path, body=body, headers={"X-User": "ann"})

            answer = await post("/subscribe", topics=["u", "secret"])
            assert (answer.status, answer.json()) == (
                200,
                {"topics": ["u"], "rejected": ["secret"]},
            )
            assert (await post("/unsubscribe", metrics=["t"])).json() == {"topics": ["t"]}
            await broadcaster.publish("t", "no")
            await broadcaster.publish("u", "yes")
            while (frame := await call.frame())["type"] != "message":
                pass
            assert frame["data"] == "yes"

    async def test_ack(self, app: LiveApp, broadcaster: Broadcaster) -> None:
        """An ack by POST sets the resume point; a wrong one is answered, and changes nothing."""
        async with Http(app, "/stream?topics=t") as call:
            data = await open_stream(call)
            await broadcaster.publish("t", 1)
            await call.frame()
            at = call.decoder.last_event_id
            await broadcaster.publish("t", 2)
            await call.frame()
            for text, taken in ((at, True), ("nonsense", False), (at.replace("~1~", "~9~"), False)):
                body = {"connectionId": data["connectionId"], "id": text}
                answer = await fetch(app, "POST", "/ack", body=body)
                assert (answer.status, answer.json()) == (200, {"acknowledged": taken})
        async with Http(app, f"/reconnect?token={data['reconnectToken']}") as call:
            resumed = await open_stream(call)
            assert (resumed["session"], resumed["replay"]) == ("resumed", 1)

    async def test_probe(self, app: LiveApp) -> None:
        """The probe arrives on the connection, and the answer says how soon."""
        async with Http(app, "/stream?topics=t") as call:
            id = (await open_stream(call))["connectionId"]
            answer = await fetch(app, "POST", "/test-connection", body={"connectionId": id})
            assert answer.status == 200
            assert answer.json()["handedOver"] is True
            assert answer.json()["transport"] == "sse"
            assert 0.0 <= answer.json()["seconds"] < 1.0
            assert (await call.frame())["type"] == "test"

    async def test_probe_of_a_blocked_connection(self, broadcaster: Broadcaster) -> None:
        """A probe that the server does not take is reported so, within its time."""
        app = live(broadcaster)
        async with broadcaster.connect(topics=["t"]) as outbox:
            await outbox.next()
            answer = await fetch(
                app, "POST", "/test-connection", body={"connectionId": outbox.connection.id}
            )
            assert answer.json() == {"handedOver": False, "seconds": None, "transport": "custom"}

    @pytest.mark.parametrize("path", POSTS)
    async def test_others_connections_look_like_none(
        self, app: LiveApp, broadcaster: Broadcaster, path: str
    ) -> None:
        """Somebody else's connection, and one that does not exist, are answered alike."""
        async with Http(app, "/stream?topics=t", headers={"X-User": "ann"}) as call:
            id = (await open_stream(call))["connectionId"]
            answers = []
            wrong: list[Any] = [id, "x", "", "A" * 22, None, 5, [], {}, "\ud800"]
            for asked in wrong:
                body = {"connectionId": asked, "topics": ["t"], "id": "x"}
                answer = await fetch(app, "POST", path, body=body, headers={"X-User": "bob"})
                answers.append((answer.status, answer.body, sorted(answer.headers)))
            assert answers == [answers[0]] * len(answers)
            assert answers[0][0] == 404
            await broadcaster.publish("t", 1)
            assert (await call.frame())["data"] == 1

    @pytest.mark.parametrize("path", POSTS)
    @pytest.mark.parametrize(
        ("content", "status", "code"),
        [
            (b"", 404, "no_connection"),
            (b"{}", 404, "no_connection"),
            (b"{", 400, "not_json"),
            (b"[]", 400, "not_json"),
            (b"null", 400, "not_json"),
            (b"\xff", 400, "not_json"),
            (b"\0", 400, "not_json"),
            (b"[" * 60_000, 400, "not_json"),
            (b"9" * 5000, 400, "not_json"),
            (b'"' + b"x" * 65_536 + b'"', 413, "too_large"),
        ],
        ids=lambda value: str(value)[:20],
    )
    async def test_bad_bodies(
        self, app: LiveApp, path: str, content: bytes, status: int, code: str
    ) -> None:
        """A body that is no JSON object, or too large, is refused."""
        async with Http(app, path, method="POST", body=content) as call:
            answer = await call.whole()
        assert (answer.status, answer.json()["error"]["code"]) == (status, code)

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({}, "invalid_message"), ({"topics": []}, "invalid_message"),
            ({"topics": [1]}, "invalid_message"), ({"topics": {"a": 1}}, "invalid_message"),
            ({"topics": ["a b"]}, "invalid_topic"), ({"topics": ["\ud800"]}, "invalid_topic"),
            ({"topics": [f"t{n}" for n in range(300)]}, "too_many_topics"),
        ],
    )  # fmt: skip
    async def test_bad_topics(self, app: LiveApp, body: dict[str, Any], code: str) -> None:
        """Topics that are none change nothing."""
        async with Http(app, "/stream?topics=t") as call:
            id = (await open_stream(call))["connectionId"]
            answer = await fetch(app, "POST", "/subscribe", body={"connectionId": id, **body})
            assert (answer.status, answer.json()["error"]["code"]) == (400, code)

    async def test_body_in_pieces(self, app: LiveApp) -> None:
        """A body may come in many pieces."""
        async with Http(app, "/stream?topics=t") as stream:
            id = (await open_stream(stream))["connectionId"]
            content = json.dumps({"connectionId": id, "topics": ["u"]}).encode()
            call = Http(app, "/subscribe", method="POST")
            call.to_app.get_nowait()
            async with call:
                for at in range(len(content)):
                    piece = content[at : at + 1]
                    call.to_app.put_nowait(
                        {"type": "http.request", "body": piece, "more_body": at + 1 < len(content)}
                    )
                assert (await call.whole()).status == 200

    async def test_body_that_never_ends(self, app: LiveApp) -> None:
        """A body that does not come is given up, and so is one that comes for ever."""
        call = Http(app, "/subscribe", method="POST")
        call.to_app.get_nowait()
        call.to_app.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        async with call:
            answer = await call.whole()
            assert answer.status == 408
        assert asyncio.get_running_loop().time() == pytest.approx(http_module.BODY_TIMEOUT, abs=0.1)
        call = Http(app, "/subscribe", method="POST")
        call.to_app.get_nowait()
        async with call:
            for _ in range(100):
                call.to_app.put_nowait(
                    {"type": "http.request", "body": b" " * 1000, "more_body": True}
                )
            assert (await call.whole()).status == 413

    async def test_client_that_leaves_while_sending(self, app: LiveApp) -> None:
        """A client that is gone before its body was whole gets no answer, and causes no error."""
        call = Http(app, "/subscribe", method="POST")
        call.to_app.get_nowait()
        call.to_app.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        call.leave()
        async with call:
            await call.ended()
            assert call.from_app.empty()

    @pytest.mark.parametrize("path", POSTS)
    async def test_who_may_post(self, app: LiveApp, path: str) -> None:
        """Unknown clients are 401, pages of foreign origins 403, before the body is looked at."""
        async with Http(app, path, method="POST", body=b"{", headers={"X-User": "nobody"}) as call:
            assert (await call.whole()).status == 401
        async with Http(app, path, method="POST", headers={"Origin": "https://evil.test"}) as call:
            assert (await call.whole()).status == 403


class TestReports:
    """Health, statistics, configuration."""

    async def test_health_needs_nobody(self, broadcaster: Broadcaster) -> None:
        """Health is open, and says whether connections are served."""
        app = live(broadcaster, authenticate=lambda request: None)
        answer = await fetch(app, "GET", "/health")
        assert (answer.status, answer.json()) == (200, {"status": "ok"})
        broadcaster.begin_drain()
        answer = await fetch(app, "GET", "/health")
        assert (answer.status, answer.json()) == (503, {"status": "draining"})

    async def test_statistics_are_guarded(self, broadcaster: Broadcaster) -> None:
        """Who is connected is for those who may read it; by default nobody may."""
        for options, status in (
            ({"authorize": everything}, 200),
            ({"authorize": lambda user, action, topic: False}, 403),
            ({"authenticate": lambda request: None}, 401),
        ):
            app = live(broadcaster, **options)
            for path in ("/connection-stats", "/websocket-stats"):
                assert (await fetch(app, "GET", path)).status == status
        plain = LiveApp(broadcaster, authenticate=anonymous, drain_at_signal=False)
        assert (await fetch(plain, "GET", "/connection-stats")).status == 403

    async def test_statistics(self, app: LiveApp) -> None:
        """Both reports have the counts; the second only the WebSocket connections; no tokens."""
        async with (
            Http(app, "/stream?topics=t", headers={"X-User": "ann"}) as stream,
            Socket(app, "/websocket?topics=t") as socket,
        ):
            data = await open_stream(stream)
            await socket.accepted()
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
        info = (await fetch(live(broadcaster), "GET", "/websocket-info")).json()
        assert (info["enabled"], info["path"], info["heartbeatInterval"]) == (
            True, "/websocket", 30.0,
        )  # fmt: skip
        info = (
            await fetch(live(broadcaster, websocket_path=None), "GET", "/websocket-info")
        ).json()
        assert (info["enabled"], info["path"]) == (False, None)


class TestOrigins:
    """Pages of other origins."""

    @pytest.fixture
    def shared(self, broadcaster: Broadcaster) -> LiveApp:
        """All endpoints, for one foreign origin besides."""
        return live(broadcaster, allowed_origins=["https://page.test"])

    async def test_allowed_origin_gets_its_headers(self, shared: LiveApp) -> None:
        """An allowed foreign page may read the stream and the answers, with credentials."""
        headers = {"Origin": "https://page.test"}
        async with Http(shared, "/stream?topics=t", headers=headers) as call:
            data = await open_stream(call)
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
            async with Http(shared, "/stream?topics=t", headers=headers) as call:
                await open_stream(call)
                assert not any(name.startswith("access-control") for name in call.headers)

    async def test_refused_origin_is_audited_without_raw_bytes(self) -> None:
        """What an attacker sends as an origin does not get into a log as it is."""
        events: list[AuditEvent] = []
        async with Broadcaster(audit=events.append) as broadcaster:
            origin = "https://evil.test/\r\n\x1b[31m" + "x" * 10_000
            await fetch(live(broadcaster), "GET", "/stream", headers={"Origin": origin})
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
            return by_name(request)

        async def authorize(user: User, action: Action, topic: str | None) -> bool:
            await asyncio.sleep(1.0)
            return everything(user, action, topic)

        app = live(broadcaster, authenticate=authenticate, authorize=authorize)
        async with Http(app, "/stream?topics=t,secret", headers={"X-User": "ann"}) as call:
            data = await open_stream(call)
            assert (data["topics"], data["rejected"]) == (["t"], ["secret"])

    async def test_hook_that_fails_has_not_answered(
        self, broadcaster: Broadcaster, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An error in a hook lets nobody in and turns nobody away for good; only the log tells."""

        def broken(*_: Any) -> Any:
            raise RuntimeError("the database is gone")

        with caplog.at_level(logging.ERROR, logger="holdfast"):
            for hook in ("authenticate", "authorize"):
                app = live(broadcaster, **{hook: broken})
                answer = await fetch(app, "GET", "/stream?topics=t")
                assert answer.status == 200
                assert b'"closing","data":{"reason":"failed","reconnect":true}' in answer.body
                assert b"database" not in answer.body
                assert (await fetch(app, "GET", "/connection-stats")).status == 503
                async with Socket(app, "/websocket?topics=t") as socket:
                    await socket.accepted()
                    assert await socket.closed() == CloseReason.FAILED.code
        assert caplog.text.count("the database is gone") >= 6

    async def test_pattern_is_a_right_of_its_own(self, broadcaster: Broadcaster) -> None:
        """By default single topics may be seen, patterns may not."""
        app = LiveApp(broadcaster, authenticate=anonymous, drain_at_signal=False)
        async with Http(app, "/stream?topics=a.b,a.*,**") as call:
            data = await open_stream(call)
            assert (data["topics"], data["rejected"]) == (["a.b"], ["**", "a.*"])

    async def test_authenticated_before_anything_is_opened(self, broadcaster: Broadcaster) -> None:
        """An unknown client opens no connection and uses up no token."""
        app = live(broadcaster)
        async with Http(app, "/stream?topics=t") as call:
            await open_stream(call)
            at = call.decoder.last_event_id
        headers = {"Last-Event-ID": at, "X-User": "nobody"}
        assert (await fetch(app, "GET", "/stream?topics=t", headers=headers)).status == 401
        async with Http(app, "/stream?topics=t", headers={"Last-Event-ID": at}) as call:
            assert (await open_stream(call))["session"] == "resumed"


class TestLifespan:
    """Served directly, it runs the broadcaster."""

    async def test_startup_and_shutdown(self) -> None:
        """Between startup and shutdown the broadcaster runs."""
        broadcaster = Broadcaster()
        app = live(broadcaster)
        async with Conversation(app, {"type": "lifespan"}) as lifespan:
            lifespan.to_app.put_nowait({"type": "lifespan.startup"})
            assert (await lifespan.receive())["type"] == "lifespan.startup.complete"
            assert broadcaster.statistics().state == "running"
            async with Http(app, "/stream?topics=t") as call:
                await open_stream(call)
            lifespan.leave()
            assert (await lifespan.receive())["type"] == "lifespan.shutdown.complete"
        assert broadcaster.state is BroadcasterState.CLOSED

    async def test_startup_that_fails_says_why(self) -> None:
        """If the broker cannot be reached, the server is told, with the reason."""

        class Unreachable(LateBroker):
            async def start(self) -> None:
                raise ConnectionError("no route to the broker")

        lifespan = Conversation(live(Broadcaster(broker=Unreachable())), {"type": "lifespan"})
        with pytest.raises(ConnectionError):
            async with lifespan:
                lifespan.to_app.put_nowait({"type": "lifespan.startup"})
                message = await lifespan.receive()
                assert message["type"] == "lifespan.startup.failed"
                assert "no route" in message["message"]
                await lifespan.ended()

    @pytest.mark.parametrize("path", ["/stream?topics=t", "/connection-stats", "/health"])
    async def test_used_while_not_running(self, path: str) -> None:
        """Without lifespan a request says what is missing, to the server's log; health is 503."""
        app = live(Broadcaster())
        if path == "/health":
            assert (await fetch(app, "GET", path)).json() == {"status": "new"}
            return
        call = Http(app, path)
        if path == "/connection-stats":
            async with call:
                assert (await call.whole()).status == 200
            return
        with pytest.raises(NotRunning, match="lifespan"):
            async with call:
                await call.whole()
        assert call.status == 503

    async def test_unknown_kind_of_scope(self, app: LiveApp) -> None:
        """A scope of a kind that did not exist when this was written is left alone."""
        async with Conversation(app, scope("http", "/") | {"type": "webtransport"}) as call:
            await call.ended()


class TestMounted:
    """Below a prefix, as different frameworks say it (measured: see the table in the docs)."""

    @pytest.mark.parametrize(
        ("path", "root"),
        [
            ("/stream", ""),
            ("/stream/", ""),
            ("/rt/stream", "/rt"),
            ("/rt/stream/", "/rt"),
            ("/stream", "/rt"),
            ("/stream/", "/a/b"),
            ("/a/b/stream", "/a/b"),
            ("/stream", "/s"),
            ("/stream", "/stream-api"),
            ("/s/stream", "/s"),
        ],
    )
    async def test_prefixes(self, app: LiveApp, path: str, root: str) -> None:
        """The prefix left in the path, cut off, or with a slash behind: the endpoint is found."""
        async with Http(app, f"{path}?topics=t", root_path=root) as call:
            await open_stream(call)
        socket_path = path.replace("stream", "websocket", 1)
        if "stream" not in root:
            async with Socket(app, f"{socket_path}?topics=t", root_path=root) as socket:
                await socket.accepted()

    @pytest.mark.parametrize("framework", ["starlette", "fastapi"])
    async def test_frameworks(self, broadcaster: Broadcaster, framework: str) -> None:
        """Mounted in a framework, stream, commands and WebSocket are below the prefix."""
        if framework == "starlette":
            from starlette.applications import Starlette
            from starlette.routing import Mount

            outer: Any = Starlette(routes=[Mount("/rt", app=live(broadcaster))])
        else:
            from fastapi import FastAPI

            outer = FastAPI()
            outer.mount("/rt", live(broadcaster))
        async with Http(outer, "/rt/stream?topics=t") as call:
            id = (await open_stream(call))["connectionId"]
            body = {"connectionId": id, "topics": ["u"]}
            assert (await fetch(outer, "POST", "/rt/subscribe", body=body)).status == 200
            await broadcaster.publish("u", 1)
            while (frame := await call.frame())["type"] != "message":
                pass
            assert frame["data"] == 1
        async with Socket(outer, "/rt/websocket?topics=t") as socket:
            await socket.accepted()
            assert (await socket.frame())["type"] == "connection_established"
        assert (await fetch(outer, "GET", "/rt/nothing")).status == 404
        await settle()
        assert broadcaster.statistics().connections == 0

    async def test_behind_a_middleware_of_the_framework(self, broadcaster: Broadcaster) -> None:
        """Compression leaves the stream alone, and a base-class middleware hides no disconnect."""
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.base import BaseHTTPMiddleware
        from starlette.middleware.gzip import GZipMiddleware
        from starlette.routing import Mount

        async def passing(request: Any, call_next: Any) -> Any:
            return await call_next(request)

        outer: Any = Starlette(
            routes=[Mount("/", app=live(broadcaster))],
            middleware=[
                Middleware(GZipMiddleware, minimum_size=1),
                Middleware(BaseHTTPMiddleware, dispatch=passing),
            ],
        )
        headers = {"Accept-Encoding": "gzip"}
        async with Http(outer, "/stream?topics=t", headers=headers) as call:
            await open_stream(call)
            assert "content-encoding" not in call.headers
            call.leave()
            await asyncio.wait_for(call.ended(), 5.0)
        await settle()
        assert broadcaster.statistics().connections == 0
