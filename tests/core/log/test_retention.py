"""What History keeps, what goes first, and what is told of that."""

from __future__ import annotations

import tracemalloc
from math import inf

import pytest

from holdfast.core.cursor import Cursor
from holdfast.core.log.history import History
from holdfast.core.log.retention import Retention
from holdfast.core.message import Offset, Priority, UserId
from tests.core.builders import (
    CRITICAL,
    HIGH,
    LOW,
    NORMAL,
    gap,
    gaps,
    message,
    page,
    published,
    row,
)

ANN, BOB = UserId("ann"), UserId("bob")


@pytest.mark.parametrize("offset", [0, 1, 3, -1])
def test_offset_that_does_not_follow_is_refused(offset: int) -> None:
    """A log has no holes and no repetitions, and a mistake leaves it as it was."""
    history = published(message(1))
    with pytest.raises(ValueError, match="does not follow"):
        history.append(message(offset), 0.0)
    assert (history.head, len(history)) == (1, 1)


def test_busy_topic_does_not_push_out_a_quiet_one() -> None:
    """The bounds are those of each topic by itself."""
    quiet, *busy = row(("quiet", NORMAL), *[("busy", NORMAL)] * 9)
    history = published(quiet, *busy, keep=Retention(limit=2))
    assert page(history, held={"quiet": 0}).entries == (quiet,)


def test_low_does_not_push_out_critical() -> None:
    """The bounds are those of each lane by itself."""
    urgent, *rest = row(("a", CRITICAL), *[("a", LOW)] * 9)
    history = published(urgent, *rest, keep=Retention(limit=2))
    assert page(history, CRITICAL).entries == (urgent,)


def test_low_pays_first_when_all_together_are_too_large() -> None:
    """The bound on all of it costs the lowest lane, whatever is older."""
    history = published(
        message(1, lane=CRITICAL, size=50),
        message(2, "b", LOW, size=40),
        message(3, "c", HIGH, size=50),
        keep=Retention(total_bytes=120),
    )
    assert history.held_bytes == 100
    assert page(history, LOW, held={"b": 0}).entries == (gap(2, "b", lane=LOW),)


def test_newer_value_in_another_lane_supersedes() -> None:
    """A key has one value in the log, in whichever lane it came."""
    newer = message(2, lane=LOW, key="k")
    history = published(message(1, lane=HIGH, key="k"), newer)
    assert page(history, HIGH).entries == ()
    assert page(history, LOW).entries == (newer,)


def test_superseded_values_are_no_loss() -> None:
    """However often a key changes, nobody is told of a gap."""
    values = [message(offset, key="k") for offset in range(1, 100)]
    history = published(*values, keep=Retention(limit=2))
    assert page(history).entries == (values[-1],)
    assert history.summarize(Cursor.at(0), {"a": Offset(0)}, None, 0.0).gap is None


def test_value_trimmed_before_it_was_superseded_is_a_loss() -> None:
    """What was trimmed while it was the newest of its key is told, even if a newer one came."""
    history = published(
        message(1, key="k"), message(2), last := message(3, key="k"), keep=Retention(limit=1)
    )
    assert page(history).entries == (gap(1, "a", last=2, count=2), last)


def test_expired_message_is_neither_replayed_nor_lost() -> None:
    """A message whose ttl has passed is left out, before and after it was trimmed."""
    history = published(message(1, expires_at=5.0), keep=Retention(limit=1))
    assert page(history, now=5.0).entries == ()
    history.append(last := message(2), 5.0)
    assert page(history, now=5.0).entries == (last,)


def test_message_trimmed_before_it_expired_is_a_loss() -> None:
    """What was pushed out while it was good is told, even to those who come later."""
    history = published(message(1, expires_at=5.0), last := message(2), keep=Retention(limit=1))
    assert page(history, now=9.0).entries == (gap(1, "a"), last)


@pytest.mark.parametrize(("now", "held"), [(9.9, 1), (10.0, 0)])
def test_bound_by_age(now: float, held: int) -> None:
    """A message is kept until its age reaches the bound."""
    history = published(message(1, at=0.0), keep=Retention(age=10.0))
    history.trim(now)
    assert len(history) == held


def test_no_bound_by_age() -> None:
    """Without an age nothing is too old."""
    history = published(message(1, at=0.0), keep=Retention(age=None))
    history.trim(inf)
    assert len(history) == 1


def test_dropped_topic_is_told() -> None:
    """Who comes back to a topic that was dropped, because of too many, is told of a gap."""
    history = published(*row(("a", NORMAL), ("b", NORMAL)), keep=Retention(max_logs=1))
    for held in ({"a": 0}, {"*": 0}, {"**": 0}):
        (told,) = gaps(page(history, held=held).entries)
        assert (told.first, told.last, told.count) == (1, 1, None)


def test_topic_that_was_dropped_and_came_back_is_told() -> None:
    """A new message in one lane of a dropped topic does not hide what its other lanes lost."""
    history = published(*row(("a", LOW), ("b", NORMAL), ("a", HIGH)), keep=Retention(max_logs=1))
    (told,) = gaps(page(history, LOW).entries)
    assert told.last == history.trimmed_through("a", LOW) == 1
    assert history.summarize(Cursor.at(0), {"a": Offset(0)}, None, 0.0).gap is not None


def test_dropping_one_topic_is_no_gap_in_another() -> None:
    """A topic that was there all the time, and lost nothing, has no gap."""
    history = published(
        *row(("a", NORMAL), ("b", LOW), ("a", NORMAL), ("c", NORMAL)), keep=Retention(max_logs=2)
    )
    assert page(history, LOW).entries == ()


def test_gap_does_not_name_what_others_got() -> None:
    """A topic that exists only as another user's personal one is named to nobody."""
    history = published(
        message(1, "z"), message(2, "m.secret", to_user=BOB), keep=Retention(max_logs=1)
    )
    for told in gaps(page(history, held={"m.*": 0}, user=ANN).entries):
        assert "m.secret" not in told.topics


def test_nothing_grows_with_what_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is that of what is kept, however much was published, superseded or trimmed."""
    monkeypatch.setattr("holdfast.core.log.history.MIN_TRIMMED_OFFSETS", 16)
    history = History(Retention(limit=10, max_logs=6))

    def size_after(count: int) -> int:
        for offset in range(history.head + 1, history.head + 1 + count):
            topic = f"t{offset % 7}.{offset // 100}"
            key = f"{offset % 5}" if offset % 2 else None
            history.append(message(offset, topic, Priority(offset % 3), key=key), 0.0)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = size_after(5_000)
        assert size_after(20_000) - before < 50_000
    finally:
        tracemalloc.stop()
