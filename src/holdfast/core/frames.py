"""The JSON frames of the wire (docs/protocol.md, section 4).

A frame is a JSON object in UTF-8 on one line. `json.dumps` escapes every control character, so a
frame never contains CR, LF or NUL. This module is the only one that joins pieces of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..errors import InvalidPayload
from ..reasons import Reason
from .message import LANES, Gap, Priority
from .resume import GapCause

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

_LABELS = [lane.label.encode() for lane in LANES]


class Frame(NamedTuple):
    """One frame for a transport, with its event id.

    Attributes:
        body: A JSON object in UTF-8, on one line.
        id: The event id of the cursor after this frame, in ASCII.
    """

    body: bytes
    id: str


def encode(value: object) -> bytes:
    """Encode a value as one line of JSON.

    Raises:
        InvalidPayload: `value` has no JSON form.
    """
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        raise InvalidPayload("the data has a lone surrogate, which has no UTF-8 form") from None
    except RecursionError:
        raise InvalidPayload("the data is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise InvalidPayload(f"the data has no JSON form: {error}") from None


def decode(text: str) -> object:
    """Decode JSON by RFC 8259, without the constants NaN and Infinity that Python also accepts.

    Raises:
        ValueError: `text` is not JSON.
        RecursionError: `text` is nested too deeply.
    """
    return json.loads(text, parse_constant=_reject_constant)


def _reject_constant(name: str) -> None:
    raise ValueError(name)


def message(
    topic: str, data: object, priority: Priority, timestamp: float, key: str | None
) -> bytes:
    """Encode a published message, whose `timestamp` is in seconds since the Unix epoch."""
    last = b"" if key is None else b',"key":%b' % encode(key)
    return b'{"type":"message","topic":%b,"data":%b,"priority":"%b","timestamp":%r%b}' % (
        encode(topic),
        encode(data),
        _LABELS[priority],
        timestamp,
        last,
    )


def control(kind: str, timestamp: float, data: Mapping[str, object] | None = None) -> bytes:
    """Encode a frame of the library itself: heartbeat, pong, subscribed, error, closing ….

    The timestamp has three decimals, because all digits of a float take four times as long.
    """
    content = b"" if data is None else b'"data":%b,' % encode(data)
    return b'{"type":"%b",%b"timestamp":%.3f}' % (kind.encode(), content, timestamp)


def established(
    connection: str, token: str, timestamp: float, resumable_for: float, data: Mapping[str, object]
) -> bytes:
    """Encode the first frame of a connection; `resumable_for` is in seconds.

    The id and the token consist of `[A-Za-z0-9_-]`, which JSON does not escape.
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
    """Encode a gap frame."""
    data = {
        "cause": GapCause.TRIMMED.value,
        "count": entry.count,
        "topics": entry.topics,
        "priority": entry.priority.label,
    }
    return control("gap", timestamp, data)


def closing(reason: Reason, timestamp: float) -> bytes:
    """Encode the last frame of a connection, with its reason and whether to reconnect."""
    return control("closing", timestamp, {"reason": reason.word, "reconnect": reason.reconnect})


def error(reason: Reason, detail: str, timestamp: float) -> bytes:
    """Encode the answer to a client's message that was not carried out."""
    return control("error", timestamp, {"code": reason.word, "detail": detail})


def with_id(body: bytes, id: str) -> str:
    """Return a frame as text up to the end of `id`, its last member. `ID_END` must follow."""
    return f'{body[:-1].decode()},"id":"{id}'


ID_END = '"}'
"""The end of each frame of `with_id`."""


def with_ids(frames: Iterable[Frame]) -> bytes:
    """Encode a list of frames, each with its event id, as one JSON object."""
    texts = [with_id(frame.body, frame.id) + ID_END for frame in frames]
    return f'{{"frames":[{",".join(texts)}]}}'.encode()
