"""Message, Priority and Gap: the records."""

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
    """The sending order has all four lanes, the most urgent first."""
    assert BEST_FIRST == (CRITICAL, HIGH, NORMAL, LOW)


def test_label_is_the_lower_case_name() -> None:
    """On the wire a priority has its name in lower case."""
    assert [lane.label for lane in Priority] == ["low", "normal", "high", "critical"]


def test_message_cannot_be_changed() -> None:
    """A message that several connections share is frozen."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        message(1).topic = "b"  # type: ignore[misc]


def test_size_is_that_of_the_encoded_frame() -> None:
    """The size of a message is the number of bytes of its body."""
    assert message(1, size=7).size == 7
    assert message(1, size=0).size == 0


@pytest.mark.parametrize(("now", "expired"), [(9.9, False), (10.0, True), (10.1, True)])
def test_message_expires_when_its_ttl_has_passed(now: float, expired: bool) -> None:
    """At the moment that it names, and from then on, a message has expired."""
    assert message(1, expires_at=10.0).has_expired(now) is expired


def test_message_without_ttl_never_expires() -> None:
    """Without a ttl there is no time at which a message has expired."""
    assert not message(1).has_expired(float("inf"))


def test_subject_needs_a_key() -> None:
    """A message without a key has no subject, so it supersedes nothing."""
    assert message(1).subject is None


def test_empty_key_is_a_key() -> None:
    """An empty key makes a subject like any other."""
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
    """In whichever order three neighbours are merged, the result is the same."""
    assert left.merged(middle).merged(right) == left.merged(middle.merged(right))


@given(gaps, gaps)
def test_merged_gap_covers_both(left: Gap, right: Gap) -> None:
    """A merged gap reaches as far as both, either way, and its lane is that of the left one."""
    merged = left.merged(right)
    assert merged.first == min(left.first, right.first)
    assert merged.last == max(left.last, right.last)
    assert merged.priority == left.priority


@given(gaps, gaps)
def test_merged_gap_names_the_topics_of_both_or_none(left: Gap, right: Gap) -> None:
    """The topics are those of both, sorted, each once; too many, or any on one side: none."""
    topics = {*left.topics, *right.topics}
    nameable = left.topics and right.topics and len(topics) <= GAP_TOPICS_LIMIT
    assert left.merged(right).topics == (tuple(sorted(topics)) if nameable else ())


@given(gaps, gaps)
def test_merged_count_is_the_sum_or_unknown(left: Gap, right: Gap) -> None:
    """The counts add up; an unknown one makes the sum unknown."""
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
def test_what_is_left_of_a_gap_names_and_counts_nothing_of_what_was_left(
    before: Gap, after: Gap | None
) -> None:
    """A client that leaves topics is told of its other losses, and of no number that has theirs."""
    assert before.without(lambda topic: topic in ("a", "d")) == after


def test_gap_names_as_many_topics_as_the_limit() -> None:
    """A gap of exactly the limit names them all; one more, and it names none."""
    full = gap(1, *(f"{number:03}" for number in range(GAP_TOPICS_LIMIT)))
    assert len(full.merged(gap(2, "000")).topics) == GAP_TOPICS_LIMIT
    assert full.merged(gap(2, "more")).topics == ()
