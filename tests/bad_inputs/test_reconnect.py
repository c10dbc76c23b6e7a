"""Reconnecting with an invalid event id: never an error, always a reported gap."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from holdfast import Broadcaster, MemoryBroker, TokenLimits
from holdfast.asgi import LiveApp
from tests.bad_inputs.entries import (
    EVENT_ID_ENTRY_POINTS,
    EntryPoint,
    bystander,
    enter,
    in_header,
    is_too_long,
    maker_of,
    refusal,
)
from tests.bad_inputs.inputs import CURSORS, MEGABYTE, TEXTS, mangled, well_formed
from tests.support.asgi import HttpExchange, authenticate_by_header
from tests.support.virtual_loop import run_ready

every_door = pytest.mark.parametrize("entry_point", EVENT_ID_ENTRY_POINTS, ids=str)
UNKNOWN = {"cause": "unknown", "count": None}
OVER_THE_LIMIT = [("invalid_query", 400), ("invalid_query", 4400), ("too_large", 0)]
RESTART = {"cause": "restart", "count": None}


async def begin(app: LiveApp, user: str = "ann") -> str:
    """Return the event id of a session that has ended."""
    async with HttpExchange(app, "/stream?topics=t", headers={"x-user": user}) as call:
        assert await call.read_head() == 200
        await call.frame()
    return call.decoder.last_event_id


async def gap(
    entry_point: EntryPoint, app: LiveApp, broadcaster: Broadcaster, text: str, **options: Any
) -> dict[str, Any]:
    """Present `text`, get a gap, and receive everything that is published from then on."""
    async with enter(entry_point, app, text, **options) as client:
        data = client.data
        assert data["session"] == "gap", ascii(text[:60])
        assert data["topics"] == ["t"]
        if "replay" not in data:
            await broadcaster.publish("t", "next")
            assert (await client.frame())["data"] == "next"
    return data


@every_door
async def test_invalid_id_is_a_reported_reset(
    app: LiveApp, broadcaster: Broadcaster, entry_point: EntryPoint
) -> None:
    """A text that is not an event id opens a session with a gap, and disturbs no other client."""
    async with bystander(app, broadcaster) as other:
        for text in [*TEXTS, *CURSORS]:
            if not text:
                continue
            if is_too_long(entry_point, text):
                assert await refusal(entry_point, app, text) in OVER_THE_LIMIT
                continue
            data = await gap(entry_point, app, broadcaster, text)
            assert (data["gap"], "replay" in data) == (UNKNOWN, False), ascii(text[:60])
            await other.undisturbed()
    await run_ready()
    assert broadcaster.statistics().connections == 0


@every_door
async def test_defective_id_is_a_reset_and_uses_up_no_token(entry_point: EntryPoint) -> None:
    """A real id with one defect opens a new session; the real id still resumes afterwards."""
    broker = MemoryBroker(tokens=TokenLimits(per_user=1000))  # each attempt leaves a session of Ann
    async with Broadcaster(broker=broker) as broadcaster:
        await mangle(
            entry_point, LiveApp(broadcaster, authenticate=authenticate_by_header), broadcaster
        )


async def mangle(entry_point: EntryPoint, app: LiveApp, broadcaster: Broadcaster) -> None:
    """Present every near-miss of an id, and then the id."""
    at = await begin(app)
    await broadcaster.publish("t", "missed")
    for text in mangled(at):
        if well_formed(text):
            assert text.split("~")[2] != at.split("~")[2], (
                "a well-formed variant has the same token"
            )
        data = await gap(entry_point, app, broadcaster, text, user="ann")
        assert (data["gap"], "replay" in data) == (UNKNOWN, False), ascii(text[:60])
    async with enter(entry_point, app, at, user="ann") as client:
        assert client.data["session"] == "resumed"
        assert (await client.frame())["data"] == "missed"


@every_door
async def test_absent_or_empty_id_starts_a_fresh_session(
    app: LiveApp, entry_point: EntryPoint
) -> None:
    """Without an id, or with an empty one, there is nothing to lose and no gap."""
    async with enter(entry_point, app, "") as client:
        assert client.data["session"] == "fresh"
        assert "gap" not in client.data


@pytest.mark.parametrize(
    "entry_point", EVENT_ID_ENTRY_POINTS[:-1], ids=str
)  # a message has no header
async def test_token_without_a_valid_cursor_resumes_with_a_gap(
    app: LiveApp, broadcaster: Broadcaster, entry_point: EntryPoint
) -> None:
    """A token on its own resumes the session from its position, with a gap for uncertainty."""
    for text in CURSORS:
        epoch, _, token = (await begin(app)).split("~")
        bad, beside = f"{epoch}~{text}~{token}", [("x-reconnect-token", token)]
        async with enter(entry_point, app, bad, user="ann", headers=beside) as client:
            assert client.data["gap"] == UNKNOWN, ascii(text[:60])
            assert "replay" in client.data, "the session was not resumed"


@every_door
async def test_impossible_position_is_a_reset(
    app: LiveApp, broadcaster: Broadcaster, entry_point: EntryPoint
) -> None:
    """A position beyond the log is `unknown` in any lane; one of another log is `restart`."""
    marks = [[n == lane for n in range(4)] for lane in range(4)] + [[False, True, True, True]]
    for ahead in [*marks, [True] * 4]:
        epoch, cursor, token = (await begin(app)).split("~")
        numbers = [str(int(cursor) + beyond) for beyond in ahead]
        text = ".".join(numbers) if len(set(numbers)) > 1 else numbers[0]
        data = await gap(entry_point, app, broadcaster, f"{epoch}~{text}~{token}", user="ann")
        assert (data["gap"], "replay" in data) == (UNKNOWN, False), text
    epoch = (await begin(app)).split("~")[0]
    for other in ("A" * 12, epoch[::-1], epoch.swapcase(), "-" * 12):
        _, cursor, token = (await begin(app)).split("~")
        data = await gap(entry_point, app, broadcaster, f"{other}~{cursor}~{token}", user="ann")
        assert (data["gap"], "replay" in data) == (RESTART, False), other
    for token in ("A" * 22, "-" * 22):
        data = await gap(entry_point, app, broadcaster, f"{'A' * 12}~0~{token}", user="ann")
        assert data["gap"] == RESTART


@every_door
async def test_position_older_than_the_log_reports_the_trimmed_count(
    entry_point: EntryPoint,
) -> None:
    """Trimmed messages are counted, and reported once in their place."""
    async with Broadcaster(history_limit=2) as broadcaster:
        app = LiveApp(broadcaster, authenticate=authenticate_by_header)
        at = await begin(app)
        for n in range(7):
            await broadcaster.publish("t", n)
        async with enter(entry_point, app, at, user="ann") as client:
            assert client.data["gap"] == {"cause": "trimmed", "count": 5}
            frames = [await client.frame() for _ in range(3)]
            assert [f["type"] for f in frames] == ["gap", "message", "message"]
            assert [f["data"] for f in frames[1:]] == [5, 6]


@pytest.mark.parametrize("path", ["/stream", "/reconnect", "/poll", "/websocket"])
async def test_header_wins_over_the_query(
    app: LiveApp, broadcaster: Broadcaster, path: str
) -> None:
    """If header and query disagree, the header counts, valid or not."""
    make = maker_of(path)
    for bad in ["-1", "x" * 500, f"{'A' * 12}~0~{'A' * 22}", "é", "%00"]:
        at = await begin(app)
        for header, query, session in ((at, bad, "resumed"), (bad, at, "gap")):
            headers = [("x-user", "ann"), ("last-event-id", in_header(header))]
            target = (
                f"{path}?topics=t&last_event_id={query.replace('%', '%25').replace('é', '%E9')}"
            )
            async with make(app, target, headers=headers) as call:
                await (call.read_head() if isinstance(call, HttpExchange) else call.wait_accepted())
                assert (await call.frame())["data"]["session"] == session, (header, query)
    await run_ready()


@pytest.mark.parametrize("path", ["/stream", "/reconnect", "/poll", "/websocket"])
async def test_malformed_header_and_query_bytes_are_handled(
    app: LiveApp, broadcaster: Broadcaster, path: str
) -> None:
    """Raw bytes, invalid percent escapes and repeated fields in header and query are handled."""
    make = maker_of(path)
    pieces = [bytes([n]) for n in range(256) if n not in b"&#"] + [
        b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"%", b"%%",
        b"%0", b"%ZZ", b"%u0041", b"%00%0d%0a", b"%ED%A0%80", b"+", b"=",
        b"a=b", b"x&last_event_id=",
    ]  # fmt: skip
    for piece in pieces:
        query = b"topics=t&last_event_id=" + piece
        headers = [("last-event-id", piece.decode("latin-1"))] * 3
        for options in ({"query_string": query}, {"query_string": b"topics=t", "headers": headers}):
            async with make(app, path, **options) as call:
                await (call.read_head() if isinstance(call, HttpExchange) else call.wait_accepted())
                assert (await call.frame())["data"]["session"] == "gap", piece


async def test_huge_id_is_a_reset_and_is_not_stored(app: LiveApp, broadcaster: Broadcaster) -> None:
    """An id of any length that a server accepts is a reset, and is not stored."""
    entry_point = EVENT_ID_ENTRY_POINTS[0]
    await gap(entry_point, app, broadcaster, "x")
    text = "9" * (4 * MEGABYTE)
    tracemalloc.start()
    try:
        for _ in range(3):
            await gap(entry_point, app, broadcaster, text)
        await run_ready()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < MEGABYTE, held
