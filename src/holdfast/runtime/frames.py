"""The JSON frames of the wire, all but the event id; docs/protocol.md describes each.

A frame is one line of JSON, an object, in UTF-8. `json.dumps` escapes every control character,
so CR, LF and NUL never get into one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..core.message import Gap, Priority
from ..errors import InvalidPayload

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode(frame: Mapping[str, object]) -> bytes:
    """One line of JSON; raises `InvalidPayload` for what has no JSON form."""
    try:
        return _ENCODER.encode(frame).encode()
    except UnicodeEncodeError:
        raise InvalidPayload("the data has a lone surrogate, which has no UTF-8 form") from None
    except RecursionError:
        raise InvalidPayload("the data is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise InvalidPayload(f"the data has no JSON form: {error}") from None


def no_constant(name: str) -> None:
    """For `json.loads`: NaN and the infinities are no JSON (RFC 8259, section 6)."""
    raise ValueError(name)


def message(
    topic: str, data: object, priority: Priority, timestamp: float, key: str | None
) -> bytes:
    """What was published."""
    frame: dict[str, object] = {
        "type": "message",
        "topic": topic,
        "data": data,
        "priority": priority.label,
        "timestamp": timestamp,
    }
    if key is not None:
        frame["key"] = key
    return encode(frame)


def control(kind: str, timestamp: float, data: Mapping[str, object] | None = None) -> bytes:
    """A frame of the library's own: heartbeat, pong, subscribed, error, closing …."""
    frame: dict[str, object] = {"type": kind}
    if data is not None:
        frame["data"] = data
    frame["timestamp"] = timestamp
    return encode(frame)


def gap(entry: Gap, timestamp: float) -> bytes:
    """A hole in a lane, in its place."""
    data = {
        "cause": "trimmed",
        "count": entry.count,
        "topics": entry.topics,
        "priority": entry.priority.label,
    }
    return control("gap", timestamp, data)
