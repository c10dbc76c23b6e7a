"""Fast decoders: chunked bodies, event streams and WebSocket frames, written from their RFCs.

They are several times as fast as tests/support/eventstream.py, because a soak reads hundreds of
streams on one core; test_decoders.py runs them beside it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

CLOSE, PING, PONG, TEXT = 0x8, 0x9, 0xA, 0x1


class EventStreamBody:
    """The events of an event stream (WHATWG HTML, section 9.2.6), as (data, last event id)."""

    def __init__(self) -> None:
        self.last_event_id = b""
        self._rest = b""
        self._after_cr = False
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The events that ``chunk`` completes."""
        if not chunk:
            return
        if self._after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
        self._after_cr = chunk[-1:] == b"\r"
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        text = self._rest + chunk if self._rest else chunk
        if not self._begun:
            if len(text) < 3 and b"\xef\xbb\xbf".startswith(text):
                self._rest = text
                return
            self._begun = True
            text = text.removeprefix(b"\xef\xbb\xbf")
        *blocks, self._rest = text.split(b"\n\n")
        self._rest = self._rest.lstrip(b"\n")  # a third line end belongs to no event
        for block in blocks:
            event = self._event(block)
            if event is not None:
                yield event

    def _event(self, block: bytes) -> tuple[bytes, bytes] | None:
        data: list[bytes] = []
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"id" and b"\0" not in value:
                self.last_event_id = value
        return (b"\n".join(data), self.last_event_id) if data else None


class ChunkedBody:
    """A body in the chunked coding (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self.is_complete = False
        self._buffer = b""
        self._left = 0  # of the chunk and the line end after it

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The pieces of the body that ``received`` holds."""
        buffer = self._buffer + received if self._buffer else received
        self._buffer = b""
        at, end = 0, len(buffer)
        while at < end and not self.is_complete:
            if self._left > 2:
                piece = buffer[at : at + self._left - 2]
                at += len(piece)
                self._left -= len(piece)
                yield piece
            elif self._left:
                step = min(self._left, end - at)
                at += step
                self._left -= step
            else:
                line_end = buffer.find(b"\r\n", at)
                if line_end < 0:
                    self._buffer = buffer[at:]
                    return
                size = int(buffer[at:line_end].partition(b";")[0], 16)
                at, self._left = line_end + 2, size + 2
                self.is_complete = not size


def upgrade(host: str, path: str, headers: list[str]) -> bytes:
    """The client's handshake (RFC 6455, section 4.1)."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def mask(opcode: int, payload: bytes) -> bytes:
    """One frame from the client, masked as section 5.3 demands."""
    size = len(payload)
    head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    if size >= 126:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


class SocketBody:
    """The messages in a stream of WebSocket frames from a server (RFC 6455, section 5)."""

    def __init__(self) -> None:
        self._buffer = b""
        self._parts: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[tuple[int, bytes]]:
        """The messages and control frames that ``received`` completes, as (opcode, payload)."""
        buffer = self._buffer + received if self._buffer else received
        self._buffer = b""
        at, end = 0, len(buffer)
        while end - at >= 2:
            size, begin = buffer[at + 1] & 0x7F, at + 2
            if size >= 126:
                begin += 2 if size == 126 else 8
                if begin > end:
                    break
                size = int.from_bytes(buffer[at + 2 : begin])
            if begin + size > end:
                break
            payload, first = buffer[begin : begin + size], buffer[at]
            at = begin + size
            if first & 0x0F >= CLOSE:
                yield first & 0x0F, payload
                continue
            self._parts.append(payload)
            if first & 0x80:
                yield TEXT, b"".join(self._parts)
                self._parts.clear()
        self._buffer = buffer[at:]
