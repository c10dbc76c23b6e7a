"""The WebSocket transport: the frames of SSE, and messages of the client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast import Broadcaster, Reason, Refused
from holdfast.auth import subscribe_only
from holdfast.runtime.connection import MAX_CONTROL_FRAMES
from holdfast.transports import websocket
from holdfast.transports.websocket import InboundLimits
from tests.support.asgi import HttpExchange, WebSocketExchange, live_app
from tests.support.virtual_loop import anyio_backend as anyio_backend
from tests.support.virtual_loop import run_ready, run_virtual


class TestFrames:
    """The frames of the server."""

    async def test_frames_are_those_of_sse_with_an_id(self, broadcaster: Broadcaster) -> None:
        """Both transports send the same JSON; WebSocket adds the event id as the last member."""
        app = live_app(broadcaster)
        async with (
            WebSocketExchange(app, "/websocket?topics=t") as socket,
            HttpExchange(app, "/stream?topics=t") as stream,
        ):
            await socket.first_frame()
            await stream.read_head()
            await stream.event()
            await broadcaster.publish("t", {"id": "mine", "é": "\u2028\r\n"}, key="k")
            message = await socket.receive()
            frame = json.loads(message["text"])
            assert list(frame)[-1] == "id"
            frame.pop("id")
            assert frame == await stream.frame()
            assert "\n" not in message["text"]

    async def test_each_reason_has_its_close_code(self, broadcaster: Broadcaster) -> None:
        """Each reason has its close code: 1012 and 4000 to 4399 mean reconnect."""
        for reason in Reason:
            async with WebSocketExchange(live_app(broadcaster)) as socket:
                first = await socket.first_frame()
                assert broadcaster.disconnect(first["data"]["connectionId"], reason)
                frame = await socket.frame()
                assert frame["type"] == "closing"
                assert frame["data"] == {
                    "reason": reason.word, "reconnect": reason.reconnect,
                }  # fmt: skip
                code = await socket.wait_closed()
                assert code == reason.close_code
                assert (code == 1012 or 4000 <= code < 4400) == reason.reconnect

    async def test_disconnect_ends_the_connection(self, broadcaster: Broadcaster) -> None:
        """If the client disconnects, the call returns, and the connection ends."""
        async with WebSocketExchange(live_app(broadcaster)) as socket:
            await socket.first_frame()
            socket.disconnect()
            await socket.wait_ended()
        assert broadcaster.statistics().connections == 0

    @pytest.mark.parametrize("error", [OSError, RuntimeError])
    async def test_send_that_raises_is_a_disconnect(
        self, broadcaster: Broadcaster, error: type[Exception]
    ) -> None:
        """An error of `send` after a disconnect is not an error of the application."""
        app = live_app(broadcaster)

        async def app_that_raises(scope: Any, receive: Any, send: Any) -> None:
            calls = 0

            async def send_or_raise(message: Any) -> None:
                nonlocal calls
                calls += 1
                if calls > 2:
                    raise error("closed")
                await send(message)

            await app(scope, receive, send_or_raise)

        async with WebSocketExchange(app_that_raises, "/websocket?topics=t") as socket:
            await socket.first_frame()
            await broadcaster.publish("t", 1)
            await asyncio.wait_for(socket.wait_ended(), 1.0)
        assert broadcaster.statistics().connections == 0


class TestParse:
    """The function `parse`, which returns a value or raises Refused."""

    @pytest.mark.slow
    @settings(max_examples=150)
    @given(
        st.text()
        | st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("type"), inner),
        ).map(json.dumps)
    )
    @pytest.mark.slow
    @example("[" * 100_000)
    @example('{"type":' * 20_000)
    @example('{"type": "ping", "x": ' + "9" * 5000 + "}")
    @example('{"type": "ping", "x": 1e999}')
    @example('{"type": "\ud800"}')
    @example("\ufeff{}")
    @example("\0")
    def test_any_text(self, text: str) -> None:
        """Any text is parsed as an object with a string type, or refused."""
        with contextlib.suppress(Refused):
            value = websocket.parse({"type": "websocket.receive", "text": text}, 64 * 1024)
            assert isinstance(value["type"], str)

    @pytest.mark.parametrize(
        ("message", "word"),
        [
            ({"bytes": b"{}"}, "not_text"),
            ({"bytes": b"{}", "text": None}, "not_text"),
            ({}, "not_text"),
            ({"text": ""}, "not_json"),
            ({"text": "{"}, "not_json"),
            ({"text": "[" * 60_000}, "not_json"),
            ({"text": '{"type": "ping", "x": NaN}'}, "not_json"),
            ({"text": '{"type": "ping", "x": -Infinity}'}, "not_json"),
            ({"text": '{"type": "ping", "x": ' + "9" * 5000 + "}"}, "not_json"),
            ({"text": "null"}, "no_type"),
            ({"text": "5"}, "no_type"),
            ({"text": '"ping"'}, "no_type"),
            ({"text": '["ping"]'}, "no_type"),
            ({"text": "{}"}, "no_type"),
            ({"text": '{"type": 5}'}, "no_type"),
            ({"text": '{"type": null}'}, "no_type"),
            ({"text": '{"type": ["ping"]}'}, "no_type"),
            ({"text": '{"type": "ping", "x": "' + "x" * 65_536 + '"}'}, "too_large"),
            ({"text": '{"type": "ping", "x": "' + "é" * 32_760 + '"}'}, "too_large"),
            ({"text": "x" * 1_000_000}, "too_large"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_refusals(self, message: dict[str, Any], word: str) -> None:
        """Each kind of invalid message has its reason."""
        with pytest.raises(Refused) as caught:
            websocket.parse(message, 65_536)
        assert caught.value.reason.word == word

    def test_largest_message(self) -> None:
        """A message of exactly the limit, in bytes, is parsed."""
        text = '{"type":"é"}'
        size = len(text.encode())
        assert websocket.parse({"text": text}, size) == {"type": "é"}
        with pytest.raises(Refused):
            websocket.parse({"text": text}, size - 1)


class TestMessages:
    """The messages of a client, and their answers."""

    @pytest.mark.parametrize(
        ("message", "word"),
        [
            ("{", "not_json"),
            ("[]", "no_type"),
            (b"\x00\xff", "not_text"),
            ({"type": "nonsense"}, "unknown_type"),
            ({"type": "PING"}, "unknown_type"),
            ({"type": ""}, "unknown_type"),
            ({"type": "subscribe"}, "invalid_message"),
            ({"type": "subscribe", "topics": []}, "invalid_message"),
            ({"type": "subscribe", "topics": {}}, "invalid_message"),
            ({"type": "subscribe", "topics": [1]}, "invalid_message"),
            ({"type": "subscribe", "topics": ["a", None]}, "invalid_message"),
            ({"type": "subscribe", "topics": [["a"]]}, "invalid_message"),
            ({"type": "subscribe", "topics": ["a b"]}, "invalid_topic"),
            ({"type": "subscribe", "topics": ["$user"]}, "invalid_topic"),
            ({"type": "subscribe", "topics": ["\ud800"]}, "invalid_topic"),
            ({"type": "subscribe", "topics": [f"t{n}" for n in range(201)]}, "too_many_topics"),
            ({"type": "unsubscribe", "topics": 5}, "invalid_message"),
            ({"type": "ack"}, "invalid_message"),
            ({"type": "ack", "id": 5}, "invalid_message"),
            ({"type": "resume"}, "invalid_message"),
            ({"type": "resume", "id": None}, "invalid_message"),
        ],
        ids=lambda value: str(value)[:50],
    )
    async def test_invalid_message_gets_an_error_frame(
        self, broadcaster: Broadcaster, message: Any, word: str
    ) -> None:
        """An invalid message gets an error frame, and the connection stays open."""
        async with WebSocketExchange(live_app(broadcaster), "/websocket?topics=t") as socket:
            await socket.first_frame()
            socket.send(message)
            frame = await socket.frame()
            assert (frame["type"], frame["data"]["code"]) == ("error", word)
            assert frame["id"]
            await broadcaster.publish("t", 1)
            assert (await socket.frame())["data"] == 1

    async def test_commands(self, broadcaster: Broadcaster) -> None:
        """Ping, subscribe and unsubscribe are answered, and unknown members are ignored."""
        async with WebSocketExchange(live_app(broadcaster, authorize=subscribe_only)) as socket:
            await socket.first_frame()
            for message, kind, data in [
                ({"type": "ping", "extra": [1]}, "pong", None),
                (
                    {"type": "subscribe", "topics": ["a", "b"]},
                    "subscribed",
                    {"topics": ["a", "b"], "rejected": []},
                ),
                (
                    {"type": "subscribe", "metrics": "c.*"},
                    "subscribed",
                    {"topics": [], "rejected": ["c.*"]},
                ),
                ({"type": "unsubscribe", "topics": "a"}, "unsubscribed", {"topics": ["a"]}),
            ]:
                socket.send(message)
                frame = await socket.frame()
                assert (frame["type"], frame.get("data")) == (kind, data)
            await broadcaster.publish("a", 1)
            await broadcaster.publish("b", 2)
            assert (await socket.frame())["data"] == 2

    async def test_resume_as_first_message(self, broadcaster: Broadcaster) -> None:
        """A client without headers resumes by its first message on the same socket."""
        app = live_app(broadcaster)
        async with WebSocketExchange(app, "/websocket?topics=t") as socket:
            await socket.first_frame()
            await broadcaster.publish("t", 1)
            event_id = (await socket.frame())["id"]
            await broadcaster.publish("t", 2)
            await socket.frame()
        for text, session in ((event_id, "resumed"), ("nonsense", "gap"), ("", "fresh")):
            async with WebSocketExchange(app, "/websocket?topics=t") as socket:
                socket.send({"type": "resume", "id": text})
                await socket.wait_accepted()
                frame = await socket.frame()
                if frame["data"]["session"] == "fresh" and session != "fresh":
                    # The first frame was sent before the message arrived.
                    frame = await socket.frame()
                assert frame["data"]["session"] == session
                if session == "resumed":
                    assert (await socket.frame())["data"] == 2
                socket.send({"type": "ping"})
                while (await socket.frame())["type"] != "pong":
                    pass
            await run_ready()
        assert broadcaster.statistics().connections == 0

    async def test_resume_later_is_refused(self, broadcaster: Broadcaster) -> None:
        """A resume after another message is refused with too_late."""
        async with WebSocketExchange(live_app(broadcaster)) as socket:
            first = await socket.first_frame()
            socket.send({"type": "ping"})
            await socket.frame()
            socket.send({"type": "resume", "id": first["id"]})
            assert (await socket.frame())["data"]["code"] == "too_late"

    async def test_acknowledgements_set_the_resume_point(self, broadcaster: Broadcaster) -> None:
        """Valid acknowledgements set the resume point, and others have no effect."""
        app = live_app(broadcaster)
        async with (
            WebSocketExchange(app, "/websocket?topics=t") as socket,
            WebSocketExchange(app, "/websocket?topics=t") as other,
        ):
            own_first, other_first = await socket.first_frame(), await other.first_frame()
            ids = []
            for n in range(4):
                await broadcaster.publish("t", n)
                ids.append((await socket.frame())["id"])
            epoch, _, token = ids[0].split("~")
            future = f"{epoch}~999~{token}"
            invalid = (own_first["id"], other_first["id"], future, "-1", "", "~")
            for event_id in (ids[1], ids[1], ids[0], *invalid):
                socket.send({"type": "ack", "id": event_id})
            socket.send({"type": "ping"})
            assert (await socket.frame())["type"] == "pong", "an acknowledgement has no answer"
        async with WebSocketExchange(app, f"/websocket?topics=t&reconnect_token={token}") as socket:
            data = (await socket.first_frame())["data"]
            assert (data["session"], data["replay"]) == ("resumed", 2)

    async def test_flood_is_closed(self, broadcaster: Broadcaster) -> None:
        """Messages over the limit close the connection with too_many_messages."""
        inbound = InboundLimits(rate=10.0, burst=20)
        async with WebSocketExchange(live_app(broadcaster, inbound=inbound)) as socket:
            await socket.first_frame()
            for _ in range(20):
                socket.send({"type": "ack", "id": "x"})
            await run_ready(50)
            await asyncio.sleep(1.0)
            for _ in range(10):
                socket.send({"type": "ack", "id": "x"})
            await run_ready(50)
            assert not socket.task.done(), "within the limit"
            for _ in range(200):
                socket.send({"type": "ack", "id": "x"})
            assert await socket.wait_closed() == Reason.TOO_MANY_MESSAGES.close_code

    async def test_acknowledgement_of_each_frame_is_free(self, broadcaster: Broadcaster) -> None:
        """An acknowledgement that advances does not count for the limit; a repeated one does."""
        app = live_app(broadcaster, inbound=InboundLimits(rate=1.0, burst=5))
        async with WebSocketExchange(app, "/websocket?topics=t&ack=true") as socket:
            id = (await socket.first_frame())["id"]
            for number in range(100):
                await broadcaster.publish("t", number)
                id = (await socket.frame())["id"]
                socket.send({"type": "ack", "id": id})
            for _ in range(20):
                socket.send({"type": "ack", "id": id})
            assert await socket.wait_closed() == Reason.TOO_MANY_MESSAGES.close_code

    async def test_acknowledgement_of_an_unissued_id_counts(self, broadcaster: Broadcaster) -> None:
        """An id that was never issued counts for the limit, even below the sent position."""
        app = live_app(broadcaster, inbound=InboundLimits(rate=1.0, burst=5))
        for number in range(100):
            await broadcaster.publish("other", number)
        await run_ready()
        async with WebSocketExchange(app, "/websocket?topics=t") as socket:
            epoch, _, token = (await socket.first_frame())["id"].split("~")
            for number in range(1, 50):
                socket.send({"type": "ack", "id": f"{epoch}~{number}~{token}"})
            assert await socket.wait_closed() == Reason.TOO_MANY_MESSAGES.close_code

    async def test_unread_answers_close_the_connection(self) -> None:
        """A client that sends pings and does not read the answers is closed."""
        async with Broadcaster() as broadcaster:
            app = live_app(broadcaster, inbound=InboundLimits(rate=1e6, burst=1_000_000))
            release = asyncio.Event()

            async def slow_app(scope: Any, receive: Any, send: Any) -> None:
                async def send_when_released(message: Any) -> None:
                    if message["type"] == "websocket.send":
                        await release.wait()
                    await send(message)

                await app(scope, receive, send_when_released)

            async with WebSocketExchange(slow_app) as socket:
                await socket.wait_accepted()
                for _ in range(10 * MAX_CONTROL_FRAMES):
                    socket.send({"type": "ping"})
                await run_ready(20 * MAX_CONTROL_FRAMES)
                release.set()
                assert await socket.wait_closed() == Reason.TOO_MANY_MESSAGES.close_code

    async def test_any_message_resets_the_idle_timeout(self) -> None:
        """Any message of the client resets the idle timeout."""
        async with (
            Broadcaster(idle_timeout=100.0, heartbeat_interval=None) as broadcaster,
            WebSocketExchange(live_app(broadcaster)) as socket,
        ):
            await socket.first_frame()
            for _ in range(10):
                await asyncio.sleep(60.0)
                socket.send("not even JSON")
            assert not socket.task.done()
            assert await asyncio.wait_for(socket.wait_closed(), 200.0) == Reason.IDLE.close_code


@settings(max_examples=60)
@given(
    st.lists(
        st.text(max_size=30)
        | st.binary(max_size=10)
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["ping", "ack", "subscribe", "unsubscribe", "resume", "x"])},
            optional={
                "topics": st.lists(st.sampled_from(["a", "b.*", "$user", "", "é", 5]), max_size=3),
                "id": st.none() | st.text(max_size=40) | st.integers(),
            },
        ),
        max_size=15,
    )
)
def test_connection_survives_any_messages(messages: list[Any]) -> None:
    """A ping is answered after any sequence of messages."""

    async def script() -> None:
        async with Broadcaster() as broadcaster, WebSocketExchange(live_app(broadcaster)) as socket:
            await socket.wait_accepted()
            for message in messages:
                socket.send(message)
            socket.send({"type": "ping"})
            while (await socket.frame())["type"] != "pong":
                pass
            await run_ready()

    run_virtual(script())
