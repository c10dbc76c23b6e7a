"""EventStreamDecoder, compared with the tests' own decoder, which follows the WHATWG text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.client.event_stream import EventStreamDecoder, ServerSentEvent
from holdfast.errors import InvalidStream
from tests.support import eventstream

LINE = st.sampled_from(
    "data:1|data: x y|data|data:\u00e9\u2028|id: a~1~b|id|id: n\0ul|event: e|event|retry: 1500"
    "|retry: 1e3|retry: \u0663|retry|: comment|unknown: 1||||DATA: 1|data: a:b".split("|")
)
END = st.sampled_from(["\n", "\r", "\r\n"])
LINES = st.lists(st.tuples(LINE, END))


def feed(decoder: EventStreamDecoder, *chunks: bytes) -> list[ServerSentEvent]:
    """Return all events of these chunks."""
    return [event for chunk in chunks for event in decoder.feed(chunk)]


@given(LINES, st.booleans(), st.data())
def test_every_split_gives_what_the_specification_says(
    lines: list[tuple[str, str]], bom: bool, data: st.DataObject
) -> None:
    """The events do not depend on the line endings, nor on where the chunks are cut."""
    stream = ("\ufeff" * bom + "".join(line + end for line, end in lines)).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    expected = eventstream.EventStreamDecoder()
    events = expected.feed(stream)
    decoder = EventStreamDecoder(10_000)
    assert feed(decoder, *chunks) == [(e.type, e.data, e.last_event_id) for e in events]
    retry = None if expected.retry is None else expected.retry / 1000
    assert decoder.retry == retry


def test_byte_order_mark_is_dropped_once() -> None:
    """A byte order mark is dropped at the very beginning, and is part of a line elsewhere."""
    decoder = EventStreamDecoder(1000)
    chunks = [b"\xef", b"\xbb\xbfdata: 1\n\n", b"\xef\xbb\xbfdata: 2\n\n"]
    assert [event.data for event in feed(decoder, *chunks)] == ["1"]


def test_event_without_its_end_is_not_yielded() -> None:
    """An event that is cut off before its blank line is not yielded."""
    assert feed(EventStreamDecoder(1000), b"data: 1\nid: a\n") == []


@pytest.mark.parametrize("piece", [b"x" * 100, b"data: y\n", b": comment", b"data:\n"])
@pytest.mark.parametrize("at_once", [True, False])
def test_event_beyond_the_limit_is_an_error(piece: bytes, at_once: bool) -> None:
    """A line without an end, and an event without an end, raise at the limit."""
    decoder = EventStreamDecoder(1000)
    with pytest.raises(InvalidStream) as caught:
        feed(decoder, *([piece * 5000] if at_once else [piece] * 5000))
    assert caught.value.code == "frame_too_large"


def test_limit_is_for_one_event() -> None:
    """A stream of any length is decoded, if each event is within the limit."""
    decoder = EventStreamDecoder(1000)
    assert len(feed(decoder, *[b"data: " + b"x" * 900 + b"\n\n"] * 50)) == 50


@pytest.mark.parametrize(
    "line", [b"data: \xff", b"id: \xc3", b"data: \xed\xa0\x80", b"event: \xff"]
)
def test_bytes_that_are_not_utf8_are_an_error(line: bytes) -> None:
    """The events before the damaged bytes are yielded, and the damaged one is not."""
    decoder, found = EventStreamDecoder(1000), []
    with pytest.raises(InvalidStream) as caught:
        for event in decoder.feed(b"data: 1\n\n" + line + b"\ndata: 2\n\n"):
            found.append(event.data)  # noqa: PERF401 - the loop ends in the middle
    assert (found, caught.value.code) == (["1"], "not_utf8")


def test_retry_of_many_digits_is_ignored() -> None:
    """A `retry` field with a megabyte of digits changes nothing."""
    decoder = EventStreamDecoder(2_000_000)
    feed(decoder, b"retry: 2000\nretry: " + b"9" * 1_000_000 + b"\n\n")
    assert decoder.retry == 2.0
