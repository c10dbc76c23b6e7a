"""The fast decoders of the soak read what the plain ones read, wherever it is cut."""

from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from tests.faults.decoders import TEXT, ChunkedBody, EventStreamBody, SocketBody
from tests.support.eventstream import EventStreamDecoder

PARTS = st.lists(
    st.sampled_from(
        [
            b"data: 1\n",
            b"data:x\r\n",
            b"id: 7\r",
            b"id: 8\n",
            b"\n",
            b"\r\n",
            b"\r",
            b": c\n",
            b"data",
        ]
    ),
    max_size=30,
)


@given(PARTS, st.lists(st.integers(1, 12), min_size=1))
@example([b"data:x\r\n", b"\n"], [1])
def test_the_fast_event_stream_decoder_agrees_with_the_plain_one(
    parts: list[bytes], sizes: list[int]
) -> None:
    """Wherever the stream is cut into pieces."""
    text, fast, plain = b"".join(parts), EventStreamBody(), EventStreamDecoder()
    found, expected = list[tuple[bytes, bytes]](), list[tuple[bytes, bytes]]()
    for size in itertools.cycle(sizes):
        piece, text = text[:size], text[size:]
        if not piece:
            break
        found += fast.feed(piece)
        expected += [(e.data.encode(), e.last_event_id.encode()) for e in plain.feed(piece)]
    assert found == expected


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 40))
def test_a_chunked_body_is_put_together(bodies: list[bytes], size: int) -> None:
    """Wherever the transfer is cut into pieces."""
    wire = b"".join(b"%x\r\n%b\r\n" % (len(body), body) for body in bodies if body) + b"0\r\n\r\n"
    decoder, found = ChunkedBody(), b""
    for at in range(0, len(wire), size):
        found += b"".join(decoder.feed(wire[at : at + size]))
    assert (found, decoder.is_complete) == (b"".join(bodies), True)


@given(st.lists(st.integers(0, 70_000), max_size=4), st.integers(1, 5_000))
def test_websocket_messages_are_put_together(lengths: list[int], size: int) -> None:
    """With each form of the length, wherever the stream is cut into pieces."""
    wire = b""
    for length in lengths:
        code, width = (length, 0) if length < 126 else (126, 2) if length < 65536 else (127, 8)
        wire += bytes([0x81, code]) + (length.to_bytes(width) if width else b"") + b"x" * length
    decoder, found = SocketBody(), list[tuple[int, int]]()
    for at in range(0, len(wire), size):
        found += [(code, len(payload)) for code, payload in decoder.feed(wire[at : at + size])]
    assert found == [(TEXT, length) for length in lengths]
