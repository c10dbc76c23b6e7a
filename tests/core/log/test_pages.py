"""Pages: their content, their end, and the places of their gaps."""

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
    """A message larger than `max_bytes` is returned alone."""
    history = published(message(1, size=100), message(2))
    got = page(history, max_bytes=10, limit=5)
    assert [each.offset for each in messages(got.entries)] == [1]
    assert not got.complete


def test_page_ends_at_up_to() -> None:
    """Messages after `up_to` are left for the live feed."""
    history = published(*row(("a", NORMAL), ("a", NORMAL), ("a", NORMAL)))
    got = page(history, up_to=2)
    assert [each.offset for each in messages(got.entries)] == [1, 2]
    assert got.complete
    assert got.up_to == 2


def test_page_beyond_the_head_does_not_go_back() -> None:
    """A reader ahead of this log gets nothing, and keeps its position."""
    got = page(published(message(1)), after=7)
    assert got == Page(NORMAL, (), {}, 0, Offset(7), complete=True)


def test_personal_messages_are_for_their_user() -> None:
    """Every reader gets the public messages, and only the addressee gets a personal one."""
    shared, anns, bobs = message(1), message(2, to_user=ANN), message(3, to_user=BOB)
    history = published(shared, anns, bobs)
    for user, expected in ((None, (shared,)), (ANN, (shared, anns)), (BOB, (shared, bobs))):
        assert page(history, held={"**": 0}, user=user).entries == expected


def test_since_hides_what_was_before() -> None:
    """A subscription discloses neither messages nor losses up to its `since`."""
    history = published(*row(*[("a", NORMAL)] * 4), keep=Retention(limit=2))
    assert [each.offset for each in messages(page(history, held={"a": 3}).entries)] == [4]
    assert gaps(page(history, held={"a": 2}).entries) == []
    assert history.summarize(Cursor.at(0), {"a": Offset(3)}, None, 0.0).replay == 1


def test_earliest_since_counts() -> None:
    """A topic that several subscriptions cover is disclosed from the lowest `since`."""
    history = published(*row(*[("a", NORMAL)] * 4))
    read = page(history, held={"a": 3, "*": 1, "**": 2}).entries
    assert [each.offset for each in messages(read)] == [2, 3, 4]


def test_messages_of_several_topics_are_in_order() -> None:
    """A lane is read in the order of publishing over all topics, each message once."""
    drafts = row(*[(topic, NORMAL) for topic in "abcab"])
    assert page(published(*drafts), held={"a": 0, "*": 0, "**": 0}).entries == tuple(drafts)


def test_gap_stands_before_the_message_that_follows_it() -> None:
    """A gap stands between its neighbours, so that a reader cannot pass it without getting it."""
    drafts = row(("a", NORMAL), ("b", NORMAL), ("a", NORMAL), ("a", NORMAL))
    history = published(*drafts, keep=Retention(limit=1))
    assert page(history, held={"a": 0, "b": 0}).entries == (
        gap(1, "a"),
        drafts[1],
        gap(3, "a"),
        drafts[3],
    )


def test_count_is_known_for_recent_losses() -> None:
    """The count of recent losses is exact, and the count of older ones is unknown."""
    history = published(
        *row(*[("a", NORMAL)] * (2 * MIN_TRIMMED_OFFSETS + 2)), keep=Retention(limit=1)
    )
    late, early = Cursor.at(MIN_TRIMMED_OFFSETS + 1), Cursor.at(0)
    for cursor, count in ((late, MIN_TRIMMED_OFFSETS), (early, None)):
        lost = history.summarize(cursor, {"a": Offset(0)}, None, 0.0).gap
        assert lost is not None
        assert lost.count == count


def test_gap_of_unknown_count_contains_no_message() -> None:
    """A gap with an unknown count still contains no message of another topic."""
    quiet = message(2, "b")
    busy = [message(offset) for offset in range(3, 2 * MIN_TRIMMED_OFFSETS + 5)]
    history = published(message(1), quiet, *busy, keep=Retention(limit=1))
    before, found, after, last = page(history, held={"a": 0, "b": 0}).entries
    assert (found, last) == (quiet, busy[-1])
    assert before == gap(1, "a", count=None)
    assert after == gap(3, "a", last=busy[-2].offset, count=None)
