"""Receiver: how it treats each answer of a scripted server."""

from __future__ import annotations

import asyncio
import time

import pytest

from holdfast.client import (
    Gap,
    InvalidStream,
    RequestRefused,
    Status,
    StreamEnded,
    StreamFailed,
    connect,
)
from holdfast.client import receiver as receiver_module
from holdfast.reasons import Reason
from tests.client.scripted_server import (
    HEAD,
    ReceivedRequest,
    Responder,
    closing,
    error_body,
    event,
    first_frame,
    id_of,
    message,
    scripted_server,
    status,
    stream,
)
from tests.client.streams import FAST, PATIENCE, stream_from, take

GOOD = stream(first_frame(), message(1))
ENDS = stream(first_frame(), message(1), stays=False)


@pytest.mark.parametrize("line", "500 x|502 x|503 x|504 x|599 x|408 x|425 x|429 x".split("|"))
async def test_temporary_status_is_retried(line: str) -> None:
    """The client reconnects after 5xx, 408, 425 and 429, before the first frame and later."""
    bad = status(line)
    async with (
        scripted_server(bad, bad, ENDS, bad, stream(first_frame(1), message(2))) as server,
        stream_from(server) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]
    assert [each.headers.get("last-event-id") for each in server.requests] == [
        *[None] * 3,
        id_of(1),
        id_of(1),
    ]


@pytest.mark.parametrize(
    ("answer", "kind", "code", "number"),
    [
        (status("400 x", body=error_body("invalid_topic")), RequestRefused, "invalid_topic", 400),
        (status("401 x", body=error_body("unauthorized")), RequestRefused, "unauthorized", 401),
        (status("403 x", body=error_body("foreign_origin")), RequestRefused, "foreign_origin", 403),
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
async def test_final_answer_raises_from_connect(
    answer: Responder, kind: type[StreamFailed], code: str, number: int | None
) -> None:
    """Before the first frame, the block does not begin, and the error names the answer."""
    async with scripted_server(answer) as server:
        with pytest.raises(kind) as caught:
            async with stream_from(server, token="secret-token"):
                raise AssertionError("the block must not begin")
        assert (caught.value.code, caught.value.status) == (code, number)
        assert "secret" not in str(caught.value)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (status("400 x", body=error_body("invalid_topic")), "invalid_topic"),
        (status("403 x", body=error_body("foreign_origin")), "foreign_origin"),
        (status("404 x", body=error_body("not_found")), "not_found"),
        (status("204 x"), "no_content"),
        (stream(closing("replaced", reconnect=False)), "replaced"),
        (
            stream(first_frame(1), closing("credentials_expired", reconnect=False)),
            "credentials_expired",
        ),
    ],
)
async def test_final_answer_later_ends_the_iteration(answer: Responder, code: str) -> None:
    """The iteration yields the messages that have arrived, then raises the error each time."""
    async with scripted_server(ENDS, answer) as server, stream_from(server) as stream_:
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
        status("401 x", body=error_body("unauthorized")),
        status("403 x", body=b"<html>"),
        status("404 x", body=b"<html>"),
        status("200 OK", "content-type: text/html", body=b"<html>maintenance"),
        status("302 x", "location: /login"),
    ],
)
async def test_error_page_of_a_proxy_later_is_retried(
    answer: Responder, caplog: pytest.LogCaptureFixture
) -> None:
    """After a first frame, an error page without a code of the protocol is logged and retried."""
    async with (
        scripted_server(ENDS, answer, answer, stream(first_frame(1), message(2))) as server,
        stream_from(server) as stream_,
    ):
        assert await take(stream_, 2) == [1, 2]
    assert "it worked before" in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        stream(first_frame(1), b"data: hello\n\n"),
        stream(first_frame(1), b"data: \xff\n\n"),
        stream(first_frame(1), first_frame(1)),
        stream(b"data: " + b"x" * 3000),
        stream(message(2)),
    ],
)
async def test_third_broken_stream_in_a_row_is_an_error(answer: Responder) -> None:
    """The client retries a broken stream twice, and counts anew after each message."""
    options = {"max_frame_bytes": 2000}
    async with scripted_server(
        ENDS, answer, answer, stream(first_frame(1), message(2), stays=False), answer
    ) as server:
        async with stream_from(server, **options) as stream_:
            assert await take(stream_, 2) == [1, 2]
            with pytest.raises(InvalidStream):
                await take(stream_, 1)
        assert len(server.requests) == 7


@pytest.mark.parametrize("number", [10**400, -(10**400)])
async def test_number_beyond_all_floats_is_a_broken_stream(number: int) -> None:
    """A timestamp or an interval of hundreds of digits raises InvalidStream."""
    frame = {"type": "message", "topic": "t", "data": 1, "priority": "low", "timestamp": number}
    async with (
        scripted_server(stream(first_frame(), event(frame, 1))) as server,
        stream_from(server) as stream_,
    ):
        with pytest.raises(InvalidStream, match="timestamp"):
            await take(stream_, 1)
    async with scripted_server(stream(first_frame(heartbeatInterval=number))) as server:
        with pytest.raises(InvalidStream, match="heartbeatInterval"):
            async with stream_from(server):
                raise AssertionError("the block must not begin")


async def test_endless_line_is_an_error_at_the_limit() -> None:
    """A line without an end costs at most max_frame_bytes of memory."""

    async def endless(received: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + first_frame() + b"data: ")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with (
        scripted_server(endless) as server,
        stream_from(server, max_frame_bytes=1_000_000) as stream_,
    ):
        with pytest.raises(InvalidStream, match="max_frame_bytes"):
            await take(stream_, 1)


@pytest.mark.slow
async def test_retry_after_is_respected_up_to_the_greatest_delay() -> None:
    """The client waits as long as `Retry-After` asks, at most the greatest of retry_delays."""
    seen: list[Status] = []
    bad = [status("429 x", f"retry-after: {each}") for each in ("0.3", "1", "3600")]
    async with (
        scripted_server(*bad, GOOD) as server,
        stream_from(server, retry_delays=(0.0, 1.5), on_status=seen.append) as stream_,
    ):
        assert await take(stream_, 1) == [1]
    first, second, third = [each.retry_in or 0.0 for each in seen if each.retry_in is not None]
    assert first <= 1.5  # RFC 9110 has no form "0.3"
    assert 1.0 <= second <= 1.5
    assert third == 1.5


@pytest.mark.real_time
async def test_retry_of_the_stream_is_respected() -> None:
    """`retry` is the least delay, also from a stream that closes before its first frame."""
    seen: list[Status] = []
    busy = stream(b"retry: 400\n", closing("over_capacity", reconnect=True), stays=False)
    ends = stream(b"retry: 200\n", first_frame(), message(1), stays=False)
    async with scripted_server(busy, ends, stream(first_frame(1), message(2))) as server:
        began = time.monotonic()
        async with stream_from(server, retry_delays=(0.0, 5.0), on_status=seen.append) as stream_:
            assert await take(stream_, 2) == [1, 2]
        waited = [each.retry_in or 0.0 for each in seen if each.retry_in is not None]
        assert waited[0] >= 0.4
        assert waited[1] >= 0.2
        assert time.monotonic() - began >= 0.6
    assert "over_capacity" in str(seen[1].reason)


@pytest.mark.real_time
async def test_unreachable_server_is_retried_without_end() -> None:
    """The client waits for a server until the application's timeout, and leaves no task."""
    async with scripted_server(GOOD) as server:
        url = server.url
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            async with connect(url, topics=["t"], retry_delays=FAST):
                raise AssertionError("the block must not begin")
    assert asyncio.all_tasks() == before


async def test_late_first_frame_is_a_lost_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client reconnects when a proxy holds the stream back, or the server never answers."""
    monkeypatch.setattr(receiver_module, "FIRST_FRAME_TIMEOUT", 0.3)

    async def mute(received: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    seen: list[Status] = []
    async with (
        scripted_server(mute, stream(), GOOD) as server,
        stream_from(server, on_status=seen.append) as stream_,
    ):
        assert await take(stream_, 1) == [1]
    assert sum("too long" in str(each.reason) for each in seen) >= 2


@pytest.mark.real_time
async def test_silence_is_a_lost_connection() -> None:
    """The client reconnects after 2.5 heartbeat intervals without a byte."""
    quiet = stream(first_frame(heartbeatInterval=0.2), message(1))
    async with (
        scripted_server(quiet, stream(first_frame(1), message(2))) as server,
        stream_from(server) as stream_,
    ):
        assert await take(stream_, 1) == [1]
        began = time.monotonic()
        assert await take(stream_, 1) == [2]
        assert 0.3 < time.monotonic() - began < 2.0


async def test_fresh_session_in_spite_of_a_position_is_a_gap() -> None:
    """A proxy that drops `Last-Event-ID` does not cause a silent loss."""
    gaps: list[Gap] = []
    async with (
        scripted_server(stream(first_frame(7, session="fresh"), message(8))) as server,
        stream_from(server, position=id_of(3), on_gap=gaps.append) as stream_,
    ):
        assert stream_.position == id_of(3)
        assert await take(stream_, 1) == [8]
    assert gaps == [Gap("unknown", None)]


@pytest.mark.real_time
async def test_receiver_reads_a_bounded_amount_ahead() -> None:
    """TCP holds back a server without windows while the application is busy."""
    sent = 0

    async def flood(received: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD + first_frame())
        body = message(1, "x" * 10_000)
        while True:
            writer.write(body)
            sent += len(body)
            await writer.drain()

    async with (
        scripted_server(flood) as server,
        stream_from(server, max_queue_bytes=200_000) as stream_,
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
        assert settled < 30_000_000  # the kernels' buffers
        assert await take(stream_, 100) == ["x" * 10_000] * 100


@pytest.mark.parametrize("reason", Reason)
async def test_each_reason_of_the_server_ends_the_stream_or_reconnects(reason: Reason) -> None:
    """The client reconnects after a closing frame exactly if the table of reasons says so."""
    end = stream(first_frame(1), closing(reason.word, reconnect=reason.reconnect), stays=False)
    async with (
        scripted_server(ENDS, end, stream(first_frame(1), message(2))) as server,
        stream_from(server) as stream_,
    ):
        assert await take(stream_, 1) == [1]
        if reason.reconnect:
            assert await take(stream_, 1) == [2]
        else:
            with pytest.raises(StreamEnded) as caught:
                await take(stream_, 1)
            assert caught.value.code == reason.word


@pytest.mark.parametrize("reason", [each for each in Reason if each.status is not None])
async def test_each_status_of_the_server_ends_the_stream_or_reconnects(reason: Reason) -> None:
    """The client retries 401, 408, 429, and the statuses of reasons to reconnect after."""
    assert reason.status is not None
    refused = status(f"{reason.status} x", body=error_body(reason.word))
    async with (
        scripted_server(ENDS, refused, stream(first_frame(1), message(2))) as server,
        stream_from(server) as stream_,
    ):
        assert await take(stream_, 1) == [1]
        # 401: an expired token may be replaced in the headers of the application's http client.
        if reason.reconnect or reason.status in (401, 408, 429):
            assert await take(stream_, 1) == [2]
        else:
            with pytest.raises(RequestRefused) as caught:
                await take(stream_, 1)
            assert (caught.value.code, caught.value.status) == (reason.word, reason.status)
