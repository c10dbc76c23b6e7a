"""GET /stream and /reconnect: the parameters, and the refusals."""

from __future__ import annotations

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth import User
from tests.asgi.paths import STREAMS
from tests.support.asgi import HttpExchange, fetch, live_app
from tests.support.delayed_broker import DelayedBroker
from tests.support.virtual_loop import run_ready, wall_clock


class TestStreams:
    """The event stream."""

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
        async with HttpExchange(app, f"{path}?{query}") as call:
            assert (await call.first_frame_data())["topics"] == topics

    async def test_sources_of_a_position(self, app: LiveApp, broadcaster: Broadcaster) -> None:
        """The header precedes the query, for the event id and the reconnect token."""
        async with HttpExchange(app, "/stream?topics=t") as call:
            await call.first_frame_data()
            event_id = call.decoder.last_event_id
        await broadcaster.publish("t", 1)
        epoch, _, token = event_id.split("~")
        invalid = f"{epoch}~0~{'A' * 22}"
        for path, headers, session in [
            (f"/stream?topics=t&last_event_id={invalid}", {"Last-Event-ID": event_id}, "resumed"),
            (f"/reconnect?last_event_id={event_id}", {}, "resumed"),
            (f"/reconnect?reconnect_token={token}", {}, "gap"),
            ("/reconnect", {"X-Reconnect-Token": token}, "gap"),
            (f"/reconnect?last_event_id={event_id}", {"Last-Event-ID": invalid}, "gap"),
            (f"/reconnect?reconnect_token={'A' * 22}", {"X-Reconnect-Token": token}, "gap"),
            (
                f"/stream?topics=t&reconnect_token={'A' * 22}",
                {"Last-Event-ID": event_id},
                "resumed",
            ),
            ("/reconnect", {"Last-Event-ID": ""}, "fresh"),
            ("/stream?topics=t&last_event_id=&reconnect_token=", {}, "fresh"),
        ]:
            async with HttpExchange(app, path, headers=headers) as call:
                data = await call.first_frame_data()
                assert data["session"] == session, (path, headers)
                if session == "resumed":
                    assert (await call.frame())["data"] == 1
                    event_id = (
                        f"{call.decoder.last_event_id.split('~')[0]}~0~{data['reconnectToken']}"
                    )
                    token = data["reconnectToken"]

    @pytest.mark.parametrize(
        "text",
        ["0", "-1", "+5", "1_000", "x" * 500, "%00", "../../etc", "é", "\xff\xfe", "~~", "null",
         "٥".encode().decode("latin-1"), "A" * 60_000],
        ids=lambda text: ascii(text)[:20],
    )  # fmt: skip
    async def test_invalid_position_gets_200(self, app: LiveApp, text: str) -> None:
        """An invalid position gets 200 and a gap, because an HTTP error ends an EventSource."""
        for headers in ({"Last-Event-ID": text}, {"X-Reconnect-Token": text}):
            async with HttpExchange(app, "/stream?topics=t", headers=headers) as call:
                data = await call.first_frame_data()
                assert data["session"] == "gap"
                assert data["gap"]["cause"] == "unknown"

    @pytest.mark.parametrize("path", STREAMS)
    async def test_head_consumes_nothing(self, app: LiveApp, path: str) -> None:
        """HEAD gets the headers, and opens no connection and redeems no token."""
        async with HttpExchange(app, "/stream?topics=t") as call:
            await call.first_frame_data()
            event_id = call.decoder.last_event_id
            answer = await fetch(
                app, "HEAD", f"{path}?topics=t", headers={"Last-Event-ID": event_id}
            )
            assert (answer.status, answer.body) == (200, b"")
            assert answer.headers["content-type"] == "text/event-stream"
            assert "x-reconnect-token" not in answer.headers
            await run_ready()
            assert not call.task.done(), "the connection was not taken over"

    @pytest.mark.parametrize(
        "header", [{"Sec-Purpose": "prefetch"}, {"Purpose": "prefetch"}, {"X-Moz": "prefetch"}]
    )
    async def test_prefetch_consumes_nothing(self, app: LiveApp, header: dict[str, str]) -> None:
        """A prefetch of a browser redeems no token."""
        async with HttpExchange(app, "/stream?topics=t") as call:
            await call.first_frame_data()
            event_id = call.decoder.last_event_id
        await fetch(app, "GET", "/stream?topics=t", headers={"Last-Event-ID": event_id, **header})
        async with HttpExchange(
            app, "/stream?topics=t", headers={"Last-Event-ID": event_id}
        ) as call:
            assert (await call.first_frame_data())["session"] == "resumed"

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
        """A client that does not accept event streams gets 406."""
        async with HttpExchange(app, "/stream?topics=t", headers={"Accept": accept}) as call:
            assert await call.read_head() == status

    async def test_refusals(self, broadcaster: Broadcaster, app: LiveApp) -> None:
        """Bad topics get 400, unknown clients 401, foreign origins 403, all as JSON errors."""
        for path, headers, status, word in [
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
            assert (answer.status, answer.json()["error"]["code"]) == (status, word)
            assert answer.headers["content-type"] == "application/json"
        assert broadcaster.statistics().opened == 0

    async def test_rejected_topic_is_named(self, app: LiveApp) -> None:
        """A topic that the hook refuses is named, and the other topics are subscribed."""
        async with HttpExchange(app, "/stream?topics=secret,open") as call:
            data = await call.first_frame_data()
            assert (data["topics"], data["rejected"]) == (["open"], ["secret"])

    async def test_refusal_for_a_time_is_a_stream_that_ends(self) -> None:
        """Over capacity or in a drain, a stream ends at once with a retry time, not by a 503."""
        async with Broadcaster(max_connections=1) as broadcaster:
            app = live_app(broadcaster)
            async with HttpExchange(app, "/stream?topics=t") as first:
                await first.first_frame_data()
                for reason in ("over_capacity", "drain"):
                    async with HttpExchange(app, "/stream?topics=t") as call:
                        assert await call.read_head() == 200
                        assert call.headers["content-type"] == "text/event-stream"
                        frame = await call.frame()
                        assert frame["data"] == {"reason": reason, "reconnect": True}
                        assert await call.event() is None
                        assert 2000 <= (call.decoder.retry or 0) <= 10_000
                        assert call.decoder.last_event_id == "", (
                            "without an id, the client keeps its own"
                        )
                    broadcaster.begin_drain()

    async def test_failed_broadcaster_is_a_stream_that_ends(self) -> None:
        """After a failure, a stream ends at once with a retry time, and /health has the failure."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            app = live_app(broadcaster)
            await broker.fail(ConnectionError())
            await run_ready()
            assert (await fetch(app, "GET", "/health")).status == 503
            async with HttpExchange(app, "/stream?topics=t") as call:
                assert await call.read_head() == 200
                assert (await call.frame())["data"] == {"reason": "failed", "reconnect": True}

    async def test_disabled_stream_gets_204(self, broadcaster: Broadcaster) -> None:
        """A disabled stream gets 204, after which an EventSource does not reconnect."""
        app = live_app(broadcaster, enabled=False)
        for path in STREAMS:
            for method in ("GET", "HEAD"):
                answer = await fetch(app, method, f"{path}?topics=t")
                assert (answer.status, answer.body) == (204, b"")
                assert "content-length" not in answer.headers

    async def test_credentials_that_expire_end_the_stream(self) -> None:
        """A stream ends when its credentials expire."""
        expiry = wall_clock() + 60.0
        async with Broadcaster(clock=wall_clock) as broadcaster:
            app = live_app(
                broadcaster, authenticate=lambda request: User(id="ann", expires_at=expiry)
            )
            async with HttpExchange(app, "/stream?topics=t") as call:
                await call.first_frame_data()
                while (frame := await call.frame())["type"] != "closing":
                    pass
                assert frame["data"] == {"reason": "credentials_expired", "reconnect": False}
                assert await call.event() is None
                assert expiry <= wall_clock() <= expiry + 1.0
            assert (await fetch(app, "GET", "/stream?topics=t")).status == 401
