"""A connection's lifecycle: the table, over all that can happen in every state."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core import connection as module
from holdfast.core.connection import TRANSITIONS, CloseReason, Connection, Event, State
from holdfast.core.cursor import Cursor, Epoch
from holdfast.core.message import Offset, UserId
from holdfast.core.registry import ConnectionRegistry
from holdfast.core.tokens import ConnectionId, Position, Session
from holdfast.errors import IllegalTransition
from tests.core.builders import connection

events = st.sampled_from(Event)
reasons = st.none() | st.sampled_from(CloseReason)

Marks = tuple[Offset, Offset, Offset, Offset]
EPOCH, HERE = Epoch("epoch"), ConnectionId("c")
HANDED_OVER: Marks = (Offset(3), Offset(4), Offset(4), Offset(5))


def in_state(state: State) -> Connection:
    """A connection in that state, by the shortest way."""
    connected = connection("c")
    for event in {
        State.OPENING: [],
        State.OPEN: [Event.READY],
        State.CLOSING: [Event.CLOSE],
        State.CLOSED: [Event.LOST],
    }[state]:
        connected.handle(event)
    assert connected.state is state
    return connected


def table_in_docstring() -> dict[tuple[State, Event], State]:
    """The transitions that the module's documentation draws."""
    rows = re.findall(r"^ +(\w+) +([A-Z]+) +→ (\w+)", module.__doc__ or "", re.MULTILINE)
    return {
        (state, Event[event]): State[following]
        for before, event, following in rows
        for state in (State if before == "any" else [State[before]])
    }


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
@given(reason=reasons)
def test_every_event_in_every_state(state: State, event: Event, reason: CloseReason | None) -> None:
    """An event leads where the table says, or is illegal, raises and changes nothing."""
    connected = in_state(state)
    following = TRANSITIONS.get((state, event))
    if following is None:
        with pytest.raises(IllegalTransition, match=f"{event.name}.*{state.name}"):
            connected.handle(event, reason)
        assert (connected.state, connected.close_reason) == (state, None)
    else:
        assert connected.handle(event, reason) is connected.state is following


def test_documented_table_is_the_table() -> None:
    """The table in the module's docstring has exactly the transitions of the code."""
    assert table_in_docstring() == TRANSITIONS


@given(st.lists(st.tuples(events, reasons)))
def test_first_reason_stays(script: list[tuple[Event, CloseReason | None]]) -> None:
    """Whatever happens, the reason of a connection is the first with which this side ended it."""
    connected, first = connection("c"), None
    for event, reason in script:
        if (connected.state, event) in TRANSITIONS:
            following = connected.handle(event, reason)
            first = first or (reason if following is State.CLOSING else None)
        assert connected.close_reason is first


@given(st.lists(events))
def test_closed_is_the_end(script: list[Event]) -> None:
    """No event brings a connection back once it is closing or closed."""
    connected = connection("c")
    order = [State.OPENING, State.OPEN, State.CLOSING, State.CLOSED]
    reached = 0
    for event in script:
        if (connected.state, event) in TRANSITIONS:
            connected.handle(event)
        assert order.index(connected.state) >= reached
        reached = order.index(connected.state)


@pytest.mark.parametrize("state", State)
def test_lost_peer_is_never_illegal(state: State) -> None:
    """A peer may vanish and a transport may return in any state: that closes."""
    assert in_state(state).handle(Event.LOST) is State.CLOSED
    assert in_state(state).handle(Event.FINISHED) is State.CLOSED


def test_lost_peer_is_no_reason_of_this_side() -> None:
    """A connection that the client left has no close reason."""
    connected = in_state(State.OPEN)
    connected.handle(Event.LOST, CloseReason.IDLE)
    assert connected.close_reason is None


@pytest.mark.parametrize("reason", CloseReason)
def test_close_code_says_whether_to_come_back(reason: CloseReason) -> None:
    """1012 and 4000 to 4399 ask the client to reconnect, 4400 to 4499 tell it not to."""
    assert reason.code == 1012 or 4000 <= reason.code < 4500
    assert reason.may_reconnect is (reason.code == 1012 or 4000 <= reason.code < 4400)


def test_close_codes_are_distinct() -> None:
    """Each reason has its own code and text."""
    assert len({reason.code for reason in CloseReason}) == len(CloseReason.__members__)
    assert len({reason.text for reason in CloseReason}) == len(CloseReason.__members__)


def test_connection_is_its_users() -> None:
    """A connection belongs to the user of its session, or to nobody."""
    assert connection("c", Session(UserId("u"))).user == "u"
    assert connection("c").user is None


def test_subscriptions_are_the_connections_own() -> None:
    """What a connection subscribes to does not change another with the same session."""
    session = Session(UserId("u"), {"a": Offset(7)})
    first, second = connection("c", session), connection("d", session)
    registry = ConnectionRegistry()
    registry.add(first)
    registry.subscribe(first, ["b"], Offset(9))
    registry.unsubscribe(first, ["a"])
    assert first.subscriptions == {"b": 9}
    assert second.subscriptions == session.subscriptions == {"a": 7}


@pytest.mark.parametrize(
    ("stored", "acknowledged", "at", "taken"),
    [
        ((9, 9, 9, 9), False, (0, 0, 0, 0), True),
        ((9, 9, 9, 9), False, (3, 4, 4, 5), True),
        ((9, 9, 9, 9), False, (3, 4, 4, 6), False),
        ((9, 9, 9, 9), False, (4, 4, 4, 4), False),
        ((2, 4, 4, 4), True, (2, 4, 4, 4), True),
        ((2, 4, 4, 4), True, (3, 4, 4, 4), True),
        ((2, 4, 4, 4), True, (3, 4, 3, 4), False),
    ],
    ids=["nothing", "all", "beyond", "beyond in one lane", "again", "more", "back in one lane"],
)
def test_acknowledged_is_what_was_handed_over_and_never_less(
    stored: Marks, acknowledged: bool, at: Marks, taken: bool
) -> None:
    """The resume point moves up to what was handed over, from what was acknowledged before."""
    before, after = Position(EPOCH, Cursor(stored)), Position(EPOCH, Cursor(at))
    session = Session(None, position=before, acknowledged=acknowledged, connection=HERE)
    assert connection("c", session).acknowledge(after, Cursor(HANDED_OVER)) is taken
    assert session.position is (after if taken else before)
    assert session.acknowledged is (taken or acknowledged)


def test_ghost_acknowledges_nothing() -> None:
    """Who has taken over the session moves its resume point, and nobody else."""
    session = Session(None, connection=HERE)
    at = Position(EPOCH, Cursor(HANDED_OVER))
    assert not connection("ghost", session).acknowledge(at, at.cursor)
    assert (session.position, session.acknowledged) == (None, False)
