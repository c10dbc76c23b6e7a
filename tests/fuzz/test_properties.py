"""Each target gets inputs that are nearly correct, because parsers fail there."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.core.topics import matches
from tests.bad_inputs.inputs import (
    CURSORS,
    GOOD_PAYLOADS,
    NO_TOPICS,
    NOT_JSON,
    NOT_TYPED,
    ODD_TOPICS,
    TEXTS,
    mangled,
)
from tests.fuzz import targets
from tests.fuzz.json_text import is_json

KINDS = ["ping", "ack", "subscribe", "unsubscribe", "resume", "PING", "pong", ""]
names = st.sampled_from(
    ["t", "a", "a.b", "a.*", "**", "secret", "$user", *NO_TOPICS[:9]]
) | st.text(st.characters(), max_size=8)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | names,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "topics", "id"]) | st.text(max_size=4), inner)
    ),
    max_leaves=8,
)
messages = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)},
    optional={
        "topics": st.lists(names, max_size=4) | names | anything,
        "metrics": st.lists(names, max_size=4),
        "id": st.sampled_from([targets.ID.decode(), "", "x"]) | anything,
        "extra": anything,
    },
).map(json.dumps)


def utf8(text: str) -> bytes:
    """Return the bytes of any text."""
    return text.encode("utf-8", "surrogatepass")


@st.composite
def mutated(draw: st.DrawFn, documents: st.SearchStrategy[str]) -> bytes:
    """Return a document in which a few pieces were removed, doubled or replaced."""
    text = draw(documents)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 6)))
        piece = draw(
            st.text(max_size=3)
            | st.sampled_from(["NaN", "\\ud800", "\\", '"', "{", "]", ",", ":", "1e9", "-", "\0"])
            | st.just(text[start:end] * 2)
        )
        text = text[:start] + piece + text[end:]
    return utf8(text)


documents = messages | anything.map(json.dumps) | st.sampled_from([*NOT_JSON, *NOT_TYPED])


@given(st.binary() | mutated(st.sampled_from(mangled(targets.ID.decode()) + CURSORS + TEXTS)))
@example(targets.ID)
def test_event_id_follows_its_grammar(data: bytes) -> None:
    """Cursor and event id follow the grammar, as a plain reader does."""
    targets.event_id(data)


@given(st.binary() | mutated(st.sampled_from([str(targets.TOKEN), *TEXTS])))
@example(targets.TOKEN.encode())
def test_only_the_token_opens_a_session(data: bytes) -> None:
    """Only the token itself opens a session."""
    targets.token(data)


@given(st.binary() | mutated(names | st.sampled_from([*NO_TOPICS, *ODD_TOPICS])))
def test_topic_is_accepted_as_specified(data: bytes) -> None:
    """A name is accepted exactly if the specification allows it."""
    targets.topic(data)


expressions = st.builds(
    lambda segments, tail: ".".join(segments + tail),
    st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4),
    st.sampled_from([[], [], ["**"]]),
)


@settings(max_examples=200)
@given(
    st.binary(max_size=300)
    | st.lists(names | expressions, max_size=12).map(lambda listed: utf8("|".join(listed)))
)
def test_all_matchers_agree(data: bytes) -> None:
    """Index, tree, `matches` and a plain reader agree on the topics that a pattern covers."""
    targets.matching(data)


@given(
    st.binary()
    | st.lists(st.tuples(names, names | st.text(max_size=9)), max_size=5).map(
        lambda pairs: "&".join(f"{quote(utf8(k))}={quote(utf8(v))}" for k, v in pairs).encode()
    )
    | mutated(st.sampled_from(["topics=a,b&reconnect_token=x", "a=%C3%A9&b=%ff&c=+", "=&&=;%"]))
)
@example("topics=é".encode())
def test_query_is_read_as_the_url_standard_defines(data: bytes) -> None:
    """A query is read as the URL standard defines."""
    targets.query(data)


@given(st.binary(max_size=20) | mutated(st.sampled_from(["25", "0.5", "1e9", "%31", "-1"])))
@example("\u0665".encode())
def test_wait_follows_its_grammar(data: bytes) -> None:
    """The wait of a poll follows a strict grammar."""
    targets.wait(data)


@given(st.binary(max_size=80) | mutated(st.sampled_from(["holdfast, bearer.a%20b,bearer.b"])))
@example(b"bearer.x, holdfast")
def test_subprotocols_are_read_as_a_list(data: bytes) -> None:
    """A handshake is read as a list, and its token only beside `holdfast`."""
    targets.subprotocols(data)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.binary() | mutated(documents))
def test_message_is_parsed_or_refused_by_its_code(data: bytes) -> None:
    """A message is an object with a type, or is refused with its one code."""
    targets.message(data)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(mutated(documents), max_size=12).map(b"\n".join))
@example(b'{"type":"resume","id":"x"}\n{"type":"resume","id":"x"}')
@example(b'{"type":"subscribe","topics":["secret","a"]}\n{"type":"unsubscribe","topics":["a","t"]}')
def test_each_message_has_its_answer(data: bytes) -> None:
    """Each message of a client gets exactly the answer that the protocol defines."""
    targets.conversation(data)


@given(st.binary() | mutated(anything.map(json.dumps)) | st.sampled_from(GOOD_PAYLOADS[:30]).map(
    lambda value: b"\x90" + json.dumps(value).encode()
))  # fmt: skip
def test_payload_survives_the_event_stream(data: bytes) -> None:
    """Any payload survives the event stream in any chunks, and a cut event has no effect."""
    targets.event_stream(data)


def in_pieces(data: bytes, sizes: list[int]) -> bytes:
    """Encode pieces for the target: a length before each piece."""
    out, at = b"", 0
    for size in [*sizes, *[255] * (len(data) // 255 + 1)]:
        out += bytes([len(data[at : at + size])]) + data[at : at + size]
        at += size
    return out


@settings(max_examples=150)
@given(st.binary() | st.builds(in_pieces, mutated(documents), st.lists(st.integers(0, 9))))
@example(in_pieces(b'{"x": NaN}', []))
@example(in_pieces('{"a": 1}'.encode("utf-16"), []))
def test_body_is_parsed_or_refused_by_its_code(data: bytes) -> None:
    """A body in any pieces is an object, or is refused with its one code."""
    targets.body(data)


@pytest.mark.parametrize("value", [*GOOD_PAYLOADS, [], {}, [{}], {"a": [{}, []]}], ids=repr)
def test_reference_accepts_valid_json(value: Any) -> None:
    """The plain reader of RFC 8259 accepts everything that an encoder writes, in any layout."""
    for options in ({}, {"indent": 1}, {"separators": (" , ", " : ")}, {"ensure_ascii": False}):
        assert is_json(json.dumps(value, **options))


def test_reference_refuses_invalid_json() -> None:
    """The plain reader refuses every truncation of a document, and each listed invalid text."""
    text = '{"a": [1.5e-3, "\\u00e9\\n", {"b": null}, true], "c": -0}'
    assert is_json(text)
    assert not any(is_json(text[:end]) for end in range(len(text)))
    assert not any(is_json(each) for each in NOT_JSON if "9" * 5_000 not in each)


@given(st.integers(0, 8), st.integers(1, 8))
def test_matching_compares_each_segment_once(stars: int, length: int) -> None:
    """A match inspects no segment twice for any pattern, so its cost cannot explode."""
    looked_at = 0

    class Counting(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal looked_at
            looked_at += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

        def split(self, *_: Any) -> list[str]:
            return [Counting(part) for part in str.split(self, ".")]

    pattern = ".".join(["*"] * stars + ["b"] * (8 - stars))
    matches(pattern, Counting(".".join(["a"] * length)))
    assert looked_at <= 2 * 8 + 1
