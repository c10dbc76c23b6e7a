"""Cursor and EventId: an issued text is parsed as the same value, and no other text is."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.core.cursor import (
    MAX_EVENT_ID,
    MAX_OFFSET,
    Cursor,
    Epoch,
    EventId,
    Head,
    format_event_id,
)
from holdfast.core.message import Offset, Priority
from tests.core.builders import CRITICAL, HIGH, LOW, NASTY, NORMAL

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
VALID = "AbC_-0123456~9.8.7.6~abcdefghijklmnopqrst_-"

offsets = (st.integers(0, MAX_OFFSET) | st.integers(0, 20) | st.just(MAX_OFFSET)).map(Offset)
cursors = st.builds(Cursor, st.tuples(offsets, offsets, offsets, offsets)) | offsets.map(Cursor.at)
event_ids = st.builds(
    EventId,
    st.text(ALPHABET, min_size=12, max_size=12).map(Epoch),
    cursors,
    st.text(ALPHABET, min_size=22, max_size=22),
)
characters = st.characters() | st.sampled_from([*ALPHABET, *".~+-_ \0\r\n٥\uff15\ud800"])
ids_cut_and_changed = st.builds(
    lambda id, start, end, insertion: str(id)[:start] + insertion + str(id)[end:],
    event_ids,
    st.integers(0, MAX_EVENT_ID),
    st.integers(0, MAX_EVENT_ID),
    st.text(characters, max_size=3),
)
anything = st.text(characters) | st.text(st.sampled_from("0123456789.~-"), max_size=130)


@given(cursors)
def test_formatted_cursor_is_parsed(cursor: Cursor) -> None:
    """A formatted cursor is parsed as the same cursor."""
    assert Cursor.parse(str(cursor)) == cursor


@given(event_ids)
def test_formatted_event_id_is_parsed(id: EventId) -> None:
    """A formatted event id is parsed as the same event id."""
    assert EventId.parse(str(id)) == id


@given(event_ids)
@example(
    EventId(
        Epoch("-" * 12),
        Cursor((Offset(MAX_OFFSET),) * 3 + (Offset(MAX_OFFSET - 1),)),
        "_" * 22,
    )
)
def test_event_id_is_short_and_plain(id: EventId) -> None:
    """An event id has at most 128 bytes, all of `[A-Za-z0-9._~-]`."""
    assert len(str(id).encode()) <= 128
    assert re.fullmatch(r"[A-Za-z0-9._~-]+", str(id), re.ASCII)


@given(event_ids)
def test_formatted_parts_are_the_event_id(id: EventId) -> None:
    """`format_event_id` writes the same text; without a token it is a common prefix."""
    assert format_event_id(id.epoch, id.cursor, id.token) == str(id)
    assert str(id) == format_event_id(id.epoch, id.cursor, "") + id.token


@given(event_ids, st.sampled_from(Priority), st.lists(offsets))
def test_series_has_the_id_of_each_cursor(id: EventId, lane: Priority, marks: list[Offset]) -> None:
    """`format_series` returns the text of each event id, in the short form where possible."""
    marks += id.cursor.marks
    expected = [replace(id, cursor=id.cursor.with_mark(lane, mark)) for mark in marks]
    assert id.format_series(lane, marks) == [str(each) for each in expected]
    assert [each.cursor[lane] for each in expected] == marks


@given(offsets)
def test_equal_marks_are_written_as_one_number(offset: Offset) -> None:
    """The cursor of a client that keeps up is one plain number."""
    assert str(Cursor.at(offset)) == str(int(offset))


def test_marks_are_written_most_urgent_first() -> None:
    """Four different marks are written most urgent lane first."""
    cursor = Cursor((Offset(1), Offset(2), Offset(3), Offset(4)))
    assert str(cursor) == "4.3.2.1"
    assert [cursor[lane] for lane in (LOW, NORMAL, HIGH, CRITICAL)] == [1, 2, 3, 4]


@given(cursors)
def test_highest_is_the_farthest_mark(cursor: Cursor) -> None:
    """The highest offset of a cursor is that of its farthest lane."""
    assert cursor.highest == max(cursor[lane] for lane in Priority)


@given(cursors, cursors, cursors)
def test_order_of_cursors_is_partial(first: Cursor, second: Cursor, third: Cursor) -> None:
    """`<=` holds if no lane is farther: reflexive, antisymmetric, transitive."""
    assert (first <= second) is all(first[lane] <= second[lane] for lane in Priority)
    assert first <= first  # noqa: PLR0124 - the order is reflexive
    assert not (first <= second <= first) or first == second
    assert not (first <= second <= third) or first <= third


@given(cursors, offsets)
def test_capped_cursor_is_the_farthest_within_the_cap(cursor: Cursor, offset: Offset) -> None:
    """A cap lowers exactly the marks beyond it."""
    capped = cursor.capped_at(offset)
    assert capped <= cursor
    assert [capped[lane] for lane in Priority] == [min(cursor[lane], offset) for lane in Priority]


@given(cursors, st.sampled_from(Priority), offsets)
def test_changed_mark_leaves_the_others(cursor: Cursor, lane: Priority, mark: Offset) -> None:
    """`with_mark` changes one lane."""
    changed = cursor.with_mark(lane, mark)
    assert {each: changed[each] for each in Priority} == {
        each: mark if each is lane else cursor[each] for each in Priority
    }


def test_head_is_compared_without_its_forks() -> None:
    """Two heads with the same epoch and offset are equal, whatever their forks."""
    epoch = Epoch("e" * 12)
    assert Head(epoch, Offset(1)) == Head(epoch, Offset(1), {Epoch("f" * 12): Offset(1)})


@given(anything | ids_cut_and_changed)
@example("7.7.7.7")
def test_parsed_cursor_is_formatted_as_the_same_text(text: str) -> None:
    """A text that is parsed as a cursor is the only form of that cursor."""
    cursor = Cursor.parse(text)
    assert cursor is None or str(cursor) == text


@given(anything | ids_cut_and_changed)
@example(VALID.replace("9.8.7.6", "7.7.7.7"))
def test_parsed_event_id_is_formatted_as_the_same_text(text: str) -> None:
    """A text that is parsed as an event id is the only form of that event id."""
    id = EventId.parse(text)
    assert id is None or str(id) == text


@given(anything)
def test_parsed_marks_are_in_range(text: str) -> None:
    """No text makes a mark below 0 or above 2^63-1."""
    cursor = Cursor.parse(text)
    assert cursor is None or all(0 <= mark <= MAX_OFFSET for mark in cursor.marks)


@pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text[:12]))
def test_nasty_text_is_not_a_cursor(text: str) -> None:
    """A text that only `int()` accepts is not a cursor, alone or as a part."""
    assert Cursor.parse(text) is None
    for parts in ((text, "1", "2", "3"), ("3", "2", "1", text), ("1", text)):
        assert Cursor.parse(".".join(parts)) is None


@pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text[:12]))
def test_nasty_text_is_not_an_event_id(text: str) -> None:
    """An invalid text is not an event id, alone or in place of a part."""
    assert EventId.parse(VALID) is not None
    epoch, cursor, token = VALID.split("~")
    for parts in ((text,), (text, cursor, token), (epoch, text, token), (epoch, cursor, text)):
        assert EventId.parse("~".join(parts)) is None
    assert EventId.parse(VALID + (text or " ")) is None
    assert EventId.parse((text or " ") + VALID) is None


@pytest.mark.parametrize("text", ["1.2", "1.2.3", "1.2.3.4.5", "1.2.3.", ".1.2.3", "1..2.3"])
def test_cursor_has_one_number_or_four(text: str) -> None:
    """Any other number of marks is not a cursor."""
    assert Cursor.parse(text) is None


@pytest.mark.parametrize(("offset", "is_offset"), [(MAX_OFFSET, True), (MAX_OFFSET + 1, False)])
def test_largest_offset(offset: int, is_offset: bool) -> None:
    """2^63-1 is an offset, and a larger number is not, alone or as a part."""
    assert (Cursor.parse(str(offset)) is not None) is is_offset
    assert (Cursor.parse(f"0.1.{offset}.2") is not None) is is_offset


def test_repr_hides_the_token() -> None:
    """The repr of an event id does not contain its token."""
    id = EventId.parse(VALID)
    assert id is not None
    assert id.token in str(id)
    assert id.token not in repr(id)
