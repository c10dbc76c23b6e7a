"""Events out of bytes, as they come: WHATWG HTML, section 9.2.6 ("Interpreting an event stream").

Two deviations, both because a frame that was damaged must not be handled as another one: bytes
that are no UTF-8 are an error and not U+FFFD, and an event has a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import InvalidStream

_BOM = b"\xef\xbb\xbf"
_RETRY_DIGITS = 10
"""Milliseconds of more digits than this are months; `int()` of a megabyte of digits is slow."""


class Event(NamedTuple):
    """One event: its type, its data, and the last event id as of its end ("" if none yet)."""

    type: str
    data: str
    id: str


class EventStreamDecoder:
    """Feed it the bytes of one response; it yields the events that they complete.

    An event that is cut off before its blank line is never yielded. `retry` is in seconds. At most
    `limit` bytes of an event that is not complete are held.
    """

    __slots__ = (
        "_after_cr",
        "_begun",
        "_data",
        "_held",
        "_id",
        "_last_id",
        "_limit",
        "_partial",
        "_type",
        "retry",
    )

    def __init__(self, limit: int) -> None:
        self.retry: float | None = None
        self._limit = limit
        self._begun = False
        self._after_cr = False
        self._partial = bytearray()
        self._data: list[bytes] = []
        self._held = 0  # bytes of `_data`
        self._type = self._id = b""
        self._last_id = ""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that `chunk` completes, each as it is found; raises `InvalidStream`."""
        if not chunk:
            return
        if self._after_cr:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")  # the other half of a CRLF
        # Of bytes, splitlines() splits at CR, LF and CRLF, and at nothing else.
        for piece in chunk.splitlines(keepends=True):
            ending = piece[-1:]
            if ending not in (b"\n", b"\r"):
                self._hold(piece)
                return
            line = piece.rstrip(b"\r\n")
            if self._partial:
                self._hold(line)
                line = bytes(self._partial)
                self._partial.clear()
            elif len(line) + self._held > self._limit:
                raise self._too_large()
            if not self._begun:
                self._begun = True
                line = line.removeprefix(_BOM)
            if line:
                self._field(line)
            elif (event := self._dispatch()) is not None:
                yield event
        self._after_cr = chunk.endswith(b"\r")

    def _hold(self, piece: bytes) -> None:
        self._partial += piece
        if len(self._partial) + self._held > self._limit:
            raise self._too_large()

    def _too_large(self) -> InvalidStream:
        return InvalidStream(
            "frame_too_large",
            f"a frame has more than {self._limit} bytes: raise max_frame_bytes,"
            " if the server is meant to send such messages",
        )

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
                self._held += len(value) + 1
                if self._held > self._limit:
                    raise self._too_large()
            case b"id" if b"\0" not in value:
                self._id = value
            case b"event":
                self._type = value
            case b"retry" if value.isdigit() and len(value) <= _RETRY_DIGITS:
                self.retry = int(value) / 1000.0
            case _:
                pass

    def _dispatch(self) -> Event | None:
        data, kind = self._data, self._type
        self._data, self._held, self._type = [], 0, b""
        try:
            self._last_id = self._id.decode()
            if not data:
                return None
            return Event(kind.decode() or "message", b"\n".join(data).decode(), self._last_id)
        except UnicodeDecodeError:
            raise InvalidStream("not_utf8", "the stream has bytes that are no UTF-8") from None
