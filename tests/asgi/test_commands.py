"""POST /subscribe, /unsubscribe, /ack and /test-connection."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.asgi import http as http_module
from tests.asgi.paths import POSTS
from tests.support.asgi import HttpExchange, fetch, live_app


class TestCommands:
    """POST /subscribe, /unsubscribe, /ack, /test-connection."""

    async def test_subscribe_and_unsubscribe(self, app: LiveApp, broadcaster: Broadcaster) -> None:
        """A live connection's topics change, and the stream shows it."""
        async with HttpExchange(app, "/stream?topics=t", headers={"X-User": "ann"}) as call:
            id = (await call.first_frame_data())["connectionId"]

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
        async with HttpExchange(app, "/stream?topics=t") as call:
            data = await call.first_frame_data()
            await broadcaster.publish("t", 1)
            await call.frame()
            at = call.decoder.last_event_id
            await broadcaster.publish("t", 2)
            await call.frame()
            for text, taken in ((at, True), ("nonsense", False), (at.replace("~1~", "~9~"), False)):
                body = {"connectionId": data["connectionId"], "id": text}
                answer = await fetch(app, "POST", "/ack", body=body)
                assert (answer.status, answer.json()) == (200, {"acknowledged": taken})
        async with HttpExchange(
            app, f"/reconnect?reconnect_token={data['reconnectToken']}"
        ) as call:
            resumed = await call.first_frame_data()
            assert (resumed["session"], resumed["replay"]) == ("resumed", 1)

    async def test_probe(self, app: LiveApp) -> None:
        """The probe arrives on the connection, and the answer says how soon."""
        async with HttpExchange(app, "/stream?topics=t") as call:
            id = (await call.first_frame_data())["connectionId"]
            answer = await fetch(app, "POST", "/test-connection", body={"connectionId": id})
            assert answer.status == 200
            assert answer.json()["sent"] is True
            assert answer.json()["transport"] == "sse"
            assert 0.0 <= answer.json()["seconds"] < 1.0
            assert (await call.frame())["type"] == "test"

    async def test_probe_of_a_blocked_connection(self, broadcaster: Broadcaster) -> None:
        """A probe that the server does not take is reported so, within its time."""
        app = live_app(broadcaster)
        async with broadcaster.connect(topics=["t"]) as connection:
            await connection.next_frames()
            answer = await fetch(
                app, "POST", "/test-connection", body={"connectionId": connection.id}
            )
            assert answer.json() == {"sent": False, "seconds": None, "transport": "custom"}

    @pytest.mark.parametrize("path", POSTS)
    async def test_others_connections_look_like_none(
        self, app: LiveApp, broadcaster: Broadcaster, path: str
    ) -> None:
        """Somebody else's connection, and one that does not exist, are answered alike."""
        async with HttpExchange(app, "/stream?topics=t", headers={"X-User": "ann"}) as call:
            id = (await call.first_frame_data())["connectionId"]
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
        async with HttpExchange(app, path, method="POST", body=content) as call:
            answer = await call.response()
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
        async with HttpExchange(app, "/stream?topics=t") as call:
            id = (await call.first_frame_data())["connectionId"]
            answer = await fetch(app, "POST", "/subscribe", body={"connectionId": id, **body})
            assert (answer.status, answer.json()["error"]["code"]) == (400, code)

    async def test_body_in_pieces(self, app: LiveApp) -> None:
        """A body may come in many pieces."""
        async with HttpExchange(app, "/stream?topics=t") as stream:
            id = (await stream.first_frame_data())["connectionId"]
            content = json.dumps({"connectionId": id, "topics": ["u"]}).encode()
            call = HttpExchange(app, "/subscribe", method="POST")
            call.to_app.get_nowait()
            async with call:
                for at in range(len(content)):
                    piece = content[at : at + 1]
                    call.to_app.put_nowait(
                        {"type": "http.request", "body": piece, "more_body": at + 1 < len(content)}
                    )
                assert (await call.response()).status == 200

    async def test_body_that_never_ends(self, app: LiveApp) -> None:
        """A body that does not come is given up, and so is one that comes for ever."""
        call = HttpExchange(app, "/subscribe", method="POST")
        call.to_app.get_nowait()
        call.to_app.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        async with call:
            answer = await call.response()
            assert answer.status == 408
        assert asyncio.get_running_loop().time() == pytest.approx(http_module.BODY_TIMEOUT, abs=0.1)
        call = HttpExchange(app, "/subscribe", method="POST")
        call.to_app.get_nowait()
        async with call:
            for _ in range(100):
                call.to_app.put_nowait(
                    {"type": "http.request", "body": b" " * 1000, "more_body": True}
                )
            assert (await call.response()).status == 413

    async def test_client_that_leaves_while_sending(self, app: LiveApp) -> None:
        """A client that is gone before its body was whole gets no answer, and causes no error."""
        call = HttpExchange(app, "/subscribe", method="POST")
        call.to_app.get_nowait()
        call.to_app.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        call.disconnect()
        async with call:
            await call.wait_ended()
            assert call.from_app.empty()

    @pytest.mark.parametrize("path", POSTS)
    async def test_who_may_post(self, app: LiveApp, path: str) -> None:
        """Unknown clients are 401, pages of foreign origins 403, before the body is looked at."""
        async with HttpExchange(
            app, path, method="POST", body=b"{", headers={"X-User": "nobody"}
        ) as call:
            assert (await call.response()).status == 401
        async with HttpExchange(
            app, path, method="POST", headers={"Origin": "https://evil.test"}
        ) as call:
            assert (await call.response()).status == 403
