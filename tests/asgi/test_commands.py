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
    """The commands of a client by POST."""

    async def test_subscribe_and_unsubscribe(self, app: LiveApp, broadcaster: Broadcaster) -> None:
        """The topics of an open connection change, and its stream reports the change."""
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
            await broadcaster.publish("t", "unsubscribed")
            await broadcaster.publish("u", "subscribed")
            while (frame := await call.frame())["type"] != "message":
                pass
            assert frame["data"] == "subscribed"

    async def test_acknowledgement(self, app: LiveApp, broadcaster: Broadcaster) -> None:
        """An acknowledgement sets the resume point, and a wrong one changes nothing."""
        async with HttpExchange(app, "/stream?topics=t") as call:
            data = await call.first_frame_data()
            await broadcaster.publish("t", 1)
            await call.frame()
            event_id = call.decoder.last_event_id
            await broadcaster.publish("t", 2)
            await call.frame()
            for text, is_taken in (
                (event_id, True),
                ("nonsense", False),
                (event_id.replace("~1~", "~9~"), False),
            ):
                body = {"connectionId": data["connectionId"], "id": text}
                answer = await fetch(app, "POST", "/ack", body=body)
                assert (answer.status, answer.json()) == (200, {"acknowledged": is_taken})
        async with HttpExchange(
            app, f"/reconnect?reconnect_token={data['reconnectToken']}"
        ) as call:
            resumed = await call.first_frame_data()
            assert (resumed["session"], resumed["replay"]) == ("resumed", 1)

    async def test_probe(self, app: LiveApp) -> None:
        """The probe arrives on the connection, and the answer has its delay."""
        async with HttpExchange(app, "/stream?topics=t") as call:
            id = (await call.first_frame_data())["connectionId"]
            answer = await fetch(app, "POST", "/test-connection", body={"connectionId": id})
            assert answer.status == 200
            assert answer.json()["sent"] is True
            assert answer.json()["transport"] == "sse"
            assert 0.0 <= answer.json()["seconds"] < 1.0
            assert (await call.frame())["type"] == "test"

    async def test_probe_of_a_blocked_connection(self, broadcaster: Broadcaster) -> None:
        """A probe that is not sent within its timeout is reported as such."""
        app = live_app(broadcaster)
        async with broadcaster.connect(topics=["t"]) as connection:
            await connection.next_frames()
            answer = await fetch(
                app, "POST", "/test-connection", body={"connectionId": connection.id}
            )
            assert answer.json() == {"sent": False, "seconds": None, "transport": "custom"}

    @pytest.mark.parametrize("path", POSTS)
    async def test_connection_of_another_user_is_not_found(
        self, app: LiveApp, broadcaster: Broadcaster, path: str
    ) -> None:
        """A connection of another user and an unknown connection get the same answer."""
        async with HttpExchange(app, "/stream?topics=t", headers={"X-User": "ann"}) as call:
            own_id = (await call.first_frame_data())["connectionId"]
            answers = []
            ids: list[Any] = [own_id, "x", "", "A" * 22, None, 5, [], {}, "\ud800"]
            for connection_id in ids:
                body = {"connectionId": connection_id, "topics": ["t"], "id": "x"}
                answer = await fetch(app, "POST", path, body=body, headers={"X-User": "bob"})
                answers.append((answer.status, answer.body, sorted(answer.headers)))
            assert answers == [answers[0]] * len(answers)
            assert answers[0][0] == 404
            await broadcaster.publish("t", 1)
            assert (await call.frame())["data"] == 1

    @pytest.mark.parametrize("path", POSTS)
    @pytest.mark.parametrize(
        ("content", "status", "word"),
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
        self, app: LiveApp, path: str, content: bytes, status: int, word: str
    ) -> None:
        """A body that is not a JSON object, or is too large, is refused."""
        async with HttpExchange(app, path, method="POST", body=content) as call:
            answer = await call.response()
        assert (answer.status, answer.json()["error"]["code"]) == (status, word)

    @pytest.mark.parametrize(
        ("body", "word"),
        [
            ({}, "invalid_message"), ({"topics": []}, "invalid_message"),
            ({"topics": [1]}, "invalid_message"), ({"topics": {"a": 1}}, "invalid_message"),
            ({"topics": ["a b"]}, "invalid_topic"), ({"topics": ["\ud800"]}, "invalid_topic"),
            ({"topics": [f"t{n}" for n in range(300)]}, "too_many_topics"),
        ],
    )  # fmt: skip
    async def test_bad_topics(self, app: LiveApp, body: dict[str, Any], word: str) -> None:
        """Invalid topics are refused, and change nothing."""
        async with HttpExchange(app, "/stream?topics=t") as call:
            id = (await call.first_frame_data())["connectionId"]
            answer = await fetch(app, "POST", "/subscribe", body={"connectionId": id, **body})
            assert (answer.status, answer.json()["error"]["code"]) == (400, word)

    async def test_body_in_pieces(self, app: LiveApp) -> None:
        """A body may arrive in many pieces."""
        async with HttpExchange(app, "/stream?topics=t") as stream:
            id = (await stream.first_frame_data())["connectionId"]
            content = json.dumps({"connectionId": id, "topics": ["u"]}).encode()
            call = HttpExchange(app, "/subscribe", method="POST")
            call.to_app.get_nowait()
            async with call:
                for index in range(len(content)):
                    piece = content[index : index + 1]
                    call.to_app.put_nowait(
                        {
                            "type": "http.request",
                            "body": piece,
                            "more_body": index + 1 < len(content),
                        }
                    )
                assert (await call.response()).status == 200

    async def test_body_that_never_ends(self, app: LiveApp) -> None:
        """A body that does not arrive, or does not end, times out."""
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

    async def test_client_that_disconnects_during_its_body(self, app: LiveApp) -> None:
        """A client that disconnects during its body gets no answer, and causes no error."""
        call = HttpExchange(app, "/subscribe", method="POST")
        call.to_app.get_nowait()
        call.to_app.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        call.disconnect()
        async with call:
            await call.wait_ended()
            assert call.from_app.empty()

    @pytest.mark.parametrize("path", POSTS)
    async def test_unknown_clients_and_foreign_origins_are_refused(
        self, app: LiveApp, path: str
    ) -> None:
        """An unknown client gets 401 and a foreign origin 403, before the body is read."""
        async with HttpExchange(
            app, path, method="POST", body=b"{", headers={"X-User": "nobody"}
        ) as call:
            assert (await call.response()).status == 401
        async with HttpExchange(
            app, path, method="POST", headers={"Origin": "https://evil.test"}
        ) as call:
            assert (await call.response()).status == 403
