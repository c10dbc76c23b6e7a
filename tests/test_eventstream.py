"""The event-stream decoder of the tests, by WHATWG HTML, section 9.2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.eventstream import Event, EventStreamDecoder


def decode(stream: bytes) -> list[tuple[str, str, str]]:
    """Return type, data and last event id of each event of a stream."""
    return [(e.type, e.data, e.last_event_id) for e in EventStreamDecoder().feed(stream)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        # These examples are from the specification.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second\nid\n\ndata:  third\n\n",
            [
                ("message", "first event", "1"),
                ("message", "second", ""),
                ("message", " third", ""),
            ],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("message", "test", "")] * 2),
        # A line may end with CR, LF or CRLF.
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [("message", x, "") for x in "abc"]),
        (b"\xef\xbb\xbfdata: a\n\n", [("message", "a", "")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: \xef\xbb\xbfa\n\n", [("message", "\ufeffa", "")]),
        (b"event: add\ndata: 1\n\ndata: 2\n\n", [("add", "1", ""), ("message", "2", "")]),
        (b"event: add\n\ndata: 2\n\n", [("message", "2", "")]),
        (b"id: 1\ndata: a\n\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "1")]),
        (b"id: 1\n\ndata: b\n\n", [("message", "b", "1")]),
        (b"id: 1\0\ndata: b\n\n", [("message", "b", "")]),
        (b"id: 1\ndata: cut", []),
        (b"Data: a\n data: b\ndata : c\n\n", []),
        (b"data: \xff\n\n", [("message", "\ufffd", "")]),
        ("data: \u2028\x85\x0b\n\n".encode(), [("message", "\u2028\x85\x0b", "")]),
    ],
)
def test_stream_is_decoded_by_the_specification(
    stream: bytes, events: list[tuple[str, str, str]]
) -> None:
    """Each rule of the specification gives its events."""
    assert decode(stream) == events


@pytest.mark.parametrize(
    ("value", "retry"),
    [(b"300", 300), (b"0", 0), (b"", None), (b"-1", None), (b"1.5", None), (b"3 ", None),
     ("٥".encode(), None)],
)  # fmt: skip
def test_retry_takes_only_ascii_digits(value: bytes, retry: int | None) -> None:
    """The reconnection time changes only for a value of ASCII digits."""
    decoder = EventStreamDecoder()
    decoder.feed(b"retry: " + value + b"\n\n")
    assert decoder.retry == retry


def test_cut_event_keeps_the_id() -> None:
    """An event without its blank line does not change the last event id."""
    decoder = EventStreamDecoder()
    decoder.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n")
    assert decoder.last_event_id == "1"


@given(
    st.lists(st.sampled_from(["data: é\u2028", "id: 7", "event: x", ":", "", "retry: 5", "data"])),
    st.lists(st.sampled_from(["\n", "\r", "\r\n"]), min_size=1),
    st.integers(1, 7),
)
def test_events_do_not_depend_on_the_chunks(lines: list[str], ends: list[str], size: int) -> None:
    """The events are the same for all chunks, also within a character or a CRLF."""
    text = "".join(line + ends[n % len(ends)] for n, line in enumerate(lines)).encode()
    whole, pieces = EventStreamDecoder(), EventStreamDecoder()
    events: list[Event] = []
    for start in range(0, len(text), size):
        events += pieces.feed(text[start : start + size])
    assert events == whole.feed(text)
    assert (pieces.last_event_id, pieces.retry) == (whole.last_event_id, whole.retry)
