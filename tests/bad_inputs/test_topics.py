"""Invalid names, and names that only look odd, at every place that takes a topic."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from holdfast import Broadcaster, InvalidTopic, Refused
from holdfast.asgi import LiveApp
from holdfast.core.topics import TopicIndex, check_expression, matches
from tests.bad_inputs.entries import EntryPoint, bystander, enter, maker_of, refusal
from tests.bad_inputs.inputs import MEGABYTE, NO_TOPICS, ODD_TOPICS, SURROGATES, WRONG_TYPES
from tests.support.asgi import HttpExchange, WebSocketExchange, authenticate_by_header, fetch

if TYPE_CHECKING:
    from tests.bad_inputs.entries import Client

STREAM, RECONNECT = EntryPoint("http", "/stream", "none"), EntryPoint("http", "/reconnect", "none")
POLL, SOCKET = EntryPoint("http", "/poll", "none"), EntryPoint("websocket", "/websocket", "none")
every_handshake = pytest.mark.parametrize("entry_point", [STREAM, RECONNECT, POLL, SOCKET], ids=str)
POSTS = ["/subscribe", "/unsubscribe"]


async def hello(app: LiveApp, path: str = "/stream") -> dict[str, Any]:
    """Return the first frame of a fresh session."""
    async with HttpExchange(app, path) as call:
        await call.read_head()
        return dict((await call.frame())["data"])


@every_handshake
async def test_invalid_topic_in_a_query_is_refused(
    app: LiveApp, broadcaster: Broadcaster, entry_point: EntryPoint
) -> None:
    """An invalid name, alone or beside valid ones, is refused with one code, and opens nothing."""
    wanted = ("invalid_topic", 400 if entry_point.transport == "http" else 4400)
    async with bystander(app, broadcaster) as other:
        opened = broadcaster.statistics().opened
        for name in NO_TOPICS:
            text = quote(name)
            for topics in (text, f"good,{text}", f"{text}&metrics=good"):
                assert await refusal(entry_point, app, "", topics=topics) == wanted, ascii(
                    name[:40]
                )
            assert (await refusal(entry_point, app, "", topics=f"&metrics={text}")) == wanted
        await other.undisturbed()
        assert broadcaster.statistics().opened == opened


@pytest.mark.parametrize("path", POSTS)
async def test_invalid_topic_in_a_post_is_refused(
    app: LiveApp, broadcaster: Broadcaster, path: str
) -> None:
    """An invalid subscribe is refused as a whole; the topics stay as they were."""
    async with enter(STREAM, app, "") as client:
        id = client.data["connectionId"]
        for name in ["", ",", "a,b", *NO_TOPICS, *SURROGATES]:
            for topics in (name, [name], ["t", name], [name, "good"]):
                for member in ("topics", "metrics"):
                    body = {"connectionId": id, member: topics}
                    answer = await fetch(app, "POST", path, body=body)
                    assert answer.status == 400
                    assert answer.json()["error"]["code"] == "invalid_topic", ascii(name[:40])
                    assert answer.body.isascii()
                    assert len(answer.body) < 600
        await still_as_it_was(client, broadcaster)


async def still_as_it_was(client: Client, broadcaster: Broadcaster) -> None:
    """Check that the client has its one topic, and no other."""
    for topic in ("good", "a", "t"):
        await broadcaster.publish(topic, topic)
    assert (await client.frame())["data"] == "t"


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
async def test_invalid_topic_in_a_message_is_refused(
    app: LiveApp, broadcaster: Broadcaster, kind: str
) -> None:
    """Each invalid subscribe gets one error frame and has no effect; the connection continues."""
    async with enter(SOCKET, app, "") as client:
        assert isinstance(client.call, WebSocketExchange)
        for name in ["", ",", "a,b", *NO_TOPICS, *SURROGATES]:
            for topics in (name, [name], ["t", name], [name, "good"]):
                client.call.send({"type": kind, "topics": topics})
                frame = await client.frame()
                assert (frame["type"], frame["data"]["code"]) == ("error", "invalid_topic")
                assert set(frame["data"]) == {"code", "detail"}
                assert frame["data"]["detail"].isascii()
                assert frame["data"]["detail"].isprintable()
                assert len(frame["data"]["detail"]) < 500
        await still_as_it_was(client, broadcaster)


@pytest.mark.parametrize("topics", WRONG_TYPES, ids=repr)
async def test_wrong_type_of_topics_is_refused(
    app: LiveApp, broadcaster: Broadcaster, topics: Any
) -> None:
    """Another type than a list of names is an invalid message, by message and by POST."""
    async with enter(SOCKET, app, "") as client:
        assert isinstance(client.call, WebSocketExchange)
        for kind in ("subscribe", "unsubscribe"):
            for member in ("topics", "metrics"):
                client.call.send({"type": kind, member: topics})
                assert (await client.frame())["data"]["code"] == "invalid_message"
                body = {"connectionId": client.data["connectionId"], member: topics}
                answer = await fetch(app, "POST", f"/{kind}", body=body)
                assert (answer.status, answer.json()["error"]["code"]) == (
                    400,
                    "invalid_message",
                )
        await still_as_it_was(client, broadcaster)


async def test_invalid_topic_in_a_call_raises(broadcaster: Broadcaster) -> None:
    """In Python code an invalid name raises, and nothing is opened, queued or scheduled."""
    wrong: list[Any] = ["", ",", "a,b", *NO_TOPICS, *SURROGATES, *WRONG_TYPES[:12], b"a", object]
    async with broadcaster.connect(topics=["t"]) as connection:
        for name in wrong:
            with pytest.raises(InvalidTopic):
                await broadcaster.publish(name, 1)
            with pytest.raises(InvalidTopic):
                await broadcaster.publish(name, 1, to_user="ann" if name != "$user" else None)
            with pytest.raises(InvalidTopic):
                broadcaster.periodic(name, lambda: 1, interval=1.0)
            if not isinstance(name, dict | list):
                for call in (
                    broadcaster.subscribe(connection, ["good", name]),
                    broadcaster.unsubscribe(connection, ["t", name]),
                    broadcaster.position(["t", name]),
                ):
                    with pytest.raises(Refused) as caught:
                        await call
                    assert caught.value.reason.word == "invalid_topic"
                with pytest.raises(Refused):
                    async with broadcaster.connect(topics=["t", name]):
                        pass
        assert list(connection.subscriptions) == ["t"]
    statistics = broadcaster.statistics()
    assert (statistics.opened, statistics.published, statistics.offset) == (1, 0, 0)


async def test_string_in_place_of_topics_raises(broadcaster: Broadcaster) -> None:
    """A single name in the place of a list is an error, not a list of its letters."""
    names: Any = "orders"
    async with broadcaster.connect(topics=["t"]) as connection:
        with pytest.raises(TypeError):
            await broadcaster.position(names)
        with pytest.raises(TypeError):
            await broadcaster.subscribe(connection, names)
        with pytest.raises(TypeError):
            await broadcaster.unsubscribe(connection, names)
        with pytest.raises(TypeError):
            async with broadcaster.connect(topics=names):
                pass


# -- names that look odd ---------------------------------------------------------------------------


async def test_odd_names_are_distinct_topics(app: LiveApp, broadcaster: Broadcaster) -> None:
    """Names are compared byte by byte: no case, normalisation or key syntax has a meaning."""
    for name in ODD_TOPICS:
        async with enter(STREAM, app, "", topics=quote(name)) as client:
            assert client.data["topics"] == [name]
            for other in ODD_TOPICS:
                if other != name:
                    await broadcaster.publish(other, "another's")
            await broadcaster.publish(name, "mine")
            frame = await client.frame()
            assert (frame["topic"], frame["data"]) == (name, "mine"), ascii(name)


@every_handshake
async def test_query_is_read_as_utf_8_escaped_or_not(app: LiveApp, entry_point: EntryPoint) -> None:
    """The same bytes name the same topic, percent-encoded or raw (WHATWG URL, section 5.1)."""
    make = maker_of(entry_point.path)
    for query in (b"topics=%C3%A9", "topics=é".encode()):
        async with make(app, entry_point.path, query_string=query) as call:
            await (call.read_head() if isinstance(call, HttpExchange) else call.wait_accepted())
            assert (await call.frame())["data"]["topics"] == ["é"], query


async def test_key_syntax_of_a_store_reaches_no_other_topic(broadcaster: Broadcaster) -> None:
    """A separator, hash tag or pattern of a store's key syntax is only part of the name."""
    names = ["a:b", "a", "b", "{a}", "a{b}", "a:{b}", "holdfast:a", "a\\:b", "[a]", "a?", "a:b:c"]
    for name in names:
        async with broadcaster.connect(topics=[name], user="ann") as connection:
            for other in names:
                await broadcaster.publish(other, other, key="k")
                await broadcaster.publish(other, f"for {other}", key="k", to_user="bob")
            await connection.next_frames()
            frames = await connection.next_frames() or []
            assert [json.loads(frame.body)["data"] for frame in frames] == [name]


# -- too many, and pathological --------------------------------------------------------------------


@every_handshake
async def test_too_many_topics_in_a_query_are_refused(
    app: LiveApp, entry_point: EntryPoint
) -> None:
    """Too many names, or too long a query, are refused; repeated names count once."""
    status = 400 if entry_point.transport == "http" else 4400
    for names, code in (
        ([f"t{n}" for n in range(201)], "too_many_topics"),
        ([f"{n:x}" for n in range(13_000)], "too_many_topics"),
        ([f"topic{n}" for n in range(100_000)], "invalid_query"),
        (["x" * 10_240] * 10, "invalid_query"),
    ):
        assert await refusal(entry_point, app, "", topics=",".join(names)) == (code, status)
    fields = "&".join(f"topics={n}" for n in range(100_000))
    assert await refusal(entry_point, app, "", topics=fields) == ("invalid_query", status)
    async with enter(
        entry_point, app, "", topics=",".join(["t"] * 20_000) + "," * 20_000
    ) as client:
        assert client.data["topics"] == ["t"]


async def test_topics_of_a_connection_never_exceed_the_limit(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """By one request or by many, by message or by POST, a client never exceeds the limit."""
    async with enter(SOCKET, app, "") as client:
        assert isinstance(client.call, WebSocketExchange)
        id = client.data["connectionId"]
        for names, code in (
            ([f"t{n}" for n in range(201)], "too_many_topics"),
            ([f"{n:x}" for n in range(7_000)], "too_many_topics"),
            ([f"topic{n}" for n in range(100_000)], "too_large"),
        ):
            client.call.send({"type": "subscribe", "topics": names})
            assert (await client.frame())["data"]["code"] == code
            body = {"connectionId": id, "topics": names}
            answer = await fetch(app, "POST", "/subscribe", body=body)
            assert answer.json()["error"]["code"] == code
        for first in range(0, 300, 60):
            body = {"connectionId": id, "topics": [f"u{n}" for n in range(first, first + 60)]}
            answer = await fetch(app, "POST", "/subscribe", body=body)
            assert answer.status == (200 if first + 60 < 200 else 400)
        held = broadcaster.connection_statistics()[0].topics
        assert held <= 201
        await still_as_it_was(client, broadcaster)
    with pytest.raises(Refused) as caught:
        async with broadcaster.connect(topics=map(str, range(100_000))):
            pass
    assert caught.value.reason.word == "too_many_topics"


async def test_pattern_needs_its_own_permission(broadcaster: Broadcaster) -> None:
    """Without the permission, a pattern is rejected at every entry point, and covers nothing."""
    app = LiveApp(broadcaster, authenticate=authenticate_by_header)
    patterns = ["*", "**", "t.*", "t.**", "*.t", "*.*.*.*.*.*.*.**"]
    for entry_point in (STREAM, RECONNECT, SOCKET):
        async with enter(entry_point, app, "", topics=",".join([*patterns, "t"])) as client:
            assert client.data["topics"] == ["t"]
            assert client.data["rejected"] == sorted(patterns)
            body = {"connectionId": client.data["connectionId"], "topics": patterns}
            answer = await fetch(app, "POST", "/subscribe", body=body)
            assert answer.json() == {"topics": [], "rejected": patterns}
            await broadcaster.publish("t.t", "covered")
            await broadcaster.publish("x", "covered")
            await broadcaster.publish("t", "mine")
            assert (await client.frame())["data"] == "mine"


async def test_forbidden_and_unknown_topics_are_answered_alike(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """Answers do not reveal whether a topic exists, permitted or not."""
    await broadcaster.publish("secret.one", 1)
    await broadcaster.publish("open.one", 1)
    answers = []
    for name in ("one", "two"):
        data = await hello(app, f"/stream?topics=secret.{name},open.{name}")
        del data["connectionId"], data["reconnectToken"], data["resumableUntil"]
        answers.append(str(data).replace(name, "name"))
    assert answers[0] == answers[1]
    assert "'rejected': ['secret.name']" in answers[0]


def test_worst_patterns_match_in_bounded_steps() -> None:
    """Patterns that would explode a backtracking matcher are refused, or cost 8 comparisons."""
    for evil in ("**.**.**.**.a", "*" * 100, "a*a*a*a*b", "(a+)+$", "*.**.*.**", "**.*"):
        if "*" in evil:
            with pytest.raises(InvalidTopic):
                check_expression(evil)
    began = time.perf_counter()
    for _ in range(1000):
        assert not matches(".".join("*" * 7) + ".b", ".".join("a" * 8))
        assert matches("**", ".".join("a" * 8))
    assert (
        time.perf_counter() - began < 2.0
    )  # microseconds each; an exponential matcher would not end
    index: TopicIndex[int] = TopicIndex()
    for n in range(2**8):
        bits = ["*" if n >> bit & 1 else "a" for bit in range(8)]
        index.add(".".join(bits), n)
    assert len(index.match(".".join("a" * 8))) == 2**8


async def test_huge_name_is_refused_by_its_length(app: LiveApp, broadcaster: Broadcaster) -> None:
    """A name of any length is refused by its length, and only its first letters are shown."""
    for char in ("x", "é", "\0", "\u202e", ".", "*", "\ud800"):
        with pytest.raises(InvalidTopic) as caught:
            await broadcaster.publish(char * MEGABYTE, 1)
        assert len(str(caught.value)) < 500
        assert str(caught.value).isascii()
