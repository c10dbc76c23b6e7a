"""Decodes bytes into server-sent events: WHATWG HTML, section 9.2.6.

The decoder deviates twice, because a damaged frame must not be taken for another frame. Bytes
that are not UTF-8 raise an error instead of becoming U+FFFD, and the size of an event is limited.
https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import InvalidStream

_BOM = b"\xef\xbb\xbf"
_MAX_RETRY_DIGITS = 10
"""A longer number of milliseconds is over 115 days, and `int()` of a megabyte of digits is slow."""


class ServerSentEvent(NamedTuple):
    """One event: its type, its data, and the last event ID after it ("" if none was sent yet)."""

    type: str
    data: str
    id: str


class EventStreamDecoder:
    """Decodes the bytes of one response. Create another decoder for the next response.

    An event whose closing blank line does not arrive is not yielded. The decoder holds at most
    `max_bytes` bytes of an unfinished event (tests/client/test_event_stream.py).

    Attributes:
        retry: The last `retry` field, in seconds, or None.
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_data_bytes",
        "_id",
        "_last_id",
        "_max_bytes",
        "_partial_line",
        "_type",
        "retry",
    )

    def __init__(self, max_bytes: int) -> None:
        self.retry: float | None = None
        self._max_bytes = max_bytes
        self._at_start = True
        self._after_cr = False
        self._partial_line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._type = self._id = b""
        self._last_id = ""

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Yield each event that `chunk` completes. Raises InvalidStream."""
        # A line ends with CRLF, with an LF that does not follow a CR, or with a CR that no LF
        # follows. A CR at the end of a chunk ends its line at once, because the next chunk may
        # come much later. If the next chunk then begins with an LF, that LF belongs to the CR and
        # is dropped: the chunks "data: 1\r" and "\n\r\n" are the two lines "data: 1" and "".
        # bytes.splitlines() splits at these three endings only; str.splitlines() splits at more.
        if not chunk:
            return
        if self._after_cr:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        for piece in chunk.splitlines(keepends=True):
            if not piece.endswith((b"\n", b"\r")):
                self._hold(piece)
                return
            line = piece.rstrip(b"\r\n")
            if self._partial_line:
                self._hold(line)
                line = bytes(self._partial_line)
                self._partial_line.clear()
            elif len(line) + self._data_bytes > self._max_bytes:
                raise self._too_large()
            if self._at_start:
                self._at_start = False
                line = line.removeprefix(_BOM)
            if line:
                self._process_field(line)
            elif (event := self._dispatch()) is not None:
                yield event
        self._after_cr = chunk.endswith(b"\r")

    def _hold(self, piece: bytes) -> None:
        self._partial_line += piece
        if len(self._partial_line) + self._data_bytes > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> InvalidStream:
        return InvalidStream(
            "frame_too_large",
            f"a frame has more than {self._max_bytes} bytes: raise max_frame_bytes,"
            " if the server is meant to send such messages",
        )

    def _process_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
                self._data_bytes += len(value) + 1
                if self._data_bytes > self._max_bytes:
                    raise self._too_large()
            case b"id" if b"\0" not in value:
                self._id = value
            case b"event":
                self._type = value
            case b"retry" if value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
                self.retry = int(value) / 1000.0
            case _:
                pass

    def _dispatch(self) -> ServerSentEvent | None:
        data, kind = self._data, self._type
        self._data, self._data_bytes, self._type = [], 0, b""
        try:
            self._last_id = self._id.decode()
            if not data:
                return None
            text = b"\n".join(data).decode()
            return ServerSentEvent(kind.decode() or "message", text, self._last_id)
        except UnicodeDecodeError:
            raise InvalidStream("not_utf8", "the stream has bytes that are not UTF-8") from None
