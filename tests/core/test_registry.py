"""ConnectionRegistry beside plain sets: who is here, and who may have a message."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.core.connection import Connection
from holdfast.core.delivery.batch import LiveBatch
from holdfast.core.message import Message, Offset, UserId
from holdfast.core.registry import ConnectionLimits, ConnectionRegistry
from holdfast.core.tokens import Session
from holdfast.core.topics import USER_TOPIC, matches
from tests.core.builders import connection, message

ANN, BOB = UserId("ann"), UserId("bob")

users = st.sampled_from([ANN, BOB, None])
topics = st.sampled_from(["a", "b", "c.d", "c.e", USER_TOPIC])
expressions = st.sets(st.sampled_from(["a", "b", "c.d", "c.e", "*", "c.*", "**", USER_TOPIC]))


@dataclass(eq=False)
class Client:
    """A connection of the model: what it is subscribed to since when, and what it has pending."""

    connection: Connection
    user: UserId | None
    held: dict[str, int]
    pending: list[Message] = field(default_factory=list)

    def covers(self, topic: str) -> bool:
        return any(matches(expression, topic) for expression in self.held)

    def may_have(self, published: Message) -> bool:
        return self.covers(published.topic) and published.to_user in (None, self.user)


class RegistryMachine(RuleBasedStateMachine):
    """Coming, going and subscribing; ids are used again by later connections."""

    @initialize(total=st.integers(1, 6), per_user=st.integers(1, 3))
    def begin(self, total: int, per_user: int) -> None:
        self.limits = ConnectionLimits(total=total, per_user=per_user)
        self.registry = ConnectionRegistry(self.limits)
        self.here: list[Client] = []
        self.all: list[Client] = []
        self.offset = 0

    @rule(id=st.sampled_from("stuvwxyz"), user=users, wanted=expressions)
    def add(self, id: str, user: UserId | None, wanted: set[str]) -> None:
        """A connection opens if there is room, unless its id is here."""
        if self.registry.is_full:
            return
        session = Session(user, dict.fromkeys(wanted, Offset(0)))
        newcomer = Client(connection(id, session), user, dict.fromkeys(wanted, 0))
        if any(client.connection.id == id for client in self.here):
            with pytest.raises(ValueError, match="once"):
                self.registry.add(newcomer.connection)
            return
        own = [client for client in self.here if client.user == user and user is not None]
        replaced = own[: max(0, len(own) + 1 - self.limits.per_user)]
        assert self.registry.add(newcomer.connection) == [each.connection for each in replaced]
        self.here = [client for client in self.here if client not in replaced] + [newcomer]
        self.all.append(newcomer)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """A connection ends, perhaps long after another has taken its id."""
        if self.all:
            client = data.draw(st.sampled_from(self.all))
            assert self.registry.remove(client.connection) is (client in self.here)
            self.here = [each for each in self.here if each is not client]

    @rule(data=st.data(), wanted=expressions)
    def subscribe(self, data: st.DataObject, wanted: set[str]) -> None:
        """A connection adds topics, even one that has gone; those that it has keep their since."""
        if self.all:
            client = data.draw(st.sampled_from(self.all))
            self.registry.subscribe(client.connection, wanted, Offset(self.offset))
            client.held = dict.fromkeys(wanted, self.offset) | client.held

    @rule(data=st.data(), unwanted=expressions)
    def unsubscribe(self, data: st.DataObject, unwanted: set[str]) -> None:
        """A connection leaves topics, and loses what is pending for those that it left."""
        if self.all:
            client = data.draw(st.sampled_from(self.all))
            self.registry.unsubscribe(client.connection, unwanted)
            client.held = {key: since for key, since in client.held.items() if key not in unwanted}
            client.pending = [each for each in client.pending if client.covers(each.topic)]

    @rule(topic=topics, to_user=users)
    def publish(self, topic: str, to_user: UserId | None) -> None:
        """A message goes to exactly those who may have it, once each."""
        self.offset += 1
        published = message(self.offset, topic, to_user=to_user)
        recipients = list(self.registry.recipients(published))
        expected = [client for client in self.here if client.may_have(published)]
        assert len(recipients) == len(expected)
        assert set(recipients) == {client.connection for client in expected}
        for client in expected:
            client.connection.delivery.offer(LiveBatch([published]))
            client.pending.append(published)

    @invariant()
    def knows_who_is_here(self) -> None:
        """Connections by id and by user, oldest first, within the limits."""
        connections = [client.connection for client in self.here]
        assert list(self.registry) == connections
        assert len(self.registry) == len(connections) <= self.limits.total
        assert self.registry.is_full is (len(connections) == self.limits.total)
        for id in "stuvwxyz":
            found = [each for each in connections if each.id == id]
            assert self.registry.get(id) is (found[0] if found else None)
        for user in (ANN, BOB):
            own = [client.connection for client in self.here if client.user == user]
            assert list(self.registry.of_user(user)) == own
            assert len(own) <= self.limits.per_user
        assert self.registry.users == len({client.user for client in self.here} - {None})

    @invariant()
    def knows_who_listens(self) -> None:
        """A topic has listeners exactly while somebody who is here covers it."""
        for topic in ("a", "b", "c.d", "nothing", USER_TOPIC):
            listens = any(client.covers(topic) for client in self.here)
            assert self.registry.has_listeners(topic) is listens

    @invariant()
    def keeps_subscriptions_and_what_is_pending(self) -> None:
        """Each connection, here or gone, has its own topics and messages."""
        for client in self.all:
            assert client.connection.subscriptions == client.held
            client.connection.delivery.flush()
            assert list(client.connection.delivery.buffer) == client.pending

    def teardown(self) -> None:
        """After everybody has left, nobody is found by any way."""
        for client in self.here:
            assert self.registry.remove(client.connection)
        assert len(self.registry) == self.registry.users == 0
        for topic in ("a", "b", "c.d", "c.e", "x", "x.y.z", USER_TOPIC):
            assert not self.registry.has_listeners(topic)


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(stateful_step_count=100)


def registered(
    id: str, registry: ConnectionRegistry, user: UserId | None, *held: str
) -> Connection:
    """A connection that is here."""
    newcomer = connection(id, Session(user, dict.fromkeys(held, Offset(0))))
    registry.add(newcomer)
    return newcomer


def test_late_end_of_an_old_connection_leaves_the_new_one() -> None:
    """Removal is by identity: who has the same id now, stays."""
    registry = ConnectionRegistry()
    old = registered("x", registry, ANN, "a")
    assert registry.remove(old)
    new = registered("x", registry, ANN, "a")
    assert not registry.remove(old)
    assert registry.get("x") is new
    assert list(registry.recipients(message(1))) == [new]


def test_user_with_too_many_connections_loses_the_oldest() -> None:
    """Ghosts of a lost network do not lock the user out."""
    registry = ConnectionRegistry(ConnectionLimits(per_user=2))
    first = registered("1", registry, ANN)
    registered("2", registry, ANN)
    registered("3", registry, BOB)
    newest = connection("4", Session(ANN))
    assert registry.add(newest) == [first]
    assert registry.get("1") is None


def test_anonymous_connections_have_no_limit_but_the_total() -> None:
    """Clients that nobody identified are not one user."""
    registry = ConnectionRegistry(ConnectionLimits(per_user=1, total=3))
    for id in "123":
        registered(id, registry, None)
    assert registry.is_full
    assert registry.users == 0


@pytest.mark.parametrize("user", [BOB, None])
def test_personal_message_is_for_its_user_alone(user: UserId | None) -> None:
    """Whoever else is subscribed to the topic, or to all of them, does not get it."""
    registry = ConnectionRegistry()
    mine = registered("1", registry, ANN, "a")
    registered("2", registry, user, "a", "**", USER_TOPIC)
    registered("3", registry, ANN, "b")
    assert list(registry.recipients(message(1, to_user=ANN))) == [mine]


def test_pattern_does_not_reach_personal_topics() -> None:
    """A subscription to everything is none to the library's own topics."""
    registry = ConnectionRegistry()
    registered("1", registry, ANN, "**")
    assert not registry.has_listeners(USER_TOPIC)
    assert list(registry.recipients(message(1, USER_TOPIC, to_user=ANN))) == []


def test_unsubscribing_drops_what_nothing_else_covers() -> None:
    """What is pending for a topic that was left goes, unless a pattern still covers it."""
    registry = ConnectionRegistry()
    here = registered("1", registry, ANN, "a.x", "b", "a.*")
    offered = [message(1, "a.x"), message(2, "b")]
    for each in offered:
        here.delivery.offer(LiveBatch([each]))
    registry.unsubscribe(here, ["a.x", "b", "never held"])
    assert list(here.delivery.buffer) == offered[:1]


def test_subscription_that_is_there_keeps_its_since() -> None:
    """Subscribing again hides nothing and discloses nothing."""
    registry = ConnectionRegistry()
    here = registered("1", registry, ANN, "a")
    registry.subscribe(here, ["a", "b"], Offset(7))
    assert here.subscriptions == {"a": 0, "b": 7}


def test_subscribing_a_gone_connection_reaches_nobody() -> None:
    """An answer that comes after the end of its connection puts nothing into the index."""
    registry = ConnectionRegistry()
    gone = registered("1", registry, ANN)
    registry.remove(gone)
    registry.subscribe(gone, ["a", "**"], Offset(0))
    assert not registry.has_listeners("a")


def test_connections_of_one_session_end_separately() -> None:
    """What the newer connection of a session unsubscribes leaves no trace of the older one."""
    registry, session = ConnectionRegistry(), Session(ANN, {"a": Offset(0)})
    older, newer = connection("1", session), connection("2", session)
    registry.add(older)
    registry.add(newer)
    registry.unsubscribe(newer, ["a"])
    registry.remove(older)
    assert not registry.has_listeners("a")
