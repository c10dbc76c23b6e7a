"""The message that every contestant fans out, and how what came over the wire is read back.

A message is a dict, ``{"i": number, "t": monotonic ns, "p": "xxx…", "e": "^"}``. The ``^`` occurs
once in each message and nowhere else on the wire, so the load client counts deliveries with one
`bytes.count` per read, whatever the protocol, and no delivery is counted twice or cut in two.
"""

from __future__ import annotations

import bisect
import json
import re
import time
from typing import TYPE_CHECKING, Any

from tests.support.eventstream import EventStreamDecoder

if TYPE_CHECKING:
    from tests.support.eventstream import Event

SIZE = 200
"""Bytes of a message as JSON, with what a contestant's own envelope adds to it."""

MARK = b"^"

_STAMP = re.compile(rb'"t": ?(\d+)[^^]*\^')


def make_message(number: int, size: int) -> dict[str, Any]:
    """A message whose compact JSON has `size` bytes (or a few more, if that is very few)."""
    message = {"i": number, "t": time.monotonic_ns(), "p": "", "e": "^"}
    message["p"] = "x" * (size - len(to_json(message)))
    return message


def to_json(message: dict[str, Any]) -> str:
    """As compact as holdfast writes it."""
    return json.dumps(message, separators=(",", ":"))


def without_chunks(data: bytes) -> bytes:
    """Undo HTTP/1.1 chunked transfer coding; strict, so that a framing fault shows."""
    out, position = [], 0
    while position < len(data):
        end = data.index(b"\r\n", position)
        size = int(data[position:end], 16)
        body_end = end + 2 + size
        if data[body_end : body_end + 2] != b"\r\n":
            raise ValueError("a chunk is not closed by CRLF")
        out.append(data[end + 2 : body_end])
        position = body_end + 2
    return b"".join(out)


def events(body: bytes) -> list[Event]:
    """The events of a whole number of events."""
    if not body.endswith(b"\n\n") and not body.endswith(b"\r\n\r\n"):
        raise ValueError(f"the stream ends within an event: {body[-80:]!r}")
    return EventStreamDecoder().feed(body)


def texts(data: bytes) -> list[str]:
    """The text messages in a whole number of unmasked, unfragmented frames (RFC 6455, 5.2)."""
    out, position = [], 0
    while position < len(data):
        code, length = data[position] & 0x0F, data[position + 1]
        position += 2
        if length & 0x80:
            raise ValueError("a server's frame is masked")
        extended = {126: 2, 127: 8}.get(length, 0)
        if extended:
            length = int.from_bytes(data[position : position + extended], "big")
            position += extended
        if code == 1:
            out.append(data[position : position + length].decode())
        position += length
    if position != len(data):
        raise ValueError("the stream ends within a frame")
    return out


def numbers_of_events(body: bytes) -> list[int]:
    """The decoder for an event per message, its number as the event's id."""
    numbers = []
    for event in events(body):
        number = event.json()["i"]
        if event.last_event_id != str(number):
            raise ValueError(f"message {number} has the id {event.last_event_id!r}")
        numbers.append(number)
    return numbers


def numbers_of_texts(data: bytes) -> list[int]:
    """The decoder for text messages, each one message or several parted by newlines."""
    return [json.loads(line)["i"] for text in texts(data) for line in text.split("\n")]


def latencies(reads: list[tuple[int, bytes]]) -> list[int]:
    """For each message, nanoseconds from its own stamp to the read that brought its mark."""
    ends, total = [], 0
    for _, chunk in reads:
        total += len(chunk)
        ends.append(total)
    data = b"".join(chunk for _, chunk in reads)
    return [
        reads[bisect.bisect_left(ends, stamp.end())][0] - int(stamp[1])
        for stamp in _STAMP.finditer(data)
    ]
