"""What a client may say on a WebSocket that it should not: one error frame, and life goes on."""

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
from tests.support.asgi import Http, Socket, by_name
from tests.support.virtual import settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT = InboundLimits().max_bytes


class Room:
    """One client on a socket, and somebody else on another."""

    def __init__(self, socket: Socket, other: Bystander, first: dict[str, Any]) -> None:
        self.socket = socket
        self.other = other
        self.first = first

    async def refused(self, message: Any, code: str) -> dict[str, Any]:
        """The message is answered with exactly one error frame of this code, and nothing else."""
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
        """The message has no answer and no effect."""
        self.socket.send(message)
        self.socket.send({"type": "ping"})
        frame = await self.socket.frame()
        assert frame["type"] == "pong", (ascii(message)[:60], frame)


@asynccontextmanager
async def enter(app: Any, broadcaster: Broadcaster) -> AsyncIterator[Room]:
    """Connect; at the end both connections are as alive as they were."""
    before = broadcaster.statistics().connections
    async with bystander(app, broadcaster) as other, Socket(app, "/websocket?topics=t") as socket:
        await socket.accepted()
        first = await socket.frame()
        yield Room(socket, other, first)
        await broadcaster.publish("t", "still here")
        assert (await socket.frame())["data"] == "still here"
        await other.undisturbed()
    assert broadcaster.statistics().connections == before


@pytest.fixture
async def room(app: LiveApp, broadcaster: Broadcaster) -> AsyncIterator[Room]:
    """A client and a bystander, alive before and after."""
    async with enter(app, broadcaster) as made:
        yield made


async def test_what_is_no_json(room: Room) -> None:
    """Neither RFC 8259 nor this decoder takes it: `not_json`."""
    for text in NOT_JSON:
        await room.refused(text, "not_json")


async def test_what_has_no_type(room: Room) -> None:
    """A scalar, an array, an object without a string `type`: `no_type`."""
    for text in NOT_TYPED:
        await room.refused(text, "no_type")


async def test_types_that_there_are_not(room: Room) -> None:
    """The server's own types, other cases, other scripts: `unknown_type`, and no echo."""
    for kind in NO_TYPES:
        await room.refused({"type": kind}, "unknown_type")
        if len(kind) < 1000:
            await room.refused(
                {"type": kind, "topics": ["u"], "id": room.first["id"]}, "unknown_type"
            )


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"type":"ping"}', b"\xff\xfe", b"\0" * MEGABYTE, bytes(range(256))]
)
async def test_binary(room: Room, content: bytes) -> None:
    """A binary message is `not_text`, whatever it holds and however long it is."""
    await room.refused(content, "not_text")


@pytest.mark.parametrize("char", ["x", "é", "\u2028", "🙂", "\0", "\ud800"], ids=ascii)
async def test_size(room: Room, char: str) -> None:
    """A message of the limit in bytes is taken, of one byte more it is `too_large`."""
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
    """Whatever else stands in a message, deeply nested, huge or without UTF-8 form, is not read."""
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
async def test_ids_of_another_type(room: Room, kind: str) -> None:
    """A missing `id`, or one that is no text, is an invalid message; a resume is too late then."""
    await room.refused({"type": kind}, "invalid_message")
    code = "invalid_message" if kind == "ack" else "too_late"
    for value in [*WRONG_TYPES, [], ["x"], {"id": "x"}]:
        await room.refused({"type": kind, "id": value}, code)


async def test_acks_of_what_was_never_issued_here(app: LiveApp, broadcaster: Broadcaster) -> None:
    """From the future, of another connection, repeated, nonsense: no answer, no effect."""
    async with Socket(app, "/websocket?topics=t") as neighbour:
        await neighbour.accepted()
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
                ids[0], room.first["id"],  # last, or an acknowledgement would hide what they did
            ]:  # fmt: skip
                if len(as_json(text)) < 60_000:
                    await room.passed_over({"type": "ack", "id": text})
    async with Socket(app, f"/websocket?topics=t&reconnect_token={token}") as socket:
        await socket.accepted()
        data = (await socket.frame())["data"]
        assert data["session"] == "resumed"
        assert data["replay"] == 3, "two after the ack, and the one at the end"


# -- floods ----------------------------------------------------------------------------------------


def strict(broadcaster: Broadcaster, **limits: Any) -> LiveApp:
    """All endpoints, with the limits that clients meet by default."""
    inbound = InboundLimits(**limits)
    return LiveApp(broadcaster, authenticate=by_name, inbound=inbound)


@pytest.mark.parametrize(
    "message",
    ["", "{", '{"type":"ping"}', '{"type":"ack","id":"x"}', '{"type":"nonsense"}', b"\0",
     '{"type":"subscribe","topics":["u"]}', '{"type":"subscribe","topics":["a b"]}', "x" * 70_000],
    ids=lambda message: repr(message)[:30],
)  # fmt: skip
async def test_flood_ends_its_sender_and_nobody_else(
    broadcaster: Broadcaster, message: str | bytes
) -> None:
    """Good or bad, too many messages end the connection with 4429; the neighbour stays."""
    app = strict(broadcaster)
    async with bystander(app, broadcaster) as other, Socket(app) as socket:
        await socket.accepted()
        for _ in range(3 * InboundLimits().burst):
            socket.send(message)
        assert await socket.closed() == Reason.TOO_MANY_MESSAGES.close_code
        await other.undisturbed()
    await settle()
    assert broadcaster.statistics().connections == 0


async def test_documented_rate_is_served(broadcaster: Broadcaster) -> None:
    """200 at once and then 50 a second, whatever they are, as protocol.md, section 10, allows."""
    async with Socket(strict(broadcaster)) as socket:
        await socket.accepted()
        await socket.frame()
        for _ in range(InboundLimits().burst):
            socket.send({"type": "ack", "id": "x"})
        await settle()
        for _ in range(20):
            await asyncio.sleep(1.0)
            for _ in range(50):
                socket.send({"type": "ack", "id": "x"})
            await settle()
        await asyncio.sleep(0.1)
        socket.send({"type": "ping"})
        assert (await socket.frame())["type"] == "pong"


async def test_burst_of_pings_that_are_read(broadcaster: Broadcaster) -> None:
    """A client that reads its answers may ask 200 times at once: it leaves none unread."""
    async with Socket(strict(broadcaster)) as socket:
        await socket.accepted()
        await socket.frame()
        for _ in range(InboundLimits().burst):
            socket.send({"type": "ping"})
        answers = [(await socket.frame())["type"] for _ in range(InboundLimits().burst)]
        assert answers == ["pong"] * InboundLimits().burst


@pytest.mark.parametrize("which", ["the first frame's", "another connection's", "the future's"])
async def test_flood_of_acks_that_move_nothing(broadcaster: Broadcaster, which: str) -> None:
    """Only acknowledgements that move on are free (protocol.md, section 12): others add up."""
    app = strict(broadcaster)
    async with bystander(app, broadcaster) as other, Socket(app, "/websocket?ack=true") as socket:
        await socket.accepted()
        at = (await socket.frame())["id"]
        if which == "another connection's":
            at = at[:-22] + "A" * 22
        elif which == "the future's":
            at = at.replace("~", "~9", 1)
        for _ in range(2 * InboundLimits().burst):
            socket.send({"type": "ack", "id": at})
        assert await socket.closed() == Reason.TOO_MANY_MESSAGES.close_code
        await other.undisturbed()


async def test_wishes_to_acknowledge_that_are_none(app: LiveApp) -> None:
    """Any value but `true` is no wish: no window, and no error."""
    for value in ["", "TRUE", "True", "1", "yes", "true ", "%00", "é", "false", MARK, "true,true"]:
        query = f"topics=t&ack={value}".encode()
        async with (
            Socket(app, query_string=query) as socket,
            Http(app, "/stream", query_string=query) as stream,
        ):
            await socket.accepted()
            await stream.start()
            for client in (socket, stream):
                assert "window" not in (await client.frame())["data"], value


async def test_no_first_message(app: LiveApp, broadcaster: Broadcaster) -> None:
    """Who never says anything is served, and asked to come back after the idle time."""
    async with Socket(app, "/websocket?topics=t") as socket:
        await socket.accepted()
        await socket.frame()
        await asyncio.sleep(1000.0)
        await broadcaster.publish("t", 1)
        while (frame := await socket.frame())["type"] == "heartbeat":
            pass
        assert frame["data"] == 1
        assert await socket.closed() == Reason.IDLE.close_code
