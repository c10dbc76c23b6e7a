"""The message of all contestants, and the decoders that read it back.

A message is a dict, `{"i": number, "t": monotonic ns, "p": "xxx…", "e": "^"}`. The `^` occurs once
in each message and nowhere else on the wire, so the load client counts deliveries with one
`bytes.count` per read for any protocol. No delivery is counted twice or cut in two.
"""

from __future__ import annotations

import bisect
import json
import re
import time
from typing import TYPE_CHECKING, Any

from tests.support.eventstream import EventStreamDecoder
from tests.support.framing import TEXT, ChunkedBody, WebSocketFrames

if TYPE_CHECKING:
    from tests.support.eventstream import Event

SIZE = 200
"""Bytes of a message as JSON. The envelope of a contestant is added to it."""

MARK = b"^"

_STAMP = re.compile(rb'"t": ?(\d+)[^^]*\^')


def make_message(number: int, size: int) -> dict[str, Any]:
    """Return a message whose compact JSON has `size` bytes (a few more if `size` is very small)."""
    message = {"i": number, "t": time.monotonic_ns(), "p": "", "e": "^"}
    message["p"] = "x" * (size - len(to_json(message)))
    return message


def to_json(message: dict[str, Any]) -> str:
    """Return JSON as compact as holdfast writes it."""
    return json.dumps(message, separators=(",", ":"))


def without_chunks(data: bytes) -> bytes:
    """Undo HTTP/1.1 chunked transfer coding. A framing fault raises."""
    decoder = ChunkedBody()
    body = b"".join(decoder.feed(data))
    if not decoder.is_at_chunk_end:
        raise ValueError("the body ends within a chunk")
    return body


def events(body: bytes) -> list[Event]:
    """Return the events of a whole number of events."""
    if not body.endswith(b"\n\n") and not body.endswith(b"\r\n\r\n"):
        raise ValueError(f"the stream ends within an event: {body[-80:]!r}")
    return EventStreamDecoder().feed(body)


def texts(data: bytes) -> list[str]:
    """Return the text messages of a whole number of unmasked frames (RFC 6455, section 5.2)."""
    decoder = WebSocketFrames()
    found = [payload.decode() for opcode, payload in decoder.feed(data) if opcode == TEXT]
    if not decoder.is_at_message_end:
        raise ValueError("the stream ends within a frame")
    return found


def numbers_of_events(body: bytes) -> list[int]:
    """Decode one event per message, with its number as the event's id."""
    numbers = []
    for event in events(body):
        number = event.json()["i"]
        if event.last_event_id != str(number):
            raise ValueError(f"message {number} has the id {event.last_event_id!r}")
        numbers.append(number)
    return numbers


def numbers_of_texts(data: bytes) -> list[int]:
    """Decode text messages: each is one message, or several separated by newlines."""
    return [json.loads(line)["i"] for text in texts(data) for line in text.split("\n")]


def latencies(reads: list[tuple[int, bytes]]) -> list[int]:
    """Return for each message the nanoseconds from its stamp to the read that brought its mark."""
    ends, total = [], 0
    for _, chunk in reads:
        total += len(chunk)
        ends.append(total)
    data = b"".join(chunk for _, chunk in reads)
    return [
        reads[bisect.bisect_left(ends, stamp.end())][0] - int(stamp[1])
        for stamp in _STAMP.finditer(data)
    ]
