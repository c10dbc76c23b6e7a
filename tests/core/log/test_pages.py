"""A page: what is in it, where it ends, and where its gaps stand."""

from __future__ import annotations

from holdfast.core.cursor import Cursor
from holdfast.core.log.pages import Page
from holdfast.core.log.retention import Retention
from holdfast.core.log.topic_log import MIN_TRIMMED_OFFSETS
from holdfast.core.message import Offset, UserId
from tests.core.builders import (
    NORMAL,
    gap,
    gaps,
    message,
    messages,
    page,
    published,
    row,
)

ANN, BOB = UserId("ann"), UserId("bob")


def test_page_has_at_least_one_message() -> None:
    """A message larger than the reader's page is read nevertheless, by itself."""
    history = published(message(1, size=100), message(2))
    got = page(history, max_bytes=10, limit=5)
    assert [each.offset for each in messages(got.entries)] == [1]
    assert not got.complete


def test_page_ends_where_the_reader_is() -> None:
    """What was published after `up_to` is left for the live feed."""
    history = published(*row(("a", NORMAL), ("a", NORMAL), ("a", NORMAL)))
    got = page(history, up_to=2)
    assert [each.offset for each in messages(got.entries)] == [1, 2]
    assert got.complete
    assert got.up_to == 2


def test_page_beyond_the_head_does_not_go_back() -> None:
    """A reader that is ahead of this log is given nothing, and stays where it is."""
    got = page(published(message(1)), after=7)
    assert got == Page(NORMAL, (), {}, 0, Offset(7), complete=True)


def test_personal_messages_are_for_their_user() -> None:
    """Everybody gets what is for all, and only its user what is for one."""
    shared, anns, bobs = message(1), message(2, to_user=ANN), message(3, to_user=BOB)
    history = published(shared, anns, bobs)
    for user, expected in ((None, (shared,)), (ANN, (shared, anns)), (BOB, (shared, bobs))):
        assert page(history, held={"**": 0}, user=user).entries == expected


def test_since_hides_what_was_before() -> None:
    """A subscription discloses nothing up to its since, neither messages nor that any are lost."""
    history = published(*row(*[("a", NORMAL)] * 4), keep=Retention(limit=2))
    assert [each.offset for each in messages(page(history, held={"a": 3}).entries)] == [4]
    assert gaps(page(history, held={"a": 2}).entries) == []
    assert history.summarize(Cursor.at(0), {"a": Offset(3)}, None, 0.0).replay == 1


def test_earliest_since_counts() -> None:
    """A topic that two subscriptions cover is disclosed from the earlier one."""
    history = published(*row(*[("a", NORMAL)] * 4))
    read = page(history, held={"a": 3, "*": 1, "**": 2}).entries
    assert [each.offset for each in messages(read)] == [2, 3, 4]


def test_messages_of_several_topics_are_in_order() -> None:
    """Whatever the topics, a lane is read in the order of publishing, each message once."""
    drafts = row(*[(topic, NORMAL) for topic in "abcab"])
    assert page(published(*drafts), held={"a": 0, "*": 0, "**": 0}).entries == tuple(drafts)


def test_gap_stands_before_the_message_that_follows_it() -> None:
    """What is missing is told between its neighbours, so no reader passes it unknowing."""
    drafts = row(("a", NORMAL), ("b", NORMAL), ("a", NORMAL), ("a", NORMAL))
    history = published(*drafts, keep=Retention(limit=1))
    assert page(history, held={"a": 0, "b": 0}).entries == (
        gap(1, "a"),
        drafts[1],
        gap(3, "a"),
        drafts[3],
    )


def test_count_is_known_for_the_last_thousands() -> None:
    """The number of lost messages is exact for those that came back in time, else unknown."""
    history = published(
        *row(*[("a", NORMAL)] * (2 * MIN_TRIMMED_OFFSETS + 2)), keep=Retention(limit=1)
    )
    late, early = Cursor.at(MIN_TRIMMED_OFFSETS + 1), Cursor.at(0)
    for cursor, count in ((late, MIN_TRIMMED_OFFSETS), (early, None)):
        told = history.summarize(cursor, {"a": Offset(0)}, None, 0.0).gap
        assert told is not None
        assert told.count == count


def test_unknown_gap_reaches_over_no_message() -> None:
    """Where it is forgotten what was lost, the messages of other topics still stand apart."""
    quiet = message(2, "b")
    busy = [message(offset) for offset in range(3, 2 * MIN_TRIMMED_OFFSETS + 5)]
    history = published(message(1), quiet, *busy, keep=Retention(limit=1))
    before, found, after, last = page(history, held={"a": 0, "b": 0}).entries
    assert (found, last) == (quiet, busy[-1])
    assert before == gap(1, "a", count=None)
    assert after == gap(3, "a", last=busy[-2].offset, count=None)
