"""Reconnecting with what is no event id of ours: never an error, always declared, at every door."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from holdfast import Broadcaster, MemoryBroker, TokenLimits
from holdfast.asgi import LiveApp
from tests.bad_inputs.entries import (
    EVENT_ID_DOORS,
    Door,
    bystander,
    enter,
    in_header,
    is_too_long,
    maker_of,
    refusal,
)
from tests.bad_inputs.inputs import CURSORS, MEGABYTE, TEXTS, mangled, well_formed
from tests.support.asgi import Http, by_name
from tests.support.virtual import settle

every_door = pytest.mark.parametrize("door", EVENT_ID_DOORS, ids=str)
UNKNOWN = {"cause": "unknown", "count": None}
OVER_THE_LIMIT = [("invalid_query", 400), ("invalid_query", 4400), ("too_large", 0)]
RESTART = {"cause": "restart", "count": None}


async def begin(app: LiveApp, user: str = "ann") -> str:
    """The event id of a session that has ended."""
    async with Http(app, "/stream?topics=t", headers={"x-user": user}) as call:
        assert await call.start() == 200
        await call.frame()
    return call.decoder.last_event_id


async def gap(
    door: Door, app: LiveApp, broadcaster: Broadcaster, text: str, **options: Any
) -> dict[str, Any]:
    """Come in with ``text``, be told of a gap, and get what is published from then on."""
    async with enter(door, app, text, **options) as client:
        data = client.data
        assert data["session"] == "gap", ascii(text[:60])
        assert data["topics"] == ["t"]
        if "replay" not in data:
            await broadcaster.publish("t", "next")
            assert (await client.frame())["data"] == "next"
    return data


@every_door
async def test_nonsense_is_a_declared_reset(
    app: LiveApp, broadcaster: Broadcaster, door: Door
) -> None:
    """Whatever is no event id opens a working session that says so, and disturbs nobody."""
    async with bystander(app, broadcaster) as other:
        for text in [*TEXTS, *CURSORS]:
            if not text:
                continue
            if is_too_long(door, text):
                assert await refusal(door, app, text) in OVER_THE_LIMIT
                continue
            data = await gap(door, app, broadcaster, text)
            assert (data["gap"], "replay" in data) == (UNKNOWN, False), ascii(text[:60])
            await other.undisturbed()
    await settle()
    assert broadcaster.statistics().connections == 0


@every_door
async def test_mangled_id_is_a_reset_and_uses_up_nothing(door: Door) -> None:
    """A real id with one thing wrong opens a new session; the real one still resumes after."""
    broker = MemoryBroker(tokens=TokenLimits(per_user=1000))  # each try leaves a session of ann's
    async with Broadcaster(broker=broker) as broadcaster:
        await mangle(door, LiveApp(broadcaster, authenticate=by_name), broadcaster)


async def mangle(door: Door, app: LiveApp, broadcaster: Broadcaster) -> None:
    """Try all that is nearly an id, and then the id."""
    at = await begin(app)
    await broadcaster.publish("t", "missed")
    for text in mangled(at):
        if well_formed(text):
            assert text.split("~")[2] != at.split("~")[2], "another token, then"
        data = await gap(door, app, broadcaster, text, user="ann")
        assert (data["gap"], "replay" in data) == (UNKNOWN, False), ascii(text[:60])
    async with enter(door, app, at, user="ann") as client:
        assert client.data["session"] == "resumed"
        assert (await client.frame())["data"] == "missed"


@every_door
async def test_absent_and_empty_are_a_fresh_session(app: LiveApp, door: Door) -> None:
    """Nothing presented, or an empty text, loses nothing and declares nothing."""
    async with enter(door, app, "") as client:
        assert client.data["session"] == "fresh"
        assert "gap" not in client.data


@pytest.mark.parametrize("door", EVENT_ID_DOORS[:-1], ids=str)  # a message has no header
async def test_cursor_that_is_none_beside_a_good_token(
    app: LiveApp, broadcaster: Broadcaster, door: Door
) -> None:
    """With the token apart, the session comes back from where it was, declared as unsure."""
    for text in CURSORS:
        epoch, _, token = (await begin(app)).split("~")
        bad, beside = f"{epoch}~{text}~{token}", [("x-reconnect-token", token)]
        async with enter(door, app, bad, user="ann", headers=beside) as client:
            assert client.data["gap"] == UNKNOWN, ascii(text[:60])
            assert "replay" in client.data, "the session was accepted"


@every_door
async def test_position_that_cannot_be(app: LiveApp, broadcaster: Broadcaster, door: Door) -> None:
    """Beyond the log is unknown, in whichever lane; of another log it is a restart."""
    marks = [[n == lane for n in range(4)] for lane in range(4)] + [[False, True, True, True]]
    for ahead in [*marks, [True] * 4]:
        epoch, cursor, token = (await begin(app)).split("~")
        numbers = [str(int(cursor) + beyond) for beyond in ahead]
        text = ".".join(numbers) if len(set(numbers)) > 1 else numbers[0]
        data = await gap(door, app, broadcaster, f"{epoch}~{text}~{token}", user="ann")
        assert (data["gap"], "replay" in data) == (UNKNOWN, False), text
    epoch = (await begin(app)).split("~")[0]
    for other in ("A" * 12, epoch[::-1], epoch.swapcase(), "-" * 12):
        _, cursor, token = (await begin(app)).split("~")
        data = await gap(door, app, broadcaster, f"{other}~{cursor}~{token}", user="ann")
        assert (data["gap"], "replay" in data) == (RESTART, False), other
    for token in ("A" * 22, "-" * 22):
        data = await gap(door, app, broadcaster, f"{'A' * 12}~0~{token}", user="ann")
        assert data["gap"] == RESTART


@every_door
async def test_position_older_than_the_log(door: Door) -> None:
    """What is no longer kept is counted, and told once in its place."""
    async with Broadcaster(history_limit=2) as broadcaster:
        app = LiveApp(broadcaster, authenticate=by_name)
        at = await begin(app)
        for n in range(7):
            await broadcaster.publish("t", n)
        async with enter(door, app, at, user="ann") as client:
            assert client.data["gap"] == {"cause": "trimmed", "count": 5}
            frames = [await client.frame() for _ in range(3)]
            assert [f["type"] for f in frames] == ["gap", "message", "message"]
            assert [f["data"] for f in frames[1:]] == [5, 6]


@pytest.mark.parametrize("path", ["/stream", "/reconnect", "/poll", "/websocket"])
async def test_header_wins_over_the_query(
    app: LiveApp, broadcaster: Broadcaster, path: str
) -> None:
    """Where header and query disagree the header counts, whichever of them is the bad one."""
    make = maker_of(path)
    for bad in ["-1", "x" * 500, f"{'A' * 12}~0~{'A' * 22}", "é", "%00"]:
        at = await begin(app)
        for header, query, session in ((at, bad, "resumed"), (bad, at, "gap")):
            headers = [("x-user", "ann"), ("last-event-id", in_header(header))]
            target = (
                f"{path}?topics=t&last_event_id={query.replace('%', '%25').replace('é', '%E9')}"
            )
            async with make(app, target, headers=headers) as call:
                await (call.start() if isinstance(call, Http) else call.accepted())
                assert (await call.frame())["data"]["session"] == session, (header, query)
    await settle()


@pytest.mark.parametrize("path", ["/stream", "/reconnect", "/poll", "/websocket"])
async def test_bytes_as_no_client_would_write_them(
    app: LiveApp, broadcaster: Broadcaster, path: str
) -> None:
    """Raw bytes in header and query, percent escapes that are none, the same field many times."""
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
                await (call.start() if isinstance(call, Http) else call.accepted())
                assert (await call.frame())["data"]["session"] == "gap", piece


async def test_megabytes_in_the_place_of_an_id(app: LiveApp, broadcaster: Broadcaster) -> None:
    """An id of any length that a server lets through is a reset, and is not kept."""
    door = EVENT_ID_DOORS[0]
    await gap(door, app, broadcaster, "x")
    text = "9" * (4 * MEGABYTE)
    tracemalloc.start()
    try:
        for _ in range(3):
            await gap(door, app, broadcaster, text)
        await settle()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < MEGABYTE, held
