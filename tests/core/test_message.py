"""Message, Priority and Gap."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.message import BEST_FIRST, GAP_TOPICS_LIMIT, Gap, Priority
from tests.core.builders import CRITICAL, HIGH, LOW, NORMAL, gap, message

names = st.integers(0, GAP_TOPICS_LIMIT + 20).map("t{}".format)
gaps = st.builds(
    lambda lane, first, length, topics, count: gap(
        first, *topics, lane=lane, last=first + length, count=count
    ),
    st.sampled_from(Priority),
    st.integers(1, 100),
    st.integers(0, 10),
    st.lists(names, max_size=70, unique=True).map(sorted),
    st.none() | st.integers(1, 100),
)


def test_lanes_are_ordered_by_urgency() -> None:
    """CRITICAL is above HIGH, HIGH above NORMAL, and NORMAL above LOW."""
    assert CRITICAL > HIGH > NORMAL > LOW


def test_best_first_names_every_lane_once() -> None:
    """The sending order has all four lanes, CRITICAL first."""
    assert BEST_FIRST == (CRITICAL, HIGH, NORMAL, LOW)


def test_label_is_the_lower_case_name() -> None:
    """The wire has the name of a priority in lower case."""
    assert [lane.label for lane in Priority] == ["low", "normal", "high", "critical"]


def test_message_cannot_be_changed() -> None:
    """A message is frozen, because several connections share it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        message(1).topic = "b"  # type: ignore[misc]


def test_size_is_that_of_the_encoded_frame() -> None:
    """The size of a message is the number of bytes of its body."""
    assert message(1, size=7).size == 7
    assert message(1, size=0).size == 0


@pytest.mark.parametrize(("now", "expired"), [(9.9, False), (10.0, True), (10.1, True)])
def test_message_expires_when_its_ttl_has_passed(now: float, expired: bool) -> None:
    """A message has expired from the moment of `expires_at` on."""
    assert message(1, expires_at=10.0).has_expired(now) is expired


def test_message_without_ttl_never_expires() -> None:
    """A message without a ttl never expires."""
    assert not message(1).has_expired(float("inf"))


def test_subject_needs_a_key() -> None:
    """A message without a key has no subject, so it supersedes nothing."""
    assert message(1).subject is None


def test_empty_key_is_a_key() -> None:
    """An empty key makes a subject, as any other key does."""
    assert message(1, key="").subject is not None
    assert message(1, key="").subject == message(2, key="").subject


def test_subject_tells_topic_user_and_key_apart() -> None:
    """Two messages have the same subject only if topic, user and key are all the same."""
    subjects = {
        message(1, topic, key=key, to_user=user).subject
        for topic in ("a", "b", "")
        for user in (None, "", "a")
        for key in ("", "a", "b")
    }
    assert len(subjects) == 27


@given(gaps, gaps, gaps)
def test_merging_gaps_is_associative(left: Gap, middle: Gap, right: Gap) -> None:
    """Three neighbours merge to the same gap in either order."""
    assert left.merged(middle).merged(right) == left.merged(middle.merged(right))


@given(gaps, gaps)
def test_merged_gap_covers_both(left: Gap, right: Gap) -> None:
    """A merged gap covers both ranges, and has the lane of the left gap."""
    merged = left.merged(right)
    assert merged.first == min(left.first, right.first)
    assert merged.last == max(left.last, right.last)
    assert merged.priority == left.priority


@given(gaps, gaps)
def test_merged_gap_names_the_topics_of_both_or_none(left: Gap, right: Gap) -> None:
    """A merged gap names the topics of both, sorted, or none if there are too many."""
    topics = {*left.topics, *right.topics}
    nameable = left.topics and right.topics and len(topics) <= GAP_TOPICS_LIMIT
    assert left.merged(right).topics == (tuple(sorted(topics)) if nameable else ())


@given(gaps, gaps)
def test_merged_count_is_the_sum_or_unknown(left: Gap, right: Gap) -> None:
    """The counts add up, and an unknown count makes the sum unknown."""
    known = left.count is not None and right.count is not None
    assert left.merged(right).count == (left.count + right.count if known else None)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (gap(1, "b", "c", last=5, count=3), gap(1, "b", "c", last=5, count=3)),
        (gap(1, "a", "b", last=5, count=3), gap(1, "b", last=5, count=None)),
        (gap(1, last=5, count=3), gap(1, last=5, count=None)),
        (gap(1, "a", last=5, count=3), None),
        (gap(1, "a", "d", last=5, count=3), None),
    ],
    ids=["none of it", "part of it", "too many to name", "all of it", "all of several"],
)
def test_gap_without_unsubscribed_topics(before: Gap, after: Gap | None) -> None:
    """A client that leaves topics gets the rest of a gap, without a count that includes them."""
    assert before.without(lambda topic: topic in ("a", "d")) == after


def test_gap_names_as_many_topics_as_the_limit() -> None:
    """A gap in exactly the limit of topics names them all, and one in more names none."""
    full = gap(1, *(f"{number:03}" for number in range(GAP_TOPICS_LIMIT)))
    assert len(full.merged(gap(2, "000")).topics) == GAP_TOPICS_LIMIT
    assert full.merged(gap(2, "more")).topics == ()
