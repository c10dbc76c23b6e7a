"""Parses server-sent events into frames: docs/protocol.md, section 4.

Unknown members and unknown types of frames are ignored, because a newer server may send them
(docs/protocol.md, section 14). A known member with a wrong value raises InvalidStream, because a
message that is skipped would be a silent loss.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import cast

from ..core.message import Priority
from ..errors import InvalidStream
from .event_stream import ServerSentEvent
from .records import Gap, Message

MAX_EVENT_ID_LENGTH = 512
"""Characters. Today's event ids have at most 128 (docs/protocol.md, section 5); a newer server may
send longer ones. The client sends them back in a header, where servers allow some kilobytes."""

_PRIORITIES = {priority.label: priority for priority in Priority}

Fields = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstFrame:
    """The frame `connection_established`. If `session` is "gap", `gap` reports what is missing."""

    connection_id: str
    reconnect_token: str
    session: str
    topics: tuple[str, ...]
    rejected: tuple[str, ...]
    heartbeat_interval: float | None
    window: int | None
    replay: int | None
    gap: Gap | None


@dataclass(frozen=True, slots=True)
class ClosingFrame:
    """The frame `closing`, the last one of a stream."""

    reason: str
    reconnect: bool


@dataclass(frozen=True, slots=True)
class UnsubscribedFrame:
    """The frame `unsubscribed`: the server has removed these topics from the stream."""

    topics: tuple[str, ...]


ReceivedFrame = FirstFrame | Message | Gap | ClosingFrame | UnsubscribedFrame


def parse_frame(event: ServerSentEvent) -> ReceivedFrame | None:
    """Return the frame in `event`, or None for a type that the client ignores, as `heartbeat`.

    Raises InvalidStream, whose text quotes nothing from the event.
    """
    if len(event.id) > MAX_EVENT_ID_LENGTH or not is_header_safe(event.id):
        raise InvalidStream(
            "invalid_id",
            f"an event id is not printable ASCII of at most {MAX_EVENT_ID_LENGTH} characters",
        )
    frame = _object(_parse_json(event.data), "the frame")
    match frame.get("type"):
        case "message":
            return _message(frame, event.id)
        case "gap":
            return _gap(_data(frame))
        case "connection_established":
            return _first_frame(_data(frame))
        case "closing":
            data = _data(frame)
            return ClosingFrame(_text(data, "reason"), data.get("reconnect") is not False)
        case "unsubscribed":
            return UnsubscribedFrame(_texts(_data(frame), "topics"))
        case str():
            return None
        case _:
            raise _malformed("type")


def is_header_safe(text: str) -> bool:
    """Return True if `text` is empty, or printable ASCII without spaces."""
    return text.isascii() and text.isprintable() and " " not in text


def _reject_constant(name: str) -> None:
    raise ValueError(name)  # NaN and the infinities are not JSON (RFC 8259, section 6)


def _parse_json(data: str) -> object:
    try:
        return cast("object", json.loads(data, parse_constant=_reject_constant))
    except (ValueError, RecursionError):
        raise InvalidStream("not_json", "a frame is not JSON") from None


def _message(frame: Fields, event_id: str) -> Message:
    if not event_id:
        raise InvalidStream("no_id", "a message has no event id")
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
    return Message(topic, data, _PRIORITIES[label], timestamp, key, event_id)


def _gap(data: Fields) -> Gap:
    label = data.get("priority")
    priority = _PRIORITIES.get(label) if isinstance(label, str) else None
    topics = _texts(data, "topics") if "topics" in data else ()
    return Gap(_text(data, "cause"), _count(data, "count"), topics, priority)


def _first_frame(data: Fields) -> FirstFrame:
    interval = _number(data, "heartbeatInterval")
    if interval is not None and interval <= 0:
        raise _malformed("heartbeatInterval")
    session = _text(data, "session")
    return FirstFrame(
        connection_id=_text(data, "connectionId"),
        reconnect_token=_text(data, "reconnectToken"),
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
    # JSON allows integers beyond the largest float, and json.loads reads 1e999 as infinity.
    if not (isinstance(value, int | float) and abs(value) <= sys.float_info.max):
        raise _malformed(name)
    return float(value)


def _count(fields: Fields, name: str) -> int | None:
    value = fields.get(name)
    if value is not None and (not isinstance(value, int) or value < 0):
        raise _malformed(name)
    return value


def _malformed(name: str) -> InvalidStream:
    return InvalidStream("malformed_frame", f"the member {name!r} of a frame is missing or wrong")
