"""The JSON frames of the wire, all but the event id; docs/protocol.md describes each.

A frame is one line of JSON, an object, in UTF-8. `json.dumps` escapes every control character,
so CR, LF and NUL never get into one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from ..core.connection import CloseReason
from ..core.message import LANES, Gap, Priority
from ..errors import InvalidPayload

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


_LABELS = [lane.label.encode() for lane in LANES]


class Frame(NamedTuple):
    """One frame for a transport to write: a JSON object in UTF-8, and its event id in ASCII.

    The id is the true low-water cursor right after this frame.
    """

    body: bytes
    id: str


class GapCause(Enum):
    """Why something was lost."""

    TRIMMED = "trimmed"
    RESTART = "restart"
    FAILOVER = "failover"
    UNKNOWN = "unknown"


def encode(value: object) -> bytes:
    """One line of JSON; raises `InvalidPayload` for what has no JSON form."""
    try:
        return _ENCODER.encode(value).encode()
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
    """What was published; only the names and the data need the encoder."""
    last = b"" if key is None else b',"key":%b' % encode(key)
    return b'{"type":"message","topic":%b,"data":%b,"priority":"%b","timestamp":%r%b}' % (
        encode(topic),
        encode(data),
        _LABELS[priority],
        timestamp,
        last,
    )


def control(kind: str, timestamp: float, data: Mapping[str, object] | None = None) -> bytes:
    """A frame of the library's own: heartbeat, pong, subscribed, error, closing ….

    Its timestamp has three decimals: all that a float holds cost four times as much.
    """
    content = b"" if data is None else b'"data":%b,' % encode(data)
    return b'{"type":"%b",%b"timestamp":%.3f}' % (kind.encode(), content, timestamp)


def established(
    connection: str, token: str, timestamp: float, resumable_for: float, data: Mapping[str, object]
) -> bytes:
    """The first frame of a connection; `resumable_for` is in seconds.

    The id and the token are of `[A-Za-z0-9_-]`, and stand for themselves.
    """
    return (
        b'{"type":"connection_established","data":{"connectionId":"%b","reconnectToken":"%b",'
        b'"resumableUntil":%d,%b,"timestamp":%.3f}'
        % (
            connection.encode("ascii"),
            token.encode("ascii"),
            timestamp + resumable_for,
            encode(data)[1:],
            timestamp,
        )
    )


def gap(entry: Gap, timestamp: float) -> bytes:
    """A hole in a lane, in its place."""
    data = {
        "cause": GapCause.TRIMMED.value,
        "count": entry.count,
        "topics": entry.topics,
        "priority": entry.priority.label,
    }
    return control("gap", timestamp, data)


def closing(reason: CloseReason, timestamp: float) -> bytes:
    """The last frame that this side sends, and whether the client is to come back."""
    data = {"reason": reason.text, "reconnect": reason.may_reconnect}
    return control("closing", timestamp, data)
