"""The table of the states of a connection: each event in each state, and the documented table."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core import lifecycle
from holdfast.core.lifecycle import TRANSITIONS, ConnectionEvent, ConnectionState, transition
from holdfast.errors import IllegalTransition

ORDER = list(ConnectionState)


def table_in_docstring() -> dict[tuple[ConnectionState, ConnectionEvent], ConnectionState]:
    """Return the transitions that the module's docstring draws."""
    rows = re.findall(r"^ +(\w+) +([A-Z]+) +→ (\w+)", lifecycle.__doc__ or "", re.MULTILINE)
    return {
        (state, ConnectionEvent[event]): ConnectionState[following]
        for before, event, following in rows
        for state in (ConnectionState if before == "any" else [ConnectionState[before]])
    }


@pytest.mark.parametrize("state", ConnectionState)
@pytest.mark.parametrize("event", ConnectionEvent)
def test_every_event_in_every_state(state: ConnectionState, event: ConnectionEvent) -> None:
    """An event leads to the state that the table names, or raises if the table has no such row."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        with pytest.raises(IllegalTransition, match=f"{event.name}.*{state.name}"):
            transition(state, event)
    else:
        assert transition(state, event) is following


def test_documented_table_is_the_table() -> None:
    """The table in the module's docstring has exactly the transitions of the code."""
    assert table_in_docstring() == TRANSITIONS


@given(st.lists(st.sampled_from(ConnectionEvent)))
def test_no_event_leads_back(script: list[ConnectionEvent]) -> None:
    """A connection only moves forward, from OPENING to OPEN, CLOSING and CLOSED."""
    state = ConnectionState.OPENING
    for event in script:
        if (state, event) in TRANSITIONS:
            following = transition(state, event)
            assert ORDER.index(following) >= ORDER.index(state)
            state = following


@pytest.mark.parametrize("state", ConnectionState)
@pytest.mark.parametrize("event", [ConnectionEvent.LOST, ConnectionEvent.FINISHED])
def test_lost_peer_is_never_illegal(state: ConnectionState, event: ConnectionEvent) -> None:
    """In each state, a lost client and the end of the transport close the connection."""
    assert transition(state, event) is ConnectionState.CLOSED


@pytest.mark.parametrize("state", ConnectionState)
def test_close_is_never_illegal(state: ConnectionState) -> None:
    """In each state, the server may close the connection, and a closed one stays closed."""
    following = transition(state, ConnectionEvent.CLOSE)
    is_closed = state is ConnectionState.CLOSED
    assert following is (ConnectionState.CLOSED if is_closed else ConnectionState.CLOSING)
