"""The decoders of the tests return the same for every division of the bytes into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.framing import TEXT, ChunkedBody, WebSocketFrames, masked_frame


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 40))
def test_chunked_body_is_reassembled(bodies: list[bytes], size: int) -> None:
    """The division of the transfer into pieces makes no difference."""
    wire = b"".join(b"%x\r\n%b\r\n" % (len(body), body) for body in bodies if body) + b"0\r\n\r\n"
    decoder, found = ChunkedBody(), b""
    for at in range(0, len(wire), size):
        found += b"".join(decoder.feed(wire[at : at + size]))
    assert (found, decoder.is_complete) == (b"".join(bodies), True)


@given(st.lists(st.integers(0, 70_000), max_size=4), st.integers(1, 5_000))
def test_websocket_messages_are_reassembled(lengths: list[int], size: int) -> None:
    """The form of the length and the division into pieces make no difference."""
    wire = b""
    for length in lengths:
        code, width = (length, 0) if length < 126 else (126, 2) if length < 65536 else (127, 8)
        wire += bytes([0x81, code]) + (length.to_bytes(width) if width else b"") + b"x" * length
    decoder, found = WebSocketFrames(), list[tuple[int, int]]()
    for at in range(0, len(wire), size):
        found += [(code, len(payload)) for code, payload in decoder.feed(wire[at : at + size])]
    assert found == [(TEXT, length) for length in lengths]


@pytest.mark.parametrize("body", [b"1\r\nxy\r\n", b"1\r\nx\n\r", b"x\r\n"])
def test_malformed_chunk_raises(body: bytes) -> None:
    """A chunk has a hexadecimal size, as many bytes, and CRLF behind them."""
    with pytest.raises(ValueError, match=r"CRLF|invalid literal"):
        list(ChunkedBody().feed(body))


def test_incomplete_chunk_is_reported() -> None:
    """A body that is cut off differs from a whole one."""
    decoder = ChunkedBody()
    assert list(decoder.feed(b"2\r\nx")) == [b"x"]
    assert not decoder.is_at_chunk_end
    assert list(decoder.feed(b"y\r\n")) == [b"y"]
    assert decoder.is_at_chunk_end


def test_masked_frame_of_a_server_raises() -> None:
    """Only a client masks its frames (RFC 6455, section 5.1)."""
    with pytest.raises(ValueError, match="masked"):
        list(WebSocketFrames().feed(masked_frame(TEXT, b"x")))


def test_incomplete_frame_is_reported() -> None:
    """A stream that is cut off differs from a whole one."""
    decoder = WebSocketFrames()
    assert list(decoder.feed(b"\x81\x02x")) == []
    assert not decoder.is_at_message_end
