"""What the reader makes of each answer, from a server that answers as the test says."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from holdfast.client import (
    Gap,
    InvalidStream,
    RequestRefused,
    Status,
    Stream,
    StreamEnded,
    StreamFailed,
    connect,
)
from holdfast.client import receiver as receiver_module
from holdfast.errors import ConfigurationError
from tests.client.scripted_server import (
    HEAD,
    TOKEN,
    Answer,
    Answers,
    Asked,
    answering,
    closing,
    event,
    hello,
    id_of,
    message,
    problem,
    status,
    stream,
)
from tests.client.until import PATIENCE, until

FAST = (0.0, 0.02)


def live(answers: Answers, **options: Any) -> AbstractAsyncContextManager[Stream]:
    """A stream from that server, without waits worth mentioning."""
    return connect(answers.url, topics=["t"], **{"retry_delays": FAST, **options})


async def take(stream_: Stream, count: int) -> list[Any]:
    """The data of the next messages."""
    async with asyncio.timeout(PATIENCE):
        return [(await anext(stream_)).data for _ in range(count)]


GOOD = stream(hello(), message(1))
ENDS = stream(hello(), message(1), stays=False)


@pytest.mark.parametrize("line", "500 x|502 x|503 x|504 x|599 x|408 x|425 x|429 x".split("|"))
async def test_what_may_pass_is_tried_again(line: str) -> None:
    """At 5xx, 408, 425 and 429 the client comes back, before the first frame ever and later."""
    bad = status(line)
    async with (
        answering(bad, bad, ENDS, bad, stream(hello(1), message(2))) as server,
        live(server) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]
    assert [each.headers.get("last-event-id") for each in server.asked] == [
        *[None] * 3,
        id_of(1),
        id_of(1),
    ]


@pytest.mark.parametrize(
    ("answer", "kind", "code", "number"),
    [
        (status("400 x", body=problem("invalid_topic")), RequestRefused, "invalid_topic", 400),
        (status("401 x", body=problem("unauthorized")), RequestRefused, "unauthorized", 401),
        (status("403 x", body=problem("foreign_origin")), RequestRefused, "foreign_origin", 403),
        (status("404 x", body=b"<html>"), RequestRefused, "http_error", 404),
        (status("418 x"), RequestRefused, "http_error", 418),
        (status("204 x"), RequestRefused, "no_content", 204),
        (status("307 x", "location: http://elsewhere/"), RequestRefused, "redirect", 307),
        (status("200 OK", body=b"hello"), InvalidStream, "not_an_event_stream", 200),
        (
            status("200 OK", "content-type: text/event-stream", "content-encoding: gzip"),
            InvalidStream,
            "compressed",
            200,
        ),
        (stream(closing("forbidden", reconnect=False)), StreamEnded, "forbidden", None),
        (stream(message(1)), InvalidStream, "no_first_frame", None),
        (stream(b"data: hello\n\n"), InvalidStream, "not_json", None),
        (stream(b"data: \xff\n\n"), InvalidStream, "not_utf8", None),
    ],
)
async def test_what_would_not_change_is_an_error_of_connect(
    answer: Answer, kind: type[StreamFailed], code: str, number: int | None
) -> None:
    """Before the first frame, the block does not begin, and the error says what was answered."""
    async with answering(answer) as server:
        with pytest.raises(kind) as caught:
            async with live(server, token="secret-token"):
                raise AssertionError("the block must not begin")
        assert (caught.value.code, caught.value.status) == (code, number)
        assert "secret" not in str(caught.value)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (status("400 x", body=problem("invalid_topic")), "invalid_topic"),
        (status("403 x", body=problem("foreign_origin")), "foreign_origin"),
        (status("404 x", body=problem("not_found")), "not_found"),
        (status("204 x"), "no_content"),
        (stream(closing("replaced", reconnect=False)), "replaced"),
        (stream(hello(1), closing("credentials_expired", reconnect=False)), "credentials_expired"),
    ],
)
async def test_server_that_says_no_later_is_believed(answer: Answer, code: str) -> None:
    """What was read is handed out first; then the iteration raises, again and again."""
    async with answering(ENDS, answer) as server, live(server) as stream_:
        assert await take(stream_, 1) == [1]
        for _ in range(2):
            with pytest.raises(StreamFailed) as caught:
                await take(stream_, 1)
            assert caught.value.code == code
        with pytest.raises(StreamFailed):
            await stream_.subscribe("u")
        assert stream_.position == id_of(1)


@pytest.mark.parametrize(
    "answer",
    [
        status("401 x", body=problem("unauthorized")),
        status("403 x", body=b"<html>"),
        status("404 x", body=b"<html>"),
        status("200 OK", "content-type: text/html", body=b"<html>maintenance"),
        status("302 x", "location: /login"),
    ],
)
async def test_proxy_that_says_no_later_is_not_believed(
    answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it worked before, the page of something on the way ends nothing, and is logged."""
    async with (
        answering(ENDS, answer, answer, stream(hello(1), message(2))) as server,
        live(server) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]
    assert "it worked before" in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        stream(hello(1), b"data: hello\n\n"),
        stream(hello(1), b"data: \xff\n\n"),
        stream(hello(1), hello(1)),
        stream(b"data: " + b"x" * 3000),
        stream(message(2)),
    ],
)
async def test_broken_stream_is_given_up_at_the_third(answer: Answer) -> None:
    """A single one may be an accident; one that breaks at the same place always, is not."""
    options = {"max_frame_bytes": 2000}
    async with answering(
        ENDS, answer, answer, stream(hello(1), message(2), stays=False), answer
    ) as server:
        async with live(server, **options) as stream_:
            assert await take(stream_, 2) == [1, 2]
            with pytest.raises(InvalidStream):
                await take(stream_, 1)
        assert len(server.asked) == 7


@pytest.mark.parametrize("number", [10**400, -(10**400)])
async def test_number_that_is_none_is_a_broken_stream(number: int) -> None:
    """A timestamp or an interval of hundreds of digits is no number that Python has as a float."""
    frame = {"type": "message", "topic": "t", "data": 1, "priority": "low", "timestamp": number}
    async with answering(stream(hello(), event(frame, 1))) as server, live(server) as stream_:
        with pytest.raises(InvalidStream, match="timestamp"):
            await take(stream_, 1)
    async with answering(stream(hello(heartbeatInterval=number))) as server:
        with pytest.raises(InvalidStream, match="heartbeatInterval"):
            async with live(server):
                raise AssertionError("the block must not begin")


async def test_endless_line_is_given_up() -> None:
    """A line without an end costs no more than the limit."""

    async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + hello() + b"data: ")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with answering(endless) as server, live(server, max_frame_bytes=1_000_000) as stream_:
        with pytest.raises(InvalidStream, match="max_frame_bytes"):
            await take(stream_, 1)


async def test_retry_after_is_respected_up_to_the_most() -> None:
    """The server says how long to stay away; an hour is too long."""
    seen: list[Status] = []
    bad = [status("429 x", f"retry-after: {each}") for each in ("0.3", "1", "3600")]
    async with (
        answering(*bad, GOOD) as server,
        live(server, retry_delays=(0.0, 1.5), on_status=seen.append) as stream_,
    ):
        assert await take(stream_, 1) == [1]
    first, second, third = [each.retry_in or 0.0 for each in seen if each.retry_in is not None]
    assert first <= 1.5  # "0.3" is no form that RFC 9110 has
    assert 1.0 <= second <= 1.5
    assert third == 1.5


async def test_retry_of_the_stream_is_respected() -> None:
    """`retry` is the least that is waited; `closing` before the first frame brings its own."""
    seen: list[Status] = []
    busy = stream(b"retry: 400\n", closing("over capacity", reconnect=True), stays=False)
    ends = stream(b"retry: 200\n", hello(), message(1), stays=False)
    async with answering(busy, ends, stream(hello(1), message(2))) as server:
        began = time.monotonic()
        async with live(server, retry_delays=(0.0, 5.0), on_status=seen.append) as stream_:
            assert await take(stream_, 2) == [1, 2]
        waited = [each.retry_in or 0.0 for each in seen if each.retry_in is not None]
        assert waited[0] >= 0.4
        assert waited[1] >= 0.2
        assert time.monotonic() - began >= 0.6
    assert "over capacity" in str(seen[1].reason)


async def test_nobody_there_is_waited_for() -> None:
    """A server that is not up yet is tried again, until the caller has enough."""
    async with answering(GOOD) as server:
        url = server.url
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            async with connect(url, topics=["t"], retry_delays=FAST):
                raise AssertionError("nobody is there")
    assert asyncio.all_tasks() == before


async def test_first_frame_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Something that holds the stream back, and something that never answers, are left."""
    monkeypatch.setattr(receiver_module, "FIRST_FRAME_TIMEOUT", 0.3)

    async def mute(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    seen: list[Status] = []
    async with (
        answering(mute, stream(), GOOD) as server,
        live(server, on_status=seen.append) as stream_,
    ):
        assert await take(stream_, 1) == [1]
    assert sum("too long" in str(each.reason) for each in seen) >= 2


async def test_silence_is_noticed() -> None:
    """After 2.5 heartbeat intervals without a byte the client comes back by itself."""
    quiet = stream(hello(heartbeatInterval=0.2), message(1))
    async with (
        answering(quiet, stream(hello(1), message(2))) as server,
        live(server) as stream_,
    ):
        assert await take(stream_, 1) == [1]
        began = time.monotonic()
        assert await take(stream_, 1) == [2]
        assert 0.3 < time.monotonic() - began < 2.0


async def test_heartbeats_move_the_position_only_past_what_was_handled() -> None:
    """An idle stream follows the log; one that is being handled waits for that."""
    beat = b'data: {"type":"heartbeat","timestamp":1}\nid: %b\n\n'
    later = stream(hello(), message(1), beat % id_of(5).encode(), message(6))
    async with answering(later) as server, live(server) as stream_:
        assert await take(stream_, 1) == [1]
        assert stream_.position == id_of(0)
        assert await take(stream_, 1) == [6]
        assert stream_.position == id_of(5)


async def test_fresh_where_a_position_was_presented_is_a_gap() -> None:
    """A proxy that drops the header, or a server that ignores it, cannot lose in silence."""
    gaps: list[Gap] = []
    async with (
        answering(stream(hello(7, session="fresh"), message(8))) as server,
        live(server, position=id_of(3), on_gap=gaps.append) as stream_,
    ):
        assert stream_.position == id_of(3)
        assert await take(stream_, 1) == [8]
    assert gaps == [Gap("unknown", None)]


async def test_gap_is_logged_where_nobody_asks(caplog: pytest.LogCaptureFixture) -> None:
    """Without on_gap, a gap is a warning in the log: with its cause, and without a token."""
    lost = hello(9, session="gap", gap={"cause": "restart", "count": None})
    async with answering(stream(lost, message(10))) as server, live(server) as stream_:
        assert await take(stream_, 1) == [10]
    assert "messages are missing" in caplog.text
    assert "restart" in caplog.text
    assert TOKEN not in caplog.text


async def test_gap_is_told_again_if_telling_failed() -> None:
    """The position moves past a gap when on_gap has returned, and not before."""
    told: list[Gap] = []

    async def on_gap(gap: Gap) -> None:
        told.append(gap)
        if len(told) == 1:
            raise ValueError("not now")

    lost = hello(9, session="gap", gap={"cause": "restart", "count": None})
    async with (
        answering(stream(lost, message(10))) as server,
        live(server, position=id_of(3), on_gap=on_gap) as stream_,
    ):
        with pytest.raises(ValueError, match="not now"):
            await take(stream_, 1)
        assert stream_.position == id_of(3)
        assert await take(stream_, 1) == [10]
        assert stream_.position == id_of(9)
    assert told == [Gap("restart", None)] * 2


async def test_position_is_told_with_the_newest_token() -> None:
    """A consumer that is slow, on a link that is cut often, keeps a position that is accepted."""
    tokens = [letter * 22 for letter in "abc"]

    def connection(token: str, *numbers: int, stays: bool = False) -> Answer:
        frames = [hello(numbers[0] - 1, session="resumed", reconnectToken=token)]
        frames += [message(number) for number in numbers]
        return stream(b"".join(frames).replace(TOKEN.encode(), token.encode()), stays=stays)

    answers = [
        connection(tokens[0], 1, 2),
        connection(tokens[1], 3),
        connection(tokens[2], 4, stays=True),
    ]
    async with answering(*answers) as server, live(server) as stream_:
        assert await take(stream_, 2) == [1, 2]
        await until(lambda: len(server.asked) == 3 and stream_.connection_id is not None)
        assert stream_.position == id_of(1).replace(TOKEN, tokens[2])
        assert server.asked[1].headers["last-event-id"] == id_of(2).replace(TOKEN, tokens[0])
        assert await take(stream_, 2) == [3, 4]
        assert stream_.position == id_of(3).replace(TOKEN, tokens[2])


async def test_position_of_a_session_that_was_lost_keeps_its_token() -> None:
    """Beyond a gap the old place with the new token would be resumed as if nothing was missing."""
    new = "n" * 22
    lost = {"session": "gap", "gap": {"cause": "unknown", "count": None}, "reconnectToken": new}
    second = stream(hello(7, **lost).replace(TOKEN.encode(), new.encode()))
    async with answering(ENDS, second) as server, live(server) as stream_:
        assert await take(stream_, 1) == [1]
        await until(lambda: len(server.asked) == 2 and stream_.connection_id is not None)
        assert stream_.position == id_of(0)


async def test_token_is_asked_for_again_after_a_401() -> None:
    """Once at once; then with the delays of every failure, as long as it takes."""
    issued: list[str] = []

    async def token() -> str:
        issued.append(f"token-{len(issued)}")
        return issued[-1]

    refused = status("401 x", body=problem("unauthorized"))
    expired = stream(hello(), message(1), closing("credentials_expired", reconnect=False))
    async with (
        answering(refused, refused, expired, stream(hello(1), message(2))) as server,
        live(server, token=token) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]
    sent = [each.headers["authorization"] for each in server.asked]
    assert sent == [f"Bearer token-{number}" for number in range(4)]


async def test_token_that_cannot_be_had_is_an_error_at_first_and_a_wait_later() -> None:
    """Whoever issues tokens may be away for a while; a mistake in the function shows at once."""
    fails = 2

    def token() -> str:
        nonlocal fails
        fails -= 1
        if 0 <= fails < 2:
            raise OSError("nobody there")
        return "good"

    async with answering(GOOD) as server:
        with pytest.raises(OSError, match="nobody there"):
            async with live(server, token=token):
                raise AssertionError("the block must not begin")
    fails = 3
    expired = stream(hello(), message(1), closing("credentials_expired", reconnect=False))
    async with (
        answering(expired, stream(hello(1), message(2))) as server,
        live(server, token=token) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]


async def test_what_is_sent() -> None:
    """The address, the query and the headers of the application are kept; ours are added."""
    async with answering(GOOD) as server:
        async with connect(
            f"{server.url}/a%2Fb/live/?tenant=7",
            topics=["b.*", "a", "b.*"],
            params={"x": "1&2"},
            headers={"X-User": "ann"},
            position=id_of(1),
            token="secret",
            on_gap=lambda gap: None,
        ) as stream_:
            await take(stream_, 1)
        (asked,) = server.asked
    url = httpx.URL(f"http://h{asked.path}")
    assert url.raw_path.startswith(b"/a%2Fb/live/stream?")
    assert dict(url.params) == {"tenant": "7", "x": "1&2", "topics": "a,b.*", "ack": "true"}
    assert asked.headers["accept"] == "text/event-stream"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["last-event-id"] == id_of(1)
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.headers["x-user"] == "ann"


@pytest.mark.parametrize(
    "options",
    [
        {"topics": "orders"},
        {"topics": ["a,b"]},
        {"topics": [""]},
        {"position": "é"},
        {"position": "a\nb"},
        {"position": "x" * 600},
        {"params": {"topics": "a"}},
        {"retry_delays": (2.0, 1.0)},
        {"retry_delays": (-1.0, 1.0)},
        {"max_frame_bytes": 0},
        {"max_queue_messages": 0},
        {"max_queue_bytes": True},
        {"url": "live"},
        {"url": "/live"},
        {"url": "ftp://h/live"},
        {"url": "http://"},
    ],
)
def test_what_cannot_work_is_said_at_once(options: dict[str, Any]) -> None:
    """A wrong option raises where it is written, before anything is sent."""
    url = options.pop("url", "http://localhost/")
    with pytest.raises(ValueError, match=r"topic|position|params|retry|max_|queue|url"):
        connect(url, **options)


@pytest.mark.parametrize("options", [{"headers": {"x": "a\nb"}}, {"token": "a b"}, {"token": str}])
async def test_what_cannot_be_sent_is_an_error_without_secrets(options: dict[str, Any]) -> None:
    """A header that cannot be sent is not tried for ever, and not quoted."""
    async with answering(GOOD) as server:
        with pytest.raises(ConfigurationError) as caught:
            async with live(server, **options):
                raise AssertionError("the block must not begin")
    assert "a" + "\n" not in str(caught.value)
    assert server.asked == []


async def test_nothing_is_read_ahead_without_bound() -> None:
    """While the consumer is busy, a server without windows is held back by TCP."""
    sent = 0

    async def flood(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD + hello())
        body = message(1, "x" * 10_000)
        while True:
            writer.write(body)
            sent += len(body)
            await writer.drain()

    async with (
        answering(flood) as server,
        live(server, max_queue_bytes=200_000) as stream_,
    ):
        await take(stream_, 1)
        settled = -1
        async with asyncio.timeout(PATIENCE):
            while sent != settled:
                settled = sent
                await asyncio.sleep(0.3)
        backlog = stream_._queue
        assert backlog.is_full
        assert backlog._bytes < 200_000 + 65_536 + 10_300
        assert settled < 30_000_000  # what the kernel takes
        assert await take(stream_, 100) == ["x" * 10_000] * 100


async def test_acknowledgement_names_what_was_handled() -> None:
    """With a window, the last handled id is posted; an idle stream posts nothing."""
    async with (
        answering(stream(hello(window=16384), message(1), message(2))) as server,
        live(server) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]
        await until(lambda: bool(server.posted))
        await asyncio.sleep(0.3)
    assert [json.loads(each.body) for each in server.posted] == [
        {"connectionId": "c", "id": id_of(1)}
    ]


async def test_token_that_fails_for_an_acknowledgement_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged, and the token asked for again, as where a stream is opened."""
    asked_for = 0

    async def token() -> str:
        nonlocal asked_for
        asked_for += 1
        if asked_for in (2, 3):
            raise OSError("nobody issues tokens")
        return f"token-{asked_for}"

    async def post(asked: Asked, writer: asyncio.StreamWriter) -> None:
        known = asked.headers["authorization"] == "Bearer token-4"
        await status("200 OK" if known else "401 x", body=b"{}")(asked, writer)

    async with answering(stream(hello(window=16384), message(1), message(2))) as server:
        server.post = post
        async with live(server, token=token) as stream_:
            assert await take(stream_, 2) == [1, 2]
            waiting = asyncio.create_task(take(stream_, 1))
            await until(lambda: asked_for == 4 or waiting.done())
            assert not waiting.done()
            waiting.cancel()
    assert "nobody issues tokens" in caplog.text


async def test_token_is_asked_for_once_by_all_who_need_it() -> None:
    """What is posted while a stream is opened anew waits for the token that was asked for."""
    asking = most = asked_for = 0

    async def token() -> str:
        nonlocal asking, most, asked_for
        asking, asked_for = asking + 1, asked_for + 1
        most = max(most, asking)
        await asyncio.sleep(0.3)
        asking -= 1
        return f"token-{asked_for}"

    ends = asyncio.Event()

    async def expires(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + hello(window=16384) + message(1) + message(2))
        await ends.wait()
        writer.write(closing("credentials_expired", reconnect=False))

    async def post(asked: Asked, writer: asyncio.StreamWriter) -> None:
        ends.set()
        await status("401 x", body=b"{}")(asked, writer)

    async with answering(expires, stream(hello(2), message(3))) as server:
        server.post = post
        async with live(server, token=token) as stream_:
            assert await take(stream_, 3) == [1, 2, 3]
    assert most == 1


async def test_no_window_no_acknowledgement() -> None:
    """A server that gives no window is not bothered."""
    async with (
        answering(stream(hello(), message(1), message(2))) as server,
        live(server) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]
        await asyncio.sleep(0.3)
    assert server.posted == []


async def test_withdrawn_topics_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """What the server takes away is rejected from then on; what was not held, changes nothing."""
    gone = b'data: {"type":"unsubscribed","data":{"topics":["u","x"]},"timestamp":1}\nid: %b\n\n'
    gone %= id_of(1).encode()
    async with (
        answering(stream(hello(topics=["t", "u"]), gone * 3, message(2))) as server,
        live(server) as stream_,
    ):
        assert await take(stream_, 1) == [2]
        assert (stream_.topics, stream_.rejected) == (("t",), ("u",))
    assert "withdrawn the topics ['u']" in caplog.text
