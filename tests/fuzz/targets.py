"""The fuzz targets, one function per parser. Each takes any bytes, and returns or fails an assert.

hypothesis (test_properties.py) and atheris (__main__.py) use the same functions.
"""

from __future__ import annotations

import contextlib
import json
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from holdfast import Broadcaster, InvalidPayload, InvalidTopic, Priority, Refused
from holdfast.asgi import LiveApp
from holdfast.asgi.http import MAX_BODY_BYTES, read_json
from holdfast.asgi.long_poll import _wait as poll_wait
from holdfast.asgi.websocket import _subprotocol as choose_subprotocol
from holdfast.auth import Action, Request, User
from holdfast.core import frames
from holdfast.core.cursor import MAX_EVENT_ID, Cursor, EventId
from holdfast.core.frames import Frame
from holdfast.core.message import Offset, UserId
from holdfast.core.tokens import ConnectionId, RedeemStatus, Session, Token, TokenRegistry
from holdfast.core.topics import TopicIndex, TopicTree, check_expression, check_topic, matches
from holdfast.reasons import Reason
from holdfast.transports import sse, websocket
from tests.fuzz import commands, reference
from tests.fuzz.json_text import is_json
from tests.support.asgi import WebSocketExchange
from tests.support.eventstream import EventStreamDecoder
from tests.support.virtual_loop import run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable

ID = b"AbC_-0123456~9.8.7.6~abcdefghijklmnopqrst_-"
TOKEN = Token("abcdefghijklmnopqrst_-")
LIMIT = 64 * 1024


def as_text(data: bytes) -> str:
    """Return a text for any bytes: UTF-8 with lone surrogates, or else Latin-1, as in headers."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def event_id(data: bytes) -> None:
    """EventId.parse and Cursor.parse accept exactly the grammar, and their output round-trips."""
    text = as_text(data)
    spliced = text
    if len(data) > 3 and data[0] < 128:  # Most texts are far from an id, so begin with a real one.
        start, length = data[1] % (len(ID) + 1), data[2] % 8
        spliced = as_text(ID[:start] + data[3:40] + ID[start + length :])
    for each in (text, spliced, text[:128], spliced.strip()):
        parsed, wanted = EventId.parse(each), reference.event_id(each)
        if wanted is None:
            assert parsed is None, ascii(each)
        else:
            epoch, marks, token = wanted
            assert parsed is not None, each
            assert (parsed.epoch, parsed.token) == (epoch, token)
            assert parsed.cursor.marks == marks[::-1]
            assert str(parsed) == each
            assert len(each) <= MAX_EVENT_ID
            assert token not in repr(parsed)
        for middle in (each, each.partition("~")[2].rpartition("~")[0]):
            cursor, marks_only = Cursor.parse(middle), reference.cursor(middle)
            assert (cursor is None) == (marks_only is None), ascii(middle)
            assert cursor is None or str(cursor) == middle


def token(data: bytes) -> None:
    """TokenRegistry.redeem accepts only the token itself, and no attempt changes a session."""
    registry, session = TokenRegistry(), Session(UserId("ann"), {"orders": Offset(7)})
    registry.issue(TOKEN, session, 0.0, None)
    text = as_text(data)
    at = len(data) % 23
    near = [f"{TOKEN}{text[:1]}", f"{text[:1]}{TOKEN}", *(f"{TOKEN}{c}" for c in " \n\t\0=~")]
    near += [text, TOKEN[:at] + text, text + TOKEN[at:], TOKEN[:at] + text[:2] + TOKEN[at:]]
    for each in near:
        for user in ("ann", "bob", None):
            if each == TOKEN and user == "ann":
                continue
            who = None if user is None else UserId(user)
            answer = registry.redeem(each, who, ConnectionId("c"), bytes(16), 1.0)
            assert answer.status is (
                RedeemStatus.FOREIGN if each == TOKEN else RedeemStatus.UNKNOWN
            )
            assert (answer.session, answer.token, answer.taken_over) == (None, None, None)
            assert len(registry) == 1
            assert not registry.save(ConnectionId("c"), Session(who))
    answer = registry.redeem(TOKEN, UserId("ann"), ConnectionId("c"), bytes(16), 1.0)
    assert (answer.session, answer.taken_over) == (session, None)


def topic(data: bytes) -> None:
    """check_topic and check_expression accept exactly the specified names; refusals are plain."""
    name = as_text(data)
    for check, wanted in (
        (check_expression, reference.is_expression(name)),
        (check_topic, reference.is_expression(name) and "*" not in name),
    ):
        refusal = ""
        try:
            assert check(name) == name
        except InvalidTopic as error:
            refusal = str(error)
        assert (not refusal) is wanted, ascii(name)
        assert refusal.isascii()
        assert refusal.isprintable()
        assert len(refusal) < 600


def matching(data: bytes) -> None:
    """matches, TopicIndex, TopicTree and the plain reader find the same subscribers."""
    # Many bytes stand for the characters that matter to a matcher; otherwise few names would match.
    plain = "ab.*|"
    text = "".join(c if c in plain or c > "\x7f" else plain[ord(c) % 5] for c in as_text(data))
    names = [name for name in dict.fromkeys(text.split("|")) if reference.is_expression(name)]
    topics = [name for name in names if "*" not in name]
    index, tree = TopicIndex[str](), TopicTree()
    for name in names:
        index.add(name, name)
    for name in topics:
        tree.add(name)
    for name in topics:
        wanted = {each for each in names if reference.covers(each, name)}
        assert {each for each in names if matches(each, name)} == wanted
        assert set(index.match(name)) == wanted
    for name in names:
        if "*" in name:
            found = list(tree.match(name))
            assert sorted(found) == sorted(t for t in topics if reference.covers(name, t))
    for name in names:
        index.remove(name, name)
    assert not index


def query(data: bytes) -> None:
    """Request reads a query as the parser of the URL standard does, byte for byte."""
    made, wanted = Request({"query_string": data}), reference.query(data)
    refused = False
    try:
        made.check_query()
    except Refused as error:
        refused = error.reason is Reason.INVALID_QUERY
    assert refused is (wanted is None)
    assert made.query == (wanted or {})


def wait(data: bytes) -> None:
    """The field `wait` of a poll is a decimal number up to the limit, or the one error."""
    made, seconds, refusal = Request({"query_string": b"wait=" + data}), None, None
    try:
        seconds = poll_wait(made)
    except Refused as error:
        refusal = (error.reason.word, error.reason.status)
    text = made.query.get("wait")
    if text is None:
        assert seconds == 25.0
    elif reference.is_decimal(text):
        assert seconds == min(25.0, float(text))
    else:
        assert refusal == ("invalid_query", 400), ascii(text)


def subprotocols(data: bytes) -> None:
    """A handshake selects `holdfast` or nothing, and reads a token only with `holdfast`."""
    given = Request({"headers": [(b"sec-websocket-protocol", data)]})
    offered = [each.strip() for each in data.decode("latin-1").split(",")]
    chosen = choose_subprotocol(given)
    assert chosen == ({"subprotocol": "holdfast"} if "holdfast" in offered else {})
    bearers = [each for each in offered if each.startswith("bearer.")]
    found = given.headers.get("authorization")
    assert (found is not None) is bool(chosen and bearers)
    if found is not None:
        assert found == f"Bearer {unquote(bearers[0][len('bearer.') :])}"


def message(data: bytes) -> None:
    """websocket.parse returns an object with a string `type`, or the one matching error."""
    text = as_text(data)
    code, value = None, None
    try:
        value = websocket.parse({"text": text}, LIMIT)
    except Refused as error:
        code = error.reason.word
    if len(text.encode("utf-8", "surrogatepass")) > LIMIT:
        assert code == "too_large"
    elif not is_json(text):
        assert code == "not_json", ascii(text)
    elif value is None:
        # Python refuses numbers of more than 4,300 digits, and about 1,000 levels.
        assert code == "no_type" or len(text) > 900, ascii(text)
    else:
        assert isinstance(value["type"], str)
        assert json.loads(text) == value


def conversation(data: bytes) -> None:
    """Each message of a client, one per line, gets the frame that docs/protocol.md names."""
    lines = [as_text(line) for line in data[:4096].split(b"\n")[:40]]
    run_virtual(_converse(lines))


async def _converse(lines: list[str]) -> None:
    def authorize(user: User, action: Action, name: str | None) -> bool:
        return not (name or "").startswith("secret")

    async with Broadcaster(heartbeat_interval=None, drain_at_signal=False) as broadcaster:
        app = LiveApp(
            broadcaster,
            authenticate=lambda request: User(id=None),
            authorize=authorize,
        )
        async with WebSocketExchange(app, "/websocket?topics=t") as socket:
            await socket.wait_accepted()
            client = commands.Model(await socket.frame())
            for line in lines:
                socket.send(line)
                wanted = client.answer_to(line)
                if wanted is not None:
                    client.check(await socket.frame(), wanted, line)
            socket.send({"type": "ping"})
            assert (await socket.frame())["type"] == "pong"
            await broadcaster.publish("t", 1)
            if "t" in client.topics:
                assert (await socket.frame())["data"] == 1


def has_json_form(value: Any) -> bool:
    """Return whether the bytes are RFC 8259 in UTF-8, without NaN and without lone surrogates."""
    if isinstance(value, dict):
        return all(has_json_form([name, inner]) for name, inner in value.items())
    if isinstance(value, list):
        return all(map(has_json_form, value))
    if isinstance(value, str):
        return not any("\ud800" <= char <= "\udfff" for char in value)
    return not isinstance(value, float) or math.isfinite(value)


def event_stream(data: bytes) -> None:
    """A published value survives a decoder written from the standard, in any division."""
    text = as_text(data[1:])
    value: Any = text
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
    key = text[:20] if data[:1] > b"\x7f" else None
    try:
        body = frames.message("t", value, Priority.NORMAL, 1.5, key)
    except InvalidPayload:
        assert not has_json_form([value, key]), ascii(value)
        return
    assert has_json_form([value, key]), ascii(value)
    chunk = sse.encode([Frame(body, ID.decode())] * 2)
    decoder, events = EventStreamDecoder(), []
    step = (data[0] % 7 + 1) if data else 1
    for at in range(0, len(chunk), step):
        events += decoder.feed(chunk[at : at + step])
    assert len(events) == 2
    for event in events:
        assert (event.type, event.fields) == ("message", ("data", "id"))
        assert event.last_event_id == ID.decode()
        frame = event.json()
        assert (frame["data"], frame.get("key")) == (value, key)
    for end in range(
        0, len(chunk) // 2 - 1, 1 + len(chunk) // 50
    ):  # a cut event has no effect and no id
        cut = EventStreamDecoder()
        assert not cut.feed(chunk[:end])
        assert cut.last_event_id == ""


def body(data: bytes) -> None:
    """read_json returns a JSON object in UTF-8 from any pieces, or the one matching error."""
    pieces: list[bytes] = []
    rest = data
    while rest:  # the first byte of each piece is its length
        pieces.append(rest[1 : 1 + rest[0]])
        rest = rest[1 + rest[0] :]
    whole = b"".join(pieces)
    events = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    events.append({"type": "http.request"})
    code, value = None, None

    async def read() -> dict[str, object]:
        async def receive() -> dict[str, Any]:
            return events.pop(0)

        return await read_json(receive, lambda: True)

    try:
        value = run_virtual(read())
    except Refused as error:
        code = error.reason.word
    try:
        text = whole.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if len(whole) > MAX_BODY_BYTES:
        assert code == "too_large"
    elif not whole:
        assert value == {}
    elif not is_json(text):
        assert code == "not_json", whole
    elif code is not None:
        assert code == "not_json"
        assert not text.strip().startswith("{") or len(text) > 900
    else:
        assert json.loads(text) == value


TARGETS: dict[str, Callable[[bytes], None]] = {
    "body": body,
    "conversation": conversation,
    "event_id": event_id,
    "event_stream": event_stream,
    "matching": matching,
    "message": message,
    "query": query,
    "subprotocols": subprotocols,
    "token": token,
    "topic": topic,
    "wait": wait,
}
