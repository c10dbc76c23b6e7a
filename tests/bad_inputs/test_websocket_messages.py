"""Invalid messages on a WebSocket: one error frame each, and the connection continues."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import Broadcaster, Reason
from holdfast.asgi import LiveApp
from holdfast.transports.websocket import InboundLimits
from tests.bad_inputs.entries import Bystander, bystander
from tests.bad_inputs.inputs import (
    CURSORS,
    MARK,
    MEGABYTE,
    NO_TYPES,
    NOT_JSON,
    NOT_TYPED,
    TEXTS,
    WRONG_TYPES,
    as_json,
    mangled,
    nested,
)
from tests.support.asgi import HttpExchange, WebSocketExchange, authenticate_by_header
from tests.support.virtual_loop import run_ready

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT = InboundLimits().max_bytes


class Room:
    """A client under test on one WebSocket, and another client on a second one."""

    def __init__(self, socket: WebSocketExchange, other: Bystander, first: dict[str, Any]) -> None:
        self.socket = socket
        self.other = other
        self.first = first

    async def refused(self, message: Any, code: str) -> dict[str, Any]:
        """Check that the message gets exactly one error frame, with this code."""
        self.socket.send(message)
        self.socket.send({"type": "ping"})
        frame, pong = await self.socket.frame(), await self.socket.frame()
        assert pong["type"] == "pong", (ascii(message)[:60], pong)
        assert set(frame) == {"type", "data", "timestamp", "id"}, ascii(message)[:60]
        assert set(frame["data"]) == {"code", "detail"}
        assert (frame["type"], frame["data"]["code"]) == ("error", code), ascii(message)[:60]
        assert MARK not in json.dumps(frame)
        return dict(frame)

    async def passed_over(self, message: Any) -> None:
        """Check that the message has no answer and no effect."""
        self.socket.send(message)
        self.socket.send({"type": "ping"})
        frame = await self.socket.frame()
        assert frame["type"] == "pong", (ascii(message)[:60], frame)


@asynccontextmanager
async def enter(app: Any, broadcaster: Broadcaster) -> AsyncIterator[Room]:
    """Connect both clients; at the end both are as alive as before."""
    before = broadcaster.statistics().connections
    async with (
        bystander(app, broadcaster) as other,
        WebSocketExchange(app, "/websocket?topics=t") as socket,
    ):
        await socket.wait_accepted()
        first = await socket.frame()
        yield Room(socket, other, first)
        await broadcaster.publish("t", "still here")
        assert (await socket.frame())["data"] == "still here"
        await other.undisturbed()
    assert broadcaster.statistics().connections == before


@pytest.fixture
async def room(app: LiveApp, broadcaster: Broadcaster) -> AsyncIterator[Room]:
    """Connect a client and a bystander, and check both afterwards."""
    async with enter(app, broadcaster) as made:
        yield made


async def test_message_that_is_not_json_is_refused(room: Room) -> None:
    """A text that RFC 8259 or this decoder refuses is `not_json`."""
    for text in NOT_JSON:
        await room.refused(text, "not_json")


async def test_message_without_a_type_is_refused(room: Room) -> None:
    """A scalar, an array, or an object without a string `type` is `no_type`."""
    for text in NOT_TYPED:
        await room.refused(text, "no_type")


async def test_unknown_message_type_is_refused(room: Room) -> None:
    """A server's type, or one in other case or script, is `unknown_type`, without an echo."""
    for kind in NO_TYPES:
        await room.refused({"type": kind}, "unknown_type")
        if len(kind) < 1000:
            await room.refused(
                {"type": kind, "topics": ["u"], "id": room.first["id"]}, "unknown_type"
            )


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"type":"ping"}', b"\xff\xfe", b"\0" * MEGABYTE, bytes(range(256))]
)
async def test_binary_message_is_refused(room: Room, content: bytes) -> None:
    """A binary message of any content and length is `not_text`."""
    await room.refused(content, "not_text")


@pytest.mark.parametrize("char", ["x", "é", "\u2028", "🙂", "\0", "\ud800"], ids=ascii)
async def test_inbound_message_size_limit_is_exact(room: Room, char: str) -> None:
    """A message of the limit in bytes is accepted; one more byte is `too_large`."""
    size = len(char.encode("utf-8", "surrogatepass"))
    empty = '{"type":"ack","id":""}'
    count, rest = divmod(LIMIT - len(empty), size)
    if char == "\0":
        await room.refused(empty[:-2] + char * count + '"}', "not_json")
    else:
        await room.passed_over(empty[:-2] + char * count + "x" * rest + '"}')
    await room.refused(empty[:-2] + char * count + "x" * (rest + 1) + '"}', "too_large")
    await room.refused(char * MEGABYTE, "too_large")


async def test_extra_members_are_ignored(room: Room) -> None:
    """Additional members, deeply nested, huge or without UTF-8 form, are not read."""
    extras: list[Any] = [
        nested(900), [[]] * 1000, "\ud800", 10**4000, -1e308, {str(n): n for n in range(1000)},
        {"\ud800": None}, None, MARK * 100, {"__proto__": {}, "constructor": {}},
    ]  # fmt: skip
    for extra in extras:
        for name in ("extra", "", "\ud800", "id", "topics", "token", "user", "connectionId"):
            room.socket.send({"type": "ping", name: extra})
            assert (await room.socket.frame())["type"] == "pong"
    for text in ('{"type":"x","type":"ping"}', '{"type":"ping","x":1e999}', ' {"type":"ping"}\r\n'):
        room.socket.send(text)
        assert (await room.socket.frame())["type"] == "pong"


@pytest.mark.parametrize("kind", ["ack", "resume"])
async def test_id_of_another_type_is_refused(room: Room, kind: str) -> None:
    """A missing or non-text `id` is an invalid message; a valid resume is too late then."""
    await room.refused({"type": kind}, "invalid_message")
    code = "invalid_message" if kind == "ack" else "too_late"
    for value in [*WRONG_TYPES, [], ["x"], {"id": "x"}]:
        await room.refused({"type": kind, "id": value}, code)


async def test_foreign_acknowledgement_has_no_effect(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """Acknowledgements from the future, of another connection, or repeated have no effect."""
    async with WebSocketExchange(app, "/websocket?topics=t") as neighbour:
        await neighbour.wait_accepted()
        theirs = (await neighbour.frame())["id"]
        async with enter(app, broadcaster) as room:
            for n in range(4):
                await broadcaster.publish("t", n)
            ids = [(await room.socket.frame())["id"] for _ in range(4)]
            await room.passed_over({"type": "ack", "id": ids[1]})
            epoch, cursor, token = ids[3].split("~")
            ahead = [f"{int(cursor) + 1}", f"{int(cursor) + 1}.0.0.0", f"{2**63 - 1}"]
            elsewhere = [f"{'A' * 12}~{cursor}~{token}", f"{epoch}~{cursor}~{'A' * 22}"]
            for text in [
                theirs, ids[1], *elsewhere, *mangled(ids[3]), *TEXTS[:60],
                *(f"{epoch}~{each}~{token}" for each in [*ahead, *CURSORS]), "",
                ids[0], room.first["id"],  # last: an acknowledgement would hide their effect
            ]:  # fmt: skip
                if len(as_json(text)) < 60_000:
                    await room.passed_over({"type": "ack", "id": text})
    async with WebSocketExchange(app, f"/websocket?topics=t&reconnect_token={token}") as socket:
        await socket.wait_accepted()
        data = (await socket.frame())["data"]
        assert data["session"] == "resumed"
        assert data["replay"] == 3, "expected two messages after the ack, and the last one"


# -- floods ----------------------------------------------------------------------------------------


def strict(broadcaster: Broadcaster, **limits: Any) -> LiveApp:
    """Return all endpoints with the default limits."""
    inbound = InboundLimits(**limits)
    return LiveApp(broadcaster, authenticate=authenticate_by_header, inbound=inbound)


@pytest.mark.parametrize(
    "message",
    ["", "{", '{"type":"ping"}', '{"type":"ack","id":"x"}', '{"type":"nonsense"}', b"\0",
     '{"type":"subscribe","topics":["u"]}', '{"type":"subscribe","topics":["a b"]}', "x" * 70_000],
    ids=lambda message: repr(message)[:30],
)  # fmt: skip
async def test_flood_ends_only_its_own_connection(
    broadcaster: Broadcaster, message: str | bytes
) -> None:
    """Too many messages, valid or not, end the connection with 4429; the bystander stays."""
    app = strict(broadcaster)
    async with bystander(app, broadcaster) as other, WebSocketExchange(app) as socket:
        await socket.wait_accepted()
        for _ in range(3 * InboundLimits().burst):
            socket.send(message)
        assert await socket.wait_closed() == Reason.TOO_MANY_MESSAGES.close_code
        await other.undisturbed()
    await run_ready()
    assert broadcaster.statistics().connections == 0


async def test_documented_rate_is_served(broadcaster: Broadcaster) -> None:
    """200 messages at once and then 50 per second are allowed (docs/protocol.md, section 10)."""
    async with WebSocketExchange(strict(broadcaster)) as socket:
        await socket.wait_accepted()
        await socket.frame()
        for _ in range(InboundLimits().burst):
            socket.send({"type": "ack", "id": "x"})
        await run_ready()
        for _ in range(20):
            await asyncio.sleep(1.0)
            for _ in range(50):
                socket.send({"type": "ack", "id": "x"})
            await run_ready()
        await asyncio.sleep(0.1)
        socket.send({"type": "ping"})
        assert (await socket.frame())["type"] == "pong"


async def test_burst_of_answered_pings_is_served(broadcaster: Broadcaster) -> None:
    """A client may send 200 requests at once if it reads the answers."""
    async with WebSocketExchange(strict(broadcaster)) as socket:
        await socket.wait_accepted()
        await socket.frame()
        for _ in range(InboundLimits().burst):
            socket.send({"type": "ping"})
        answers = [(await socket.frame())["type"] for _ in range(InboundLimits().burst)]
        assert answers == ["pong"] * InboundLimits().burst


@pytest.mark.parametrize("which", ["the first frame's", "another connection's", "the future's"])
async def test_flood_of_acknowledgements_without_progress_is_closed(
    broadcaster: Broadcaster, which: str
) -> None:
    """Only acknowledgements that advance are free (docs/protocol.md, section 12)."""
    app = strict(broadcaster)
    async with (
        bystander(app, broadcaster) as other,
        WebSocketExchange(app, "/websocket?ack=true") as socket,
    ):
        await socket.wait_accepted()
        at = (await socket.frame())["id"]
        if which == "another connection's":
            at = at[:-22] + "A" * 22
        elif which == "the future's":
            at = at.replace("~", "~9", 1)
        for _ in range(2 * InboundLimits().burst):
            socket.send({"type": "ack", "id": at})
        assert await socket.wait_closed() == Reason.TOO_MANY_MESSAGES.close_code
        await other.undisturbed()


async def test_invalid_ack_option_requests_no_window(app: LiveApp) -> None:
    """Any value except `true` requests no window, and is not an error."""
    for value in ["", "TRUE", "True", "1", "yes", "true ", "%00", "é", "false", MARK, "true,true"]:
        query = f"topics=t&ack={value}".encode()
        async with (
            WebSocketExchange(app, query_string=query) as socket,
            HttpExchange(app, "/stream", query_string=query) as stream,
        ):
            await socket.wait_accepted()
            await stream.read_head()
            for client in (socket, stream):
                assert "window" not in (await client.frame())["data"], value


async def test_silent_client_is_served_and_closed_after_the_idle_time(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """A client that never sends anything is served, and closed after the idle time."""
    async with WebSocketExchange(app, "/websocket?topics=t") as socket:
        await socket.wait_accepted()
        await socket.frame()
        await asyncio.sleep(1000.0)
        await broadcaster.publish("t", 1)
        while (frame := await socket.frame())["type"] == "heartbeat":
            pass
        assert frame["data"] == 1
        assert await socket.wait_closed() == Reason.IDLE.close_code
