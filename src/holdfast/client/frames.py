"""What an event says: docs/protocol.md, section 4.

Members and types that are not known are passed over (section 13). What is known and has another
shape raises `InvalidStream`: passing over a message that cannot be read would be a silent loss.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import cast

from ..core.message import Priority
from ..errors import InvalidStream
from .event_stream import Event
from .records import Gap, Message

MAX_ID = 512
"""Characters. An event id has at most 128 (section 5), and goes into a header."""

_PRIORITIES = {priority.label: priority for priority in Priority}

Fields = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first frame; `gap` is what it declares missing, as a whole."""

    connection_id: str
    token: str
    session: str
    topics: tuple[str, ...]
    rejected: tuple[str, ...]
    heartbeat_interval: float | None
    window: int | None
    replay: int | None
    gap: Gap | None


@dataclass(frozen=True, slots=True)
class Closing:
    """The last frame."""

    reason: str
    reconnect: bool


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Topics that the server has taken away."""

    topics: tuple[str, ...]


Frame = Hello | Message | Gap | Closing | Withdrawn | None


def read(event: Event) -> Frame:
    """The frame in an event; `None` for a type that says nothing to a consumer."""
    if len(event.id) > MAX_ID or not is_sendable(event.id):
        raise InvalidStream("invalid_id", "an event id is no short printable ASCII")
    frame = _object(_parsed(event.data), "the frame")
    match frame.get("type"):
        case "message":
            return _message(frame, event.id)
        case "gap":
            return _gap(_data(frame))
        case "connection_established":
            return _hello(_data(frame))
        case "closing":
            data = _data(frame)
            return Closing(_text(data, "reason"), data.get("reconnect") is not False)
        case "unsubscribed":
            return Withdrawn(_texts(_data(frame), "topics"))
        case str():
            return None
        case _:
            raise _malformed("type")


def is_sendable(id: str) -> bool:
    """Whether it can go into a header: printable ASCII without spaces, or nothing."""
    return id.isascii() and id.isprintable() and " " not in id


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and the infinities are no JSON (RFC 8259, section 6)


def _parsed(data: str) -> object:
    try:
        return cast("object", json.loads(data, parse_constant=_no_constant))
    except (ValueError, RecursionError):
        raise InvalidStream("not_json", "a frame is no JSON") from None


def _message(frame: Fields, id: str) -> Message:
    if not id:
        raise InvalidStream("no_id", "a message came without an event id")
    if "data" not in frame:
        raise _malformed("data")
    label, timestamp, key = _text(frame, "priority"), _number(frame, "timestamp"), frame.get("key")
    if label not in _PRIORITIES:
        raise _malformed("priority")
    if timestamp is None:
        raise _malformed("timestamp")
    if key is not None and not isinstance(key, str):
        raise _malformed("key")
    topic, data = _text(frame, "topic"), frame["data"]
    return Message(topic, data, _PRIORITIES[label], timestamp, key, id)


def _gap(data: Fields) -> Gap:
    label = data.get("priority")
    priority = _PRIORITIES.get(label) if isinstance(label, str) else None
    topics = _texts(data, "topics") if "topics" in data else ()
    return Gap(_text(data, "cause"), _count(data, "count"), topics, priority)


def _hello(data: Fields) -> Hello:
    interval = _number(data, "heartbeatInterval")
    if interval is not None and interval <= 0:
        raise _malformed("heartbeatInterval")
    session = _text(data, "session")
    return Hello(
        connection_id=_text(data, "connectionId"),
        token=_text(data, "reconnectToken"),
        session=session,
        topics=_texts(data, "topics"),
        rejected=_texts(data, "rejected"),
        heartbeat_interval=interval,
        window=_count(data, "window"),
        replay=_count(data, "replay"),
        gap=_gap(_object(data.get("gap"), "gap")) if session == "gap" else None,
    )


def _data(frame: Fields) -> Fields:
    return _object(frame.get("data"), "data")


def _object(value: object, name: str) -> Fields:
    if not isinstance(value, dict):
        raise _malformed(name)
    return cast("Fields", value)


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _malformed(name)
    return value


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    value = fields.get(name)
    items = cast("list[object]", value) if isinstance(value, list) else [None]
    texts = tuple(item for item in items if isinstance(item, str))
    if len(texts) != len(items):
        raise _malformed(name)
    return texts


def _number(fields: Fields, name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    # JSON has longer integers than there are floats, and 1e999 is an infinite one.
    if not (isinstance(value, int | float) and abs(value) <= sys.float_info.max):
        raise _malformed(name)
    return float(value)


def _count(fields: Fields, name: str) -> int | None:
    value = fields.get(name)
    if value is not None and (not isinstance(value, int) or value < 0):
        raise _malformed(name)
    return value


def _malformed(name: str) -> InvalidStream:
    return InvalidStream("malformed_frame", f"a frame is not as the protocol has it: {name}")
