"""Names that are no topic, and names that only look odd, at every place where a topic is named."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from holdfast import Broadcaster, InvalidTopic, Refused
from holdfast.asgi import LiveApp
from holdfast.core.topics import TopicIndex, check_expression, matches
from tests.bad_inputs.entries import Door, bystander, enter, maker_of, refusal
from tests.bad_inputs.inputs import MEGABYTE, NO_TOPICS, ODD_TOPICS, SURROGATES, WRONG_TYPES
from tests.support.asgi import Http, Socket, by_name, fetch

if TYPE_CHECKING:
    from tests.bad_inputs.entries import Client

STREAM, RECONNECT = Door("http", "/stream", "none"), Door("http", "/reconnect", "none")
POLL, SOCKET = Door("http", "/poll", "none"), Door("websocket", "/websocket", "none")
every_handshake = pytest.mark.parametrize("door", [STREAM, RECONNECT, POLL, SOCKET], ids=str)
POSTS = ["/subscribe", "/unsubscribe"]


async def hello(app: LiveApp, path: str = "/stream") -> dict[str, Any]:
    """What a fresh session says."""
    async with Http(app, path) as call:
        await call.start()
        return dict((await call.frame())["data"])


@every_handshake
async def test_no_topic_in_a_query(app: LiveApp, broadcaster: Broadcaster, door: Door) -> None:
    """Alone or beside good ones, by either name, it is refused with one code, and opens nothing."""
    wanted = ("invalid_topic", 400 if door.transport == "http" else 4400)
    async with bystander(app, broadcaster) as other:
        opened = broadcaster.statistics().opened
        for name in NO_TOPICS:
            text = quote(name)
            for topics in (text, f"good,{text}", f"{text}&metrics=good"):
                assert await refusal(door, app, "", topics=topics) == wanted, ascii(name[:40])
            assert (await refusal(door, app, "", topics=f"&metrics={text}")) == wanted
        await other.undisturbed()
        assert broadcaster.statistics().opened == opened


@pytest.mark.parametrize("path", POSTS)
async def test_no_topic_in_a_post(app: LiveApp, broadcaster: Broadcaster, path: str) -> None:
    """It is refused, and the topics stay as they were, the good ones named with it too."""
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
    """The client has its one topic, and no other."""
    for topic in ("good", "a", "t"):
        await broadcaster.publish(topic, topic)
    assert (await client.frame())["data"] == "t"


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
async def test_no_topic_in_a_message(app: LiveApp, broadcaster: Broadcaster, kind: str) -> None:
    """One error frame for each, nothing changed, and the connection goes on."""
    async with enter(SOCKET, app, "") as client:
        assert isinstance(client.call, Socket)
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
async def test_no_names_at_all(app: LiveApp, broadcaster: Broadcaster, topics: Any) -> None:
    """Another type in the place of the list, or in it, is an invalid message, over either way."""
    async with enter(SOCKET, app, "") as client:
        assert isinstance(client.call, Socket)
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


async def test_no_topic_in_a_call(broadcaster: Broadcaster) -> None:
    """In Python code it raises, and nothing is opened, queued or scheduled."""
    wrong: list[Any] = ["", ",", "a,b", *NO_TOPICS, *SURROGATES, *WRONG_TYPES[:12], b"a", object]
    async with broadcaster.connect(topics=["t"]) as outbox:
        for name in wrong:
            with pytest.raises(InvalidTopic):
                await broadcaster.publish(name, 1)
            with pytest.raises(InvalidTopic):
                await broadcaster.publish(name, 1, to_user="ann" if name != "$user" else None)
            with pytest.raises(InvalidTopic):
                broadcaster.periodic(name, lambda: 1, interval=1.0)
            if not isinstance(name, dict | list):
                for call in (
                    broadcaster.subscribe(outbox, ["good", name]),
                    broadcaster.unsubscribe(outbox, ["t", name]),
                    broadcaster.position(["t", name]),
                ):
                    with pytest.raises(Refused) as caught:
                        await call
                    assert caught.value.reason.word == "invalid_topic"
                with pytest.raises(Refused):
                    async with broadcaster.connect(topics=["t", name]):
                        pass
        assert list(outbox.subscriptions) == ["t"]
    statistics = broadcaster.statistics()
    assert (statistics.opened, statistics.published, statistics.position) == (1, 0, 0)


async def test_a_text_is_no_list_of_topics(broadcaster: Broadcaster) -> None:
    """One name in the place of a list of names is an error, and not a list of its letters."""
    names: Any = "orders"
    async with broadcaster.connect(topics=["t"]) as outbox:
        with pytest.raises(TypeError):
            await broadcaster.position(names)
        with pytest.raises(TypeError):
            await broadcaster.subscribe(outbox, names)
        with pytest.raises(TypeError):
            await broadcaster.unsubscribe(outbox, names)
        with pytest.raises(TypeError):
            async with broadcaster.connect(topics=names):
                pass


# -- names that look odd ---------------------------------------------------------------------------


async def test_odd_names_are_names_and_no_two_are_one(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """Byte by byte: no case, no normalisation, no key syntax of a store means a thing."""
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
async def test_query_is_read_as_utf_8_escaped_or_not(app: LiveApp, door: Door) -> None:
    """The same bytes name the same topic, percent-encoded or raw (WHATWG URL, section 5.1)."""
    make = maker_of(door.path)
    for query in (b"topics=%C3%A9", "topics=é".encode()):
        async with make(app, door.path, query_string=query) as call:
            await (call.start() if isinstance(call, Http) else call.accepted())
            assert (await call.frame())["data"]["topics"] == ["é"], query


async def test_redis_keys_are_no_way_to_another_topic(broadcaster: Broadcaster) -> None:
    """What would be a separator, a hash tag or a pattern in a store's key stays inside the name."""
    names = ["a:b", "a", "b", "{a}", "a{b}", "a:{b}", "holdfast:a", "a\\:b", "[a]", "a?", "a:b:c"]
    for name in names:
        async with broadcaster.connect(topics=[name], user="ann") as outbox:
            for other in names:
                await broadcaster.publish(other, other, key="k")
                await broadcaster.publish(other, f"for {other}", key="k", to_user="bob")
            await outbox.next_frames()
            frames = await outbox.next_frames() or []
            assert [json.loads(frame.body)["data"] for frame in frames] == [name]


# -- too many, and pathological --------------------------------------------------------------------


@every_handshake
async def test_too_many_in_a_query(app: LiveApp, door: Door) -> None:
    """More names than allowed, or than a query may hold, are refused; repeated ones are one."""
    status = 400 if door.transport == "http" else 4400
    for names, code in (
        ([f"t{n}" for n in range(201)], "too_many_topics"),
        ([f"{n:x}" for n in range(13_000)], "too_many_topics"),
        ([f"topic{n}" for n in range(100_000)], "invalid_query"),
        (["x" * 10_240] * 10, "invalid_query"),
    ):
        assert await refusal(door, app, "", topics=",".join(names)) == (code, status)
    fields = "&".join(f"topics={n}" for n in range(100_000))
    assert await refusal(door, app, "", topics=fields) == ("invalid_query", status)
    async with enter(door, app, "", topics=",".join(["t"] * 20_000) + "," * 20_000) as client:
        assert client.data["topics"] == ["t"]


async def test_too_many_over_a_connection(app: LiveApp, broadcaster: Broadcaster) -> None:
    """At once or one by one, by message or by POST, there are never more than allowed."""
    async with enter(SOCKET, app, "") as client:
        assert isinstance(client.call, Socket)
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


async def test_patterns_need_their_own_right(broadcaster: Broadcaster) -> None:
    """Without it a pattern is listed as rejected at every door, and covers nothing."""
    app = LiveApp(broadcaster, authenticate=by_name)
    patterns = ["*", "**", "t.*", "t.**", "*.t", "*.*.*.*.*.*.*.**"]
    for door in (STREAM, RECONNECT, SOCKET):
        async with enter(door, app, "", topics=",".join([*patterns, "t"])) as client:
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
    """Whether a topic exists is not told, neither of one that may be seen nor of another."""
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
    """Patterns that would blow up a backtracking matcher are refused, or cost 8 comparisons."""
    for evil in ("**.**.**.**.a", "*" * 100, "a*a*a*a*b", "(a+)+$", "*.**.*.**", "**.*"):
        if "*" in evil:
            with pytest.raises(InvalidTopic):
                check_expression(evil)
    began = time.perf_counter()
    for _ in range(1000):
        assert not matches(".".join("*" * 7) + ".b", ".".join("a" * 8))
        assert matches("**", ".".join("a" * 8))
    assert time.perf_counter() - began < 2.0  # microseconds each; exponential would take for ever
    index: TopicIndex[int] = TopicIndex()
    for n in range(2**8):
        bits = ["*" if n >> bit & 1 else "a" for bit in range(8)]
        index.add(".".join(bits), n)
    assert len(index.match(".".join("a" * 8))) == 2**8


async def test_megabyte_of_a_name(app: LiveApp, broadcaster: Broadcaster) -> None:
    """A name of any length is refused by its length, and shown by its first letters only."""
    for char in ("x", "é", "\0", "\u202e", ".", "*", "\ud800"):
        with pytest.raises(InvalidTopic) as caught:
            await broadcaster.publish(char * MEGABYTE, 1)
        assert len(str(caught.value)) < 500
        assert str(caught.value).isascii()
