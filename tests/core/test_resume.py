"""resume_point: the table of its docstring row by row, and the properties of all its decisions."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.core import resume
from holdfast.core.cursor import Cursor, Epoch, EventId, Head, Position
from holdfast.core.delivery.lanes import EVERY_LANE, NO_LANE
from holdfast.core.log.pages import ReplaySummary
from holdfast.core.message import LANES, Offset, Priority
from holdfast.core.resume import (
    GapCause,
    Presented,
    ResumePoint,
    farthest_offset,
    lanes_to_replay,
    resume_point,
    resumed_subscriptions,
)
from holdfast.core.tokens import Session
from tests.core.builders import message, published

NOW, OLD, OTHER = (Epoch(letter * 12) for letter in "nop")
HEAD = Head(NOW, Offset(9), {OLD: Offset(5)})
NOTHING = Presented()
UNREADABLE = Presented(is_unreadable=True)
TOKEN_ALONE = Presented(has_token=True)
TOKEN_AND_UNREADABLE = Presented(is_unreadable=True, has_token=True)
BEHIND = Cursor((Offset(2), Offset(3), Offset(9), Offset(4)))
"""A cursor up to the head, with a mark of its own in each lane."""


def presented_id(epoch: Epoch, cursor: Cursor | int) -> Presented:
    """Return a presented event id with this place."""
    cursor = Cursor.at(cursor) if isinstance(cursor, int) else cursor
    return Presented(EventId(epoch, cursor, "t" * 22))


def stored(epoch: Epoch, offset: int, *, acknowledged: bool = True) -> Session:
    """Return a session with a stored position."""
    return Session(None, position=Position(epoch, Cursor.at(offset)), acknowledged=acknowledged)


ACCEPTED = stored(NOW, 1)

ROWS: list[tuple[str, Presented, Session | None, ResumePoint]] = [
    ("nothing | - | - | now | -", NOTHING, None, ResumePoint(NOW)),
    (
        "a token or an id | refused | id of another epoch | now | RESTART",
        presented_id(OTHER, 1),
        None,
        ResumePoint(NOW, None, GapCause.RESTART),
    ),
    (
        "a token or an id | refused | any other, or unreadable | now | UNKNOWN",
        presented_id(NOW, 1),
        None,
        ResumePoint(NOW, None, GapCause.UNKNOWN),
    ),
    (
        "an event id | accepted | up to the head | the id's | -",
        presented_id(NOW, BEHIND),
        ACCEPTED,
        ResumePoint(NOW, BEHIND),
    ),
    (
        "an event id | accepted | beyond the head | now | UNKNOWN",
        presented_id(NOW, 10),
        ACCEPTED,
        ResumePoint(NOW, None, GapCause.UNKNOWN),
    ),
    (
        "an event id | accepted | forked log, up to the fork | the id's | -",
        presented_id(OLD, 5),
        ACCEPTED,
        ResumePoint(NOW, Cursor.at(5), None, Offset(5)),
    ),
    (
        "an event id | accepted | forked log, beyond the fork | the fork | FAILOVER",
        presented_id(OLD, BEHIND),
        ACCEPTED,
        ResumePoint(NOW, BEHIND.capped_at(Offset(5)), GapCause.FAILOVER, Offset(5)),
    ),
    (
        "an event id | accepted | another log | now | RESTART",
        presented_id(OTHER, 1),
        ACCEPTED,
        ResumePoint(NOW, None, GapCause.RESTART),
    ),
    (
        "a token alone | accepted | stored, acknowledged | stored | -",
        TOKEN_ALONE,
        stored(NOW, 9),
        ResumePoint(NOW, Cursor.at(9)),
    ),
    (
        "a token alone | accepted | stored, only sent | stored | UNKNOWN",
        TOKEN_ALONE,
        stored(NOW, 9, acknowledged=False),
        ResumePoint(NOW, Cursor.at(9), GapCause.UNKNOWN),
    ),
    (
        "a token, an unreadable id | accepted | stored | stored | UNKNOWN",
        TOKEN_AND_UNREADABLE,
        stored(NOW, 9),
        ResumePoint(NOW, Cursor.at(9), GapCause.UNKNOWN),
    ),
    (
        "a token | accepted | stored, in another log | now | UNKNOWN",
        TOKEN_ALONE,
        stored(OTHER, 1),
        ResumePoint(NOW, None, GapCause.UNKNOWN),
    ),
    (
        "a token | accepted | nothing stored | now | UNKNOWN",
        TOKEN_ALONE,
        Session(None),
        ResumePoint(NOW, None, GapCause.UNKNOWN),
    ),
]


@pytest.mark.parametrize(
    ("presented", "session", "point"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_row(presented: Presented, session: Session | None, point: ResumePoint) -> None:
    """The decision is the one in the row of the table."""
    assert resume_point(presented, session, HEAD) == point


def test_documented_table_has_these_rows() -> None:
    """The table in the module's docstring has exactly the rows that are tested, in their order."""
    _, _, table = (resume.__doc__ or "").partition("───\n")
    rows = [re.split(r"  +", line.strip()) for line in table.partition("\n\n")[0].splitlines()]
    assert [" | ".join(row) for row in rows] == [row[0] for row in ROWS]


@pytest.mark.parametrize(
    "presented",
    [
        pytest.param(UNREADABLE, id="unreadable"),
        pytest.param(TOKEN_ALONE, id="token"),
        pytest.param(TOKEN_AND_UNREADABLE, id="both"),
    ],
)
def test_refused_token_without_a_readable_id_is_unknown(presented: Presented) -> None:
    """A refused client whose log cannot be read from an id gets the cause UNKNOWN."""
    assert resume_point(presented, None, HEAD) == ResumePoint(NOW, None, GapCause.UNKNOWN)


def test_refused_id_of_a_forked_log_is_of_another_epoch() -> None:
    """Without a session, an id of the log before a failover gets the cause RESTART."""
    assert resume_point(presented_id(OLD, 1), None, HEAD).cause is GapCause.RESTART


def test_stored_position_of_a_forked_log() -> None:
    """A stored position up to the fork is exact, and a later one continues at the fork."""
    for offset, cause in ((5, None), (6, GapCause.FAILOVER)):
        point = resume_point(TOKEN_ALONE, stored(OLD, offset), HEAD)
        assert point == ResumePoint(NOW, Cursor.at(5), cause, Offset(5))


def test_event_id_precedes_the_stored_position() -> None:
    """A client with an event id continues there, whatever is stored."""
    for session in (Session(None), stored(NOW, 7), stored(OTHER, 1), stored(NOW, 9)):
        assert resume_point(presented_id(NOW, 3), session, HEAD) == ResumePoint(NOW, Cursor.at(3))


offsets = st.integers(0, 8).map(Offset)
epochs = st.sampled_from([NOW, OLD, OTHER])
cursors = st.builds(Cursor, st.tuples(offsets, offsets, offsets, offsets)) | offsets.map(Cursor.at)
ids = st.builds(EventId, epochs, cursors, st.just("t" * 22))
subscriptions = st.dictionaries(st.sampled_from(["a", "b", "c.*"]), offsets)
sessions = st.builds(
    Session,
    st.none(),
    subscriptions,
    position=st.none() | st.builds(Position, epochs, cursors),
    acknowledged=st.booleans(),
)
presentations = st.builds(Presented, event_id=ids, has_token=st.booleans()) | st.builds(
    Presented, is_unreadable=st.booleans(), has_token=st.booleans()
)


@st.composite
def heads(draw: st.DrawFn) -> Head:
    """A head whose forks lie within the log."""
    offset = draw(offsets)
    forks = st.dictionaries(st.sampled_from([OLD]), st.integers(0, offset).map(Offset))
    return Head(NOW, offset, draw(forks))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Presented, Session | None, Head]:
    """Return the presented values, and a session if there is a token."""
    presented = draw(presentations)
    has_token = presented.has_token or presented.event_id is not None
    return presented, draw(st.none() | sessions) if has_token else None, draw(heads())


Case = tuple[Presented, Session | None, Head]


@given(cases())
def test_cursor_is_never_beyond_the_log(case: Case) -> None:
    """A cursor is in the log of the head, up to its end, and up to the fork after a failover."""
    presented, session, head = case
    point = resume_point(presented, session, head)
    assert point.epoch == head.epoch
    if point.cursor is not None:
        assert point.cursor.highest <= head.offset
        if point.since_limit is not None:
            assert point.cursor.highest <= point.since_limit


@given(cases())
def test_cursor_is_never_beyond_the_position(case: Case) -> None:
    """A client skips no message: it continues at its position, or at an earlier fork."""
    presented, session, head = case
    point = resume_point(presented, session, head)
    if point.cursor is None:
        return
    assert session is not None
    event_id, position = presented.event_id, session.position
    if event_id is not None:
        position = Position(event_id.epoch, event_id.cursor)
    assert position is not None
    assert point.cursor <= position.cursor
    assert (point.cursor == position.cursor) is (point.cause is not GapCause.FAILOVER)


@given(heads())
def test_client_that_presents_no_value_is_fresh(head: Head) -> None:
    """A client that presents neither an event id nor a token has a fresh session."""
    assert not NOTHING
    assert resume_point(NOTHING, None, head) == ResumePoint(head.epoch)


@given(cases())
def test_client_that_presents_a_value_is_not_fresh(case: Case) -> None:
    """A client that presents a value is resumed, or gets the cause of a gap, or both."""
    presented, session, head = case
    assume(presented)
    point = resume_point(presented, session, head)
    assert point.cursor is not None or point.cause is not None


@given(cases())
def test_fork_limits_the_subscriptions_of_its_log_alone(case: Case) -> None:
    """`since_limit` is the fork, if the position is in the log before the failover."""
    presented, session, head = case
    point = resume_point(presented, session, head)
    if point.cursor is None:
        assert point.since_limit is None
        return
    assert session is not None
    event_id, position = presented.event_id, session.position
    epoch = event_id.epoch if event_id is not None else position.epoch if position else None
    assert point.since_limit == (None if epoch == head.epoch else head.forks[epoch or OTHER])


def test_new_topic_begins_at_the_farthest_offset() -> None:
    """A client that received offset 9 elsewhere begins a new topic at 9, on a node at 7."""
    point = ResumePoint(NOW, Cursor.at(9))
    assert resumed_subscriptions(point, {"a": Offset(3)}, ["a", "b"], Offset(7)) == {"a": 3, "b": 9}


points = st.builds(ResumePoint, st.just(NOW), st.none() | cursors)


@given(points, subscriptions, st.sets(st.sampled_from(["a", "b", "c.*", "d"])), offsets)
def test_no_subscription_begins_before_its_since(
    point: ResumePoint, held: dict[str, Offset], allowed: set[str], delivered: Offset
) -> None:
    """A held topic keeps its since; a new one discloses no earlier message."""
    resumed = resumed_subscriptions(point, held, allowed, delivered)
    assert resumed.keys() == allowed
    for topic, since in resumed.items():
        if point.cursor is None:
            assert since == delivered
        elif topic in held:
            assert since == held[topic]
        else:
            assert since >= delivered
            assert since == max(delivered, farthest_offset(point.cursor, held))


@given(cursors, subscriptions)
def test_farthest_offset_is_the_highest(cursor: Cursor, held: dict[str, Offset]) -> None:
    """No mark of the cursor and no `since` is beyond the farthest offset, and one of them is it."""
    assert farthest_offset(cursor, held) in {*cursor.marks, *held.values()}
    assert all(each <= farthest_offset(cursor, held) for each in (*cursor.marks, *held.values()))


@pytest.mark.parametrize(
    ("cursor", "up_to", "farthest", "delivered", "lanes"),
    [
        (None, 0, 0, 7, NO_LANE),
        (Cursor.at(3), 7, 3, 7, EVERY_LANE - {Priority.LOW}),
        (Cursor.at(3), 8, 3, 7, EVERY_LANE - {Priority.LOW}),
        (Cursor.at(3), 6, 3, 7, EVERY_LANE),
        (Cursor.at(3), 8, 8, 7, EVERY_LANE),
    ],
    ids=["fresh", "as delivered", "newer", "older", "node is behind its client"],
)
def test_lanes_to_replay(
    cursor: Cursor | None,
    up_to: int,
    farthest: int,
    delivered: int,
    lanes: frozenset[Priority],
) -> None:
    """A lane is skipped if the summary shows it as empty up to what this node has delivered."""
    summary = ReplaySummary(0, None, frozenset({Priority.LOW}), Offset(up_to))
    point = ResumePoint(NOW, cursor)
    assert lanes_to_replay(point, summary, Offset(farthest), Offset(delivered)) == lanes


@given(
    before=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(LANES)), max_size=6),
    after=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(LANES)), max_size=2),
    data=st.data(),
)
def test_no_message_is_in_a_lane_that_is_skipped(
    before: list[tuple[str, Priority]], after: list[tuple[str, Priority]], data: st.DataObject
) -> None:
    """A message after the cursor that this node has delivered is in a lane that is read."""
    log = [message(n, *each) for n, each in enumerate([*before, *after], 1)]
    received_offsets = st.integers(0, len(before)).map(Offset)
    cursor, held = Cursor((data.draw(received_offsets),) * 4), {"a": data.draw(received_offsets)}
    summary = published(*log[: len(before)]).summarize(cursor, held, None, 0.0)
    delivered = Offset(data.draw(st.integers(0, len(log))))  # perhaps more than the summary has
    farthest = farthest_offset(cursor, held)
    lanes = lanes_to_replay(ResumePoint(NOW, cursor), summary, farthest, delivered)
    missed = [each for each in log if each.topic == "a" and each.offset > farthest]
    assert {each.priority for each in missed if each.offset <= delivered} <= lanes
