"""HTTP methods, headers, paths and bodies, and clients that disconnect early."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.asgi import http as http_module
from holdfast.auth import Request, User
from tests.bad_inputs.entries import bystander
from tests.bad_inputs.inputs import MARK, NOT_JSON, TEXTS
from tests.support.asgi import HttpExchange, WebSocketExchange, fetch
from tests.support.delayed_broker import DelayedBroker
from tests.support.virtual_loop import run_ready

STREAMS = ["/stream", "/reconnect"]
REPORTS = ["/connection-stats", "/websocket-stats", "/websocket-info"]
POSTS = ["/subscribe", "/unsubscribe", "/ack", "/test-connection"]
METHODS = [
    "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "Get",
    "GET ", "", "\0", "é", MARK, "X" * 10_000, "GET\r\nX: y",
]  # fmt: skip
NO_STREAM = [
    "application/json", "text/html", "text/plain, application/json;q=0.9", "image/*", "nonsense",
    "text", "text/event-streams", "text/event-stream2", "application/*", "\0", "é", MARK,
    "application/json," * 5_000 + "x/y", "q=1", "text /event-stream", "*", "*/json",
]  # fmt: skip
FOREIGN_ORIGINS = [
    "", "null", "NULL", "https://evil.test", "http://", "https://",
    "example.test",
    "https://example.test.evil.test", "https://evil.test/example.test",
    "https://example.test@evil.test",
    "https://example.test:443@evil.test", "https://evil.test#example.test",
    "https://example.test:8443",
    "https://evil.test?https://example.test", "https://sub.example.test", "https://example.tes",
    "https://xample.test", "https://xn--exmple-cua.test", "file://", "file:///etc/passwd", "data:x",
    "javascript:alert(1)", "chrome-extension://abc", "http://[", "http://[::1",
    "https://example.test.",
    "https://exampl\u00e9.test", "\x00", "\r\nhttps://example.test.evil", "*", "https://*",
    "x" * 10_000,
    "https://user:password@example.test", "https://evil.test https://example.test",
]  # fmt: skip


# -- methods and headers ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*STREAMS, "/poll", "/health", *REPORTS, *POSTS])
async def test_wrong_method_is_refused(app: LiveApp, broadcaster: Broadcaster, path: str) -> None:
    """A wrong method is 405 with the allowed ones; the method is not echoed, nothing is opened."""
    async with bystander(app, broadcaster) as other:
        for method in [*METHODS, "GET"] if path in POSTS else METHODS:
            if method == "POST" and path in POSTS:
                continue
            answer = await fetch(app, method, f"{path}?topics=t")
            assert answer.status == 405, method
            assert answer.headers["allow"] == ("POST" if path in POSTS else "GET, HEAD")
            assert answer.json()["error"]["code"] == "method_not_allowed"
            assert MARK.encode() not in answer.body
        await other.undisturbed()


@pytest.mark.parametrize("path", STREAMS)
async def test_unacceptable_media_type_is_refused(
    app: LiveApp, broadcaster: Broadcaster, path: str
) -> None:
    """A refused media type is 406 before anything is opened, for GET and HEAD."""
    for accept in NO_STREAM:
        for method in ("GET", "HEAD"):
            headers = {"accept": accept}
            answer = await fetch(app, method, f"{path}?topics=t", headers=headers)
            assert answer.status == 406, accept[:40]
    assert broadcaster.statistics().opened == 0


async def test_hostile_headers_have_no_effect(app: LiveApp, broadcaster: Broadcaster) -> None:
    """Unrelated headers of any content do not affect the stream."""
    for text in TEXTS[:60]:
        value = text.encode("utf-8", "surrogatepass").decode("latin-1")
        headers = [
            (name, value)
            for name in ("user-agent", "referer", "cookie", "content-length", "transfer-encoding",
                         "x-forwarded-for", "authorization", "content-type", "te", "connection")
        ] * 2  # fmt: skip
        async with HttpExchange(app, "/stream?topics=t", headers=headers) as call:
            assert await call.read_head() == 200
            assert (await call.frame())["data"]["session"] == "fresh"


async def test_foreign_origin_is_refused(app: LiveApp, broadcaster: Broadcaster) -> None:
    """A page of another origin gets one error frame and 4403, in any spelling of the origin."""
    async with bystander(app, broadcaster) as other:
        for origin in FOREIGN_ORIGINS:
            async with WebSocketExchange(app, headers={"Origin": origin}) as socket:
                await socket.wait_accepted()
                frame = await socket.frame()
                assert frame["type"] == "error", origin
                assert frame["data"]["code"] == "foreign_origin"
                assert await socket.wait_closed() == 4403
            await other.undisturbed()
    assert broadcaster.statistics().opened == 1


async def test_unknown_path_is_not_found(app: LiveApp) -> None:
    """Any path except an endpoint is 404, over HTTP and as a handshake."""
    for path in [
        "/stream/../health", "/./stream", "//stream", "/stream%00", "/stream\0", "/STREAM",
        "/stream;x", "/str\u00e9am", f"/{MARK}", "/" + "x" * 100_000, "/\r\nx", "stream", "*",
        "/stream/stream", "/%73tream", "/websocket/x",
    ]:  # fmt: skip
        for method in ("GET", "POST", "HEAD"):
            call = HttpExchange(app, "/", method=method)
            call.scope["path"] = path
            async with call:
                answer = await call.response()
            assert answer.status == 404, path[:40]
            assert MARK.encode() not in answer.body
        socket = WebSocketExchange(app, "/")
        socket.scope["path"] = path
        async with socket:
            assert (await socket.receive())["type"] == "websocket.close"


# -- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", POSTS)
async def test_body_that_is_not_json_is_refused(
    app: LiveApp, broadcaster: Broadcaster, path: str
) -> None:
    """A body that could not be a WebSocket message is 400 `not_json`."""
    bodies = [text.encode("utf-8", "surrogatepass") for text in NOT_JSON if text.strip("\ufeff{}")]
    bodies += [b"\xff", b"\xc3\x28", b'{"a":"\xff"}', b"\x80{}", b'"text"', b"null", b"5", b"[]"]
    refused = {}
    async with bystander(app, broadcaster) as other:
        for body in bodies:
            async with HttpExchange(app, path, method="POST", body=body) as call:
                answer = await call.response()
            refused[body] = answer.status
            if answer.status == 400:
                assert answer.json()["error"]["code"] == "not_json"
                assert MARK.encode() not in answer.body
        await other.undisturbed()
    assert {body[:60]: status for body, status in refused.items() if status != 400} == {}


@pytest.mark.parametrize("path", POSTS)
async def test_endless_body_is_refused(app: LiveApp, path: str) -> None:
    """A body of one byte now and then ends after 10 s, an endless body after 64 KiB."""
    loop = asyncio.get_running_loop()
    for piece, pause, status in ((b" ", 0.9, 408), (b"", 0.9, 408), (b" " * 4096, 0.0, 413)):
        call, began = HttpExchange(app, path, method="POST"), loop.time()
        call.to_app.get_nowait()
        given: list[int] = []

        async def feed(
            call: HttpExchange = call,
            piece: bytes = piece,
            pause: float = pause,
            given: list[int] = given,
        ) -> None:
            while True:
                given.append(len(piece))
                call.to_app.put_nowait({"type": "http.request", "body": piece, "more_body": True})
                await asyncio.sleep(pause)

        async with call:
            feeding = asyncio.ensure_future(feed())
            assert (await call.response()).status == status
            feeding.cancel()
        assert sum(given) < 4 * http_module.MAX_BODY_BYTES, "the body was read far beyond its limit"
        assert loop.time() - began <= http_module.BODY_TIMEOUT + 0.1


@pytest.mark.parametrize("path", [*STREAMS, "/health", *REPORTS])
async def test_unexpected_body_is_ignored(app: LiveApp, path: str) -> None:
    """A GET with a body, even an endless one, is answered like any other."""
    call = HttpExchange(app, f"{path}?topics=t", headers={"x-user": "ann"})
    call.to_app.get_nowait()
    for _ in range(100):
        call.to_app.put_nowait({"type": "http.request", "body": b"x" * 65_536, "more_body": True})
    async with call:
        assert await call.read_head() == 200


# -- clients that disconnect early -----------------------------------------------------------------


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("path", [*STREAMS, *POSTS, "/connection-stats", "/websocket"])
async def test_client_that_disconnects_early_leaves_nothing_behind(path: str, turns: int) -> None:
    """A client that disconnects during a hook, or at any later step, leaves nothing behind."""
    broker = DelayedBroker()

    async def authenticate(request: Request) -> User:
        await asyncio.sleep(0.5)
        return User(id="ann")

    async with Broadcaster(broker=broker) as broadcaster:
        app = LiveApp(broadcaster, authenticate=authenticate)
        call: HttpExchange | WebSocketExchange
        if path == "/websocket":
            call = WebSocketExchange(app, "/websocket?topics=t")
        else:
            call = HttpExchange(app, f"{path}?topics=t", method="POST" if path in POSTS else "GET")
        async with call:
            await run_ready(turns)
            call.disconnect()
            await asyncio.wait_for(call.wait_ended(), 60.0)
        await run_ready()
        assert broadcaster.statistics().connections == 0
        assert broker.log.tokens.registry.expire(9e9) <= 1, "the session is still attached"
        assert len(broker.log.tokens.registry) == 0


async def test_handshake_after_a_failure_is_closed_with_4005(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a background task died, a WebSocket is closed with 4005: reconnect."""
    broker = DelayedBroker()
    async with Broadcaster(broker=broker) as broadcaster:
        app = LiveApp(broadcaster, authenticate=lambda r: User(id=None))
        await broker.fail(ConnectionError())
        await run_ready()
        caplog.clear()  # the failure itself is logged
        async with WebSocketExchange(app) as socket:
            await socket.wait_accepted()
            assert await socket.wait_closed() == 4005
