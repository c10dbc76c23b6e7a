"""Connection: its reasons, its subscriptions and its acknowledgements, without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant

from holdfast import MemoryBroker, Reason
from holdfast.core.cursor import Cursor, Epoch, EventId, Head, Position
from holdfast.core.delivery.buffer import PriorityBuffer
from holdfast.core.delivery.lanes import NO_LANE, Delivery, LiveBatch
from holdfast.core.lifecycle import ConnectionState
from holdfast.core.message import Message, Offset, UserId
from holdfast.core.registry import ConnectionRegistry, Registrable
from holdfast.core.tokens import ConnectionId, Session, Token
from holdfast.errors import IllegalTransition
from holdfast.runtime.clock import Clock
from holdfast.runtime.connection import Connection, ConnectionContext, DeliveredLog
from holdfast.runtime.options import Options
from holdfast.runtime.timers import ConnectionTimers
from tests.core.builders import message
from tests.core.test_registry import RegistryMachine
from tests.support.virtual_loop import run_virtual

ANN = UserId("ann")
EPOCH, TOKEN = Epoch("e" * 12), Token("t" * 22)
Step = Callable[[Connection, Reason], object]


def connection(id: str = "c", session: Session | None = None, *, sent: int = 0) -> Connection:
    """Return an open connection to which all messages up to the offset `sent` were sent."""
    clock = Clock(lambda: 0.0, lambda: 0.0)
    log = DeliveredLog(MemoryBroker(), Head(EPOCH, Offset(sent)))
    return Connection(
        ConnectionContext(Options(), clock, log, ConnectionTimers(clock.monotonic)),
        ConnectionId(id),
        session or Session(None),
        TOKEN,
        Delivery(PriorityBuffer(), Cursor.at(sent), catching_up=NO_LANE),
    )


def ready(connected: Connection, _: Reason = Reason.DRAIN) -> None:
    """Send the first frame, as a transport does."""
    connected.open(b"{}")
    run_virtual(connected.next_frames())


def close(connected: Connection, reason: Reason) -> None:
    """End the connection from this side."""
    connected.close(reason)


def lose(connected: Connection, _: Reason) -> None:
    """Mark the client as lost."""
    connected.mark_lost()


def finish(connected: Connection, _: Reason) -> None:
    """End the connection, because its transport has returned."""
    connected.finish()


class ConnectionMachine(RegistryMachine):
    """The rules of the registry, with real connections and the messages that are pending there."""

    def connection(self, id: str, user: UserId | None, held: dict[str, Offset]) -> Connection:
        return connection(id, Session(user, held))

    def offer(self, connection: Registrable, published: Message) -> None:
        assert isinstance(connection, Connection)
        connection.delivery.offer(LiveBatch([published]))

    @invariant()
    def keeps_pending_messages(self) -> None:
        """Each connection has exactly the pending messages whose topics it still covers."""
        for client in self.all:
            assert isinstance(client.connection, Connection)
            client.connection.delivery.flush()
            assert list(client.connection.delivery.buffer) == client.pending


TestConnections = pytest.mark.slow(ConnectionMachine.TestCase)
TestConnections.settings = settings(stateful_step_count=100, max_examples=50)


@given(
    st.lists(
        st.tuples(st.sampled_from([ready, close, lose, finish]), st.sampled_from(Reason)),
        max_size=6,
    )
)
def test_first_reason_stays(script: Sequence[tuple[Step, Reason]]) -> None:
    """The close reason is the first one with which this side ended an open connection."""
    connected, first = connection(), None
    for step, reason in script:
        before = connected.state
        if step is ready and before is not ConnectionState.OPENING:
            continue  # a transport reads the first frame once
        step(connected, reason)
        if step is close and before in {ConnectionState.OPENING, ConnectionState.OPEN}:
            first = reason
        assert connected.close_reason is first


@pytest.mark.parametrize("step", [lose, finish])
def test_lost_client_is_not_a_reason(step: Step) -> None:
    """A connection whose client is lost has no close reason, and gets none later."""
    connected = connection()
    ready(connected)
    step(connected, Reason.IDLE)
    connected.close(Reason.DRAIN)
    assert (connected.state, connected.close_reason) == (ConnectionState.CLOSED, None)


def test_illegal_event_changes_nothing() -> None:
    """A second first frame raises, and the connection stays as it is."""
    connected = connection()
    ready(connected)
    connected.open(b"{}")
    connected.put_control(b"{}")
    with pytest.raises(IllegalTransition, match=r"READY.*OPEN"):
        run_virtual(connected.next_frames())
    assert (connected.state, connected.close_reason) == (ConnectionState.OPEN, None)


def test_connection_has_the_user_of_its_session() -> None:
    """A connection belongs to the user of its session, or to no user."""
    assert connection(session=Session(ANN)).user == ANN
    assert connection().user is None


def test_connections_of_one_session_have_subscriptions_of_their_own() -> None:
    """A subscription of one connection changes neither the session nor another connection."""
    session = Session(ANN, {"a": Offset(7)})
    first, second = connection("c", session), connection("d", session)
    registry = ConnectionRegistry[Connection]()
    registry.add(first)
    registry.subscribe(first, ["b"], Offset(9))
    registry.unsubscribe(first, ["a"])
    assert first.subscriptions == {"b": 9}
    assert second.subscriptions == session.subscriptions == {"a": 7}


def test_unsubscribe_drops_messages_that_are_not_covered() -> None:
    """A pending message of an unsubscribed topic is dropped, unless a pattern covers the topic."""
    registry = ConnectionRegistry[Connection]()
    connected = connection(session=Session(ANN, dict.fromkeys(["a.x", "b", "a.*"], Offset(0))))
    registry.add(connected)
    offered = [message(1, "a.x"), message(2, "b")]
    for each in offered:
        connected.delivery.offer(LiveBatch([each]))
    registry.unsubscribe(connected, ["a.x", "b", "never held"])
    connected.delivery.flush()
    assert list(connected.delivery.buffer) == offered[:1]


@pytest.mark.parametrize(
    ("event_id", "is_taken"),
    [
        (EventId(EPOCH, Cursor.at(5), TOKEN), True),
        (EventId(EPOCH, Cursor.at(0), TOKEN), True),
        (EventId(EPOCH, Cursor.at(6), TOKEN), False),
        (EventId(Epoch("f" * 12), Cursor.at(5), TOKEN), False),
        (EventId(EPOCH, Cursor.at(5), "u" * 22), False),
    ],
    ids=["all", "nothing", "beyond", "another log", "another connection"],
)
def test_acknowledged_position_becomes_the_resume_point(event_id: EventId, is_taken: bool) -> None:
    """An acknowledged id of this connection, up to the sent position, is stored at its end."""
    connected = connection(sent=5)
    assert connected.acknowledge(str(event_id)) is is_taken
    position = Position(EPOCH, event_id.cursor if is_taken else Cursor.at(5))
    last = connected.last_session()
    assert (last.position, last.acknowledged) == (position, is_taken)


def test_connection_that_was_taken_over_acknowledges_nothing() -> None:
    """After a takeover, only the new connection moves the resume point."""
    connected = connection(sent=5)
    connected.close(Reason.TAKEN_OVER)
    before = connected.session
    assert not connected.acknowledge(connected.event_id)
    assert connected.session is before
