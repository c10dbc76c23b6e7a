"""Chunked bodies and WebSocket frames without I/O, written from their RFCs.

Malformed bytes raise ValueError. A soak reads hundreds of connections on one core, so both decoders
take any number of bytes in one call.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

CLOSE, PING, PONG, TEXT = 0x8, 0x9, 0xA, 0x1


class ChunkedBody:
    """A body in the chunked coding (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self.is_complete = False
        self._buffer = b""
        self._left = 0  # bytes of the chunk and of the line end after it

    @property
    def is_at_chunk_end(self) -> bool:
        """Return whether only whole chunks have arrived."""
        return not self._left and not self._buffer

    def feed(self, received: bytes) -> Iterator[bytes]:
        """Return the pieces of the body in `received`."""
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
                if buffer[at : at + step] != b"\r\n"[2 - self._left :][:step]:
                    raise ValueError("a chunk is not closed by CRLF")
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


def websocket_handshake(host: str, path: str, headers: list[str]) -> bytes:
    """Return the client's handshake (RFC 6455, section 4.1)."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """Return one frame of the client, masked as section 5.3 requires."""
    size = len(payload)
    head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    if size >= 126:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


class WebSocketFrames:
    """The messages in a stream of WebSocket frames from a server (RFC 6455, section 5)."""

    def __init__(self) -> None:
        self._buffer = b""
        self._parts: list[bytes] = []

    @property
    def is_at_message_end(self) -> bool:
        """Return whether only whole messages have arrived."""
        return not self._buffer and not self._parts

    def feed(self, received: bytes) -> Iterator[tuple[int, bytes]]:
        """Return the messages that `received` completes, as (opcode, payload)."""
        buffer = self._buffer + received if self._buffer else received
        self._buffer = b""
        at, end = 0, len(buffer)
        while end - at >= 2:
            if buffer[at + 1] & 0x80:
                raise ValueError("a frame of a server is masked")
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
