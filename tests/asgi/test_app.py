"""LiveApp: the methods of each path, the lifespan, and the mount point."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import Broadcaster, BrokerUnavailable, NotRunning
from holdfast.asgi import LiveApp
from holdfast.runtime.lifecycle import BroadcasterState
from tests.asgi.paths import GETS, POSTS, STREAMS
from tests.support.asgi import AsgiExchange, HttpExchange, WebSocketExchange, fetch, live_app, scope
from tests.support.delayed_broker import DelayedBroker
from tests.support.virtual_loop import run_ready


class TestMethods:
    """The methods of each path."""

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
    @pytest.mark.parametrize("path", [*STREAMS, *GETS])
    async def test_only_get_and_head(self, app: LiveApp, path: str, method: str) -> None:
        """Another method than GET and HEAD gets 405 with the header Allow."""
        answer = await fetch(app, method, f"{path}?topics=t")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.json()["error"]["code"] == "method_not_allowed"

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
    @pytest.mark.parametrize("path", POSTS)
    async def test_only_post(self, app: LiveApp, path: str, method: str) -> None:
        """Another method than POST gets 405 with the header Allow."""
        answer = await fetch(app, method, path)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert (answer.body == b"") == (method == "HEAD")

    @pytest.mark.parametrize(
        "path", ["/", "", "/nothing", "/stream/x", "/Stream", "//stream", "/%"]
    )
    async def test_not_found(self, app: LiveApp, path: str) -> None:
        """An unknown path gets 404."""
        for method in ("GET", "POST"):
            answer = await fetch(app, method, path)
            assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")

    @pytest.mark.parametrize("path", GETS)
    async def test_head_is_get_without_its_body(self, app: LiveApp, path: str) -> None:
        """HEAD gets the headers of GET."""
        get, head = await fetch(app, "GET", path), await fetch(app, "HEAD", path)
        assert head.status == get.status == 200
        assert head.body == b""
        assert set(head.headers) == set(get.headers)
        assert get.headers["content-length"] == str(len(get.body))
        assert get.headers["cache-control"] == "no-store"


class TestLifespan:
    """The lifespan of an application that the server runs directly."""

    async def test_startup_and_shutdown(self) -> None:
        """The Broadcaster runs between startup and shutdown."""
        broadcaster = Broadcaster()
        app = live_app(broadcaster)
        async with AsgiExchange(app, {"type": "lifespan"}) as lifespan:
            lifespan.to_app.put_nowait({"type": "lifespan.startup"})
            assert (await lifespan.receive())["type"] == "lifespan.startup.complete"
            assert broadcaster.statistics().state == "running"
            async with HttpExchange(app, "/stream?topics=t") as call:
                await call.first_frame_data()
            lifespan.disconnect()
            assert (await lifespan.receive())["type"] == "lifespan.shutdown.complete"
        assert broadcaster.state is BroadcasterState.CLOSED

    async def test_failed_startup_has_the_cause(self) -> None:
        """If the broker cannot be reached, the startup fails with the cause."""

        class UnreachableBroker(DelayedBroker):
            async def start(self) -> None:
                raise ConnectionError("no route to the broker")

        lifespan = AsgiExchange(
            live_app(Broadcaster(broker=UnreachableBroker())), {"type": "lifespan"}
        )
        with pytest.raises(ConnectionError):
            async with lifespan:
                lifespan.to_app.put_nowait({"type": "lifespan.startup"})
                message = await lifespan.receive()
                assert message["type"] == "lifespan.startup.failed"
                assert "no route" in message["message"]
                await lifespan.wait_ended()

    @pytest.mark.parametrize("path", ["/connection-stats", "/health"])
    async def test_first_request_starts_the_broadcaster(self, path: str) -> None:
        """Without a lifespan, the first request starts the Broadcaster, once."""
        broadcaster = Broadcaster()
        app = live_app(broadcaster)
        try:
            answers = await asyncio.gather(*[fetch(app, "GET", path) for _ in range(5)])
            assert {answer.status for answer in answers} == {200}
            assert broadcaster.state is BroadcasterState.RUNNING
        finally:
            await broadcaster.stop()

    async def test_first_request_finds_no_broker(self, caplog: pytest.LogCaptureFixture) -> None:
        """Each transport reports a start that failed in its own way; the next request tries again.

        An event stream is answered with 200, because a browser's EventSource gives up at a 503.
        """

        class Unreachable(DelayedBroker):
            is_reachable = False

            async def start(self) -> None:
                if not self.is_reachable:
                    raise BrokerUnavailable("no route to the broker")
                await super().start()

        broker = Unreachable()
        broadcaster = Broadcaster(broker=broker)
        app = live_app(broadcaster, allowed_origins=["https://shop.example"])
        async with HttpExchange(app, "/stream", headers={"origin": "https://shop.example"}) as call:
            assert await call.read_head() == 200
            assert call.headers["access-control-allow-origin"] == "https://shop.example"
            frame = await call.frame()
            assert frame["data"] == {"reason": "unavailable", "reconnect": True}
        poll = await fetch(app, "GET", "/poll")
        assert (poll.status, "retry-after" in poll.headers) == (503, True)
        async with WebSocketExchange(app, "/websocket") as socket:
            await socket.wait_accepted()
            assert (await socket.frame())["data"]["code"] == "unavailable"
            assert await socket.wait_closed() == 4005
        command = await fetch(app, "POST", "/subscribe", body={})
        assert (command.status, command.json()["error"]["code"]) == (503, "unavailable")
        assert (await fetch(app, "GET", "/connection-stats")).status == 503
        health = await fetch(app, "GET", "/health")
        assert (health.status, health.json()) == (503, {"status": "new"})
        assert (await fetch(app, "GET", "/client.js")).status == 200
        assert "no route to the broker" in caplog.text
        broker.is_reachable = True
        async with HttpExchange(app, "/stream") as call:
            await call.first_frame_data()
        await broadcaster.stop()

    async def test_stream_without_a_lifespan(self) -> None:
        """A stream works without a lifespan, and ends when the Broadcaster stops."""
        broadcaster = Broadcaster()
        async with HttpExchange(live_app(broadcaster), "/stream?topics=t") as call:
            await call.read_head()
            assert (await call.event()) is not None
            await broadcaster.publish("t", 1)
            event = await call.event()
            assert event is not None
            assert event.json()["data"] == 1
            await broadcaster.stop()
            await call.wait_ended()

    async def test_stopped_broadcaster_is_not_started_again(self) -> None:
        """A request after the shutdown gets 503, and /health has the cause."""
        broadcaster = Broadcaster()
        async with broadcaster:
            app = live_app(broadcaster)
        answer = await fetch(app, "GET", "/health")
        assert (answer.status, answer.json()) == (503, {"status": "closed"})
        call = HttpExchange(app, "/stream?topics=t")
        with pytest.raises(NotRunning, match="not running"):
            async with call:
                await call.response()
        assert call.status == 503

    async def test_unknown_scope_type_is_ignored(self, app: LiveApp) -> None:
        """A scope of an unknown type is ignored."""
        async with AsgiExchange(app, scope("http", "/") | {"type": "webtransport"}) as call:
            await call.wait_ended()


class TestMounted:
    """LiveApp below a path prefix, as frameworks pass it (see the table in docs/guide.md)."""

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
        """The endpoint is found with the prefix in the path, removed, or followed by a slash."""
        async with HttpExchange(app, f"{path}?topics=t", root_path=root) as call:
            await call.first_frame_data()
        socket_path = path.replace("stream", "websocket", 1)
        if "stream" not in root:
            async with WebSocketExchange(app, f"{socket_path}?topics=t", root_path=root) as socket:
                await socket.wait_accepted()

    @pytest.mark.parametrize("framework", ["starlette", "fastapi"])
    async def test_frameworks(self, broadcaster: Broadcaster, framework: str) -> None:
        """If mounted in a framework, stream, commands and WebSocket are below the prefix."""
        if framework == "starlette":
            from starlette.applications import Starlette
            from starlette.routing import Mount

            outer: Any = Starlette(routes=[Mount("/rt", app=live_app(broadcaster))])
        else:
            from fastapi import FastAPI

            outer = FastAPI()
            outer.mount("/rt", live_app(broadcaster))
        async with HttpExchange(outer, "/rt/stream?topics=t") as call:
            id = (await call.first_frame_data())["connectionId"]
            body = {"connectionId": id, "topics": ["u"]}
            assert (await fetch(outer, "POST", "/rt/subscribe", body=body)).status == 200
            await broadcaster.publish("u", 1)
            while (frame := await call.frame())["type"] != "message":
                pass
            assert frame["data"] == 1
        async with WebSocketExchange(outer, "/rt/websocket?topics=t") as socket:
            await socket.wait_accepted()
            assert (await socket.frame())["type"] == "connection_established"
        assert (await fetch(outer, "GET", "/rt/nothing")).status == 404
        await run_ready()
        assert broadcaster.statistics().connections == 0

    async def test_behind_a_middleware_of_the_framework(self, broadcaster: Broadcaster) -> None:
        """Compression leaves the stream unchanged, and a middleware passes the disconnect on."""
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.base import BaseHTTPMiddleware
        from starlette.middleware.gzip import GZipMiddleware
        from starlette.routing import Mount

        async def pass_on(request: Any, call_next: Any) -> Any:
            return await call_next(request)

        outer: Any = Starlette(
            routes=[Mount("/", app=live_app(broadcaster))],
            middleware=[
                Middleware(GZipMiddleware, minimum_size=1),
                Middleware(BaseHTTPMiddleware, dispatch=pass_on),
            ],
        )
        headers = {"Accept-Encoding": "gzip"}
        async with HttpExchange(outer, "/stream?topics=t", headers=headers) as call:
            await call.first_frame_data()
            assert "content-encoding" not in call.headers
            call.disconnect()
            await asyncio.wait_for(call.wait_ended(), 5.0)
        await run_ready()
        assert broadcaster.statistics().connections == 0
