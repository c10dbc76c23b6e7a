"""The messages that History keeps, the order in which it trims, and the gaps that follow."""

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
    """An offset that is not the next one raises, and leaves the log unchanged."""
    history = published(message(1))
    with pytest.raises(ValueError, match="does not follow"):
        history.append(message(offset), 0.0)
    assert (history.head, len(history)) == (1, 1)


def test_busy_topic_does_not_push_out_a_quiet_one() -> None:
    """The bounds apply to each topic separately."""
    quiet, *busy = row(("quiet", NORMAL), *[("busy", NORMAL)] * 9)
    history = published(quiet, *busy, keep=Retention(limit=2))
    assert page(history, held={"quiet": 0}).entries == (quiet,)


def test_low_does_not_push_out_critical() -> None:
    """The bounds apply to each lane separately."""
    urgent, *rest = row(("a", CRITICAL), *[("a", LOW)] * 9)
    history = published(urgent, *rest, keep=Retention(limit=2))
    assert page(history, CRITICAL).entries == (urgent,)


def test_low_pays_first_when_all_together_are_too_large() -> None:
    """The bound on the total trims the lowest lane first, even if others are older."""
    history = published(
        message(1, lane=CRITICAL, size=50),
        message(2, "b", LOW, size=40),
        message(3, "c", HIGH, size=50),
        keep=Retention(total_bytes=120),
    )
    assert history.held_bytes == 100
    assert page(history, LOW, held={"b": 0}).entries == (gap(2, "b", lane=LOW),)


def test_newer_value_in_another_lane_supersedes() -> None:
    """A key has one value in the log over all lanes."""
    newer = message(2, lane=LOW, key="k")
    history = published(message(1, lane=HIGH, key="k"), newer)
    assert page(history, HIGH).entries == ()
    assert page(history, LOW).entries == (newer,)


def test_superseded_values_are_no_loss() -> None:
    """A key that changes often causes no gap."""
    values = [message(offset, key="k") for offset in range(1, 100)]
    history = published(*values, keep=Retention(limit=2))
    assert page(history).entries == (values[-1],)
    assert history.summarize(Cursor.at(0), {"a": Offset(0)}, None, 0.0).gap is None


def test_value_trimmed_before_it_was_superseded_is_a_loss() -> None:
    """A message that was trimmed as the newest of its key is a loss, even after a newer one."""
    history = published(
        message(1, key="k"), message(2), last := message(3, key="k"), keep=Retention(limit=1)
    )
    assert page(history).entries == (gap(1, "a", last=2, count=2), last)


def test_expired_message_is_neither_replayed_nor_lost() -> None:
    """An expired message is left out, before and after it was trimmed."""
    history = published(message(1, expires_at=5.0), keep=Retention(limit=1))
    assert page(history, now=5.0).entries == ()
    history.append(last := message(2), 5.0)
    assert page(history, now=5.0).entries == (last,)


def test_message_trimmed_before_it_expired_is_a_loss() -> None:
    """A message that was trimmed before its ttl passed is a loss, also for later readers."""
    history = published(message(1, expires_at=5.0), last := message(2), keep=Retention(limit=1))
    assert page(history, now=9.0).entries == (gap(1, "a"), last)


@pytest.mark.parametrize(("now", "held"), [(9.9, 1), (10.0, 0)])
def test_bound_by_age(now: float, held: int) -> None:
    """A message is kept until its age reaches the bound."""
    history = published(message(1, at=0.0), keep=Retention(age=10.0))
    history.trim(now)
    assert len(history) == held


def test_no_bound_by_age() -> None:
    """Without a bound by age, every message is kept."""
    history = published(message(1, at=0.0), keep=Retention(age=None))
    history.trim(inf)
    assert len(history) == 1


def test_dropped_topic_leaves_a_gap() -> None:
    """A topic that was dropped because of `max_logs` leaves a gap."""
    history = published(*row(("a", NORMAL), ("b", NORMAL)), keep=Retention(max_logs=1))
    for held in ({"a": 0}, {"*": 0}, {"**": 0}):
        (found,) = gaps(page(history, held=held).entries)
        assert (found.first, found.last, found.count) == (1, 1, None)


def test_topic_that_was_dropped_and_used_again_keeps_its_gap() -> None:
    """A new message in one lane of a dropped topic does not hide the losses of its other lanes."""
    history = published(*row(("a", LOW), ("b", NORMAL), ("a", HIGH)), keep=Retention(max_logs=1))
    (found,) = gaps(page(history, LOW).entries)
    assert found.last == history.trimmed_through("a", LOW) == 1
    assert history.summarize(Cursor.at(0), {"a": Offset(0)}, None, 0.0).gap is not None


def test_dropping_one_topic_is_no_gap_in_another() -> None:
    """Dropping a topic causes no gap in a topic that lost nothing."""
    history = published(
        *row(("a", NORMAL), ("b", LOW), ("a", NORMAL), ("c", NORMAL)), keep=Retention(max_logs=2)
    )
    assert page(history, LOW).entries == ()


def test_gap_does_not_name_what_others_got() -> None:
    """A gap does not name a topic that only has another user's personal messages."""
    history = published(
        message(1, "z"), message(2, "m.secret", to_user=BOB), keep=Retention(max_logs=1)
    )
    for found in gaps(page(history, held={"m.*": 0}, user=ANN).entries):
        assert "m.secret" not in found.topics


@pytest.mark.slow
def test_nothing_grows_with_what_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory depends on the messages that are kept, and not on the number published before."""
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
