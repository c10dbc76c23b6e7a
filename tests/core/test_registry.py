"""ConnectionRegistry beside plain sets: the connections, and the recipients of a message."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.core.message import Message, Offset, UserId
from holdfast.core.registry import ConnectionLimits, ConnectionRegistry, Registrable
from holdfast.core.topics import USER_TOPIC, matches
from tests.core.builders import Subscriber, message

ANN, BOB = UserId("ann"), UserId("bob")

users = st.sampled_from([ANN, BOB, None])
topics = st.sampled_from(["a", "b", "c.d", "c.e", USER_TOPIC])
expressions = st.sets(st.sampled_from(["a", "b", "c.d", "c.e", "*", "c.*", "**", USER_TOPIC]))


@dataclass(eq=False)
class Client:
    """A connection of the model, with its subscriptions and its pending messages."""

    connection: Registrable
    user: UserId | None
    held: dict[str, int]
    pending: list[Message] = field(default_factory=list)

    def covers(self, topic: str) -> bool:
        return any(matches(expression, topic) for expression in self.held)

    def may_have(self, published: Message) -> bool:
        return self.covers(published.topic) and published.to_user in (None, self.user)


class RegistryMachine(RuleBasedStateMachine):
    """Connections are added, subscribe and are removed. Later connections use their ids again.

    tests/runtime/test_connection_state.py runs the same rules with the connections of the runtime.
    """

    def connection(self, id: str, user: UserId | None, held: dict[str, Offset]) -> Registrable:
        """Return a connection that is not registered yet."""
        return Subscriber(id, user, held)

    def offer(self, connection: Registrable, published: Message) -> None:
        """Offer a message to one of its recipients."""

    @initialize(total=st.integers(1, 6), per_user=st.integers(1, 3))
    def begin(self, total: int, per_user: int) -> None:
        self.limits = ConnectionLimits(total=total, per_user=per_user)
        self.registry = ConnectionRegistry[Registrable](self.limits)
        self.registered: list[Client] = []
        self.all: list[Client] = []
        self.offset = 0

    @rule(id=st.sampled_from("stuvwxyz"), user=users, topics=expressions)
    def add(self, id: str, user: UserId | None, topics: set[str]) -> None:
        """A connection is added if there is room, unless its id is in use."""
        if self.registry.is_full:
            return
        connection = self.connection(id, user, dict.fromkeys(topics, Offset(0)))
        added = Client(connection, user, dict.fromkeys(topics, 0))
        if any(client.connection.id == id for client in self.registered):
            with pytest.raises(ValueError, match="once"):
                self.registry.add(connection)
            return
        of_user = [client for client in self.registered if client.user == user and user is not None]
        replaced = of_user[: max(0, len(of_user) + 1 - self.limits.per_user)]
        assert self.registry.add(connection) == [each.connection for each in replaced]
        self.registered = [client for client in self.registered if client not in replaced] + [added]
        self.all.append(added)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """A connection is removed, perhaps after another connection got its id."""
        if self.all:
            client = data.draw(st.sampled_from(self.all))
            assert self.registry.remove(client.connection) is (client in self.registered)
            self.registered = [each for each in self.registered if each is not client]

    @rule(data=st.data(), topics=expressions)
    def subscribe(self, data: st.DataObject, topics: set[str]) -> None:
        """A connection, registered or removed, adds topics; a held topic keeps its since."""
        if self.all:
            client = data.draw(st.sampled_from(self.all))
            self.registry.subscribe(client.connection, topics, Offset(self.offset))
            client.held = dict.fromkeys(topics, self.offset) | client.held

    @rule(data=st.data(), unwanted=expressions)
    def unsubscribe(self, data: st.DataObject, unwanted: set[str]) -> None:
        """A connection removes topics, and loses their pending messages."""
        if self.all:
            client = data.draw(st.sampled_from(self.all))
            removed = self.registry.unsubscribe(client.connection, unwanted)
            assert sorted(removed) == sorted(unwanted & client.held.keys())
            client.held = {key: since for key, since in client.held.items() if key not in unwanted}
            client.pending = [each for each in client.pending if client.covers(each.topic)]

    @rule(topic=topics, to_user=users)
    def publish(self, topic: str, to_user: UserId | None) -> None:
        """A message is offered once to exactly the connections that cover its topic."""
        self.offset += 1
        published = message(self.offset, topic, to_user=to_user)
        recipients = list(self.registry.recipients(published))
        expected = [client for client in self.registered if client.may_have(published)]
        assert len(recipients) == len(expected)
        assert set(recipients) == {client.connection for client in expected}
        for client in expected:
            self.offer(client.connection, published)
            client.pending.append(published)

    @invariant()
    def finds_connections(self) -> None:
        """The registry finds connections by id and by user, oldest first, within the limits."""
        connections = [client.connection for client in self.registered]
        assert list(self.registry) == connections
        assert len(self.registry) == len(connections) <= self.limits.total
        assert self.registry.is_full is (len(connections) == self.limits.total)
        for id in "stuvwxyz":
            found = [each for each in connections if each.id == id]
            assert len(found) <= 1
            assert self.registry.get(id) is (found[0] if found else None)
        for client in self.all:
            assert (client.connection in self.registry) is (client in self.registered)
        for user in (ANN, BOB):
            of_user = [client.connection for client in self.registered if client.user == user]
            assert list(self.registry.of_user(user)) == of_user
            assert len(of_user) <= self.limits.per_user
        assert self.registry.users == len({client.user for client in self.registered} - {None})

    @invariant()
    def finds_listeners(self) -> None:
        """A topic has listeners exactly while a registered connection covers it."""
        for topic in ("a", "b", "c.d", "nothing", USER_TOPIC):
            has_listener = any(client.covers(topic) for client in self.registered)
            assert self.registry.has_listeners(topic) is has_listener

    @invariant()
    def keeps_subscriptions(self) -> None:
        """Each connection, registered or removed, has its own subscriptions."""
        for client in self.all:
            assert client.connection.subscriptions == client.held

    def teardown(self) -> None:
        """After all connections were removed, the registry finds none."""
        for client in self.registered:
            assert self.registry.remove(client.connection)
        assert len(self.registry) == self.registry.users == 0
        for topic in ("a", "b", "c.d", "c.e", "x", "x.y.z", USER_TOPIC):
            assert not self.registry.has_listeners(topic)


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(stateful_step_count=100)


def registered(
    id: str, registry: ConnectionRegistry[Subscriber], user: UserId | None, *held: str
) -> Subscriber:
    """Return a connection that was added to `registry`."""
    added = Subscriber(id, user, dict.fromkeys(held, Offset(0)))
    registry.add(added)
    return added


def test_late_end_of_an_old_connection_leaves_the_new_one() -> None:
    """Removal is by identity, so a newer connection with the same id stays."""
    registry = ConnectionRegistry[Subscriber]()
    removed = registered("x", registry, ANN, "a")
    assert registry.remove(removed)
    new = registered("x", registry, ANN, "a")
    assert not registry.remove(removed)
    assert registry.get("x") is new
    assert list(registry.recipients(message(1))) == [new]


def test_user_with_too_many_connections_loses_the_oldest() -> None:
    """A connection over the limit of a user replaces the oldest, which may be a lost one."""
    registry = ConnectionRegistry[Subscriber](ConnectionLimits(per_user=2))
    first = registered("1", registry, ANN)
    registered("2", registry, ANN)
    registered("3", registry, BOB)
    newest = Subscriber("4", ANN, {})
    assert registry.add(newest) == [first]
    assert registry.get("1") is None


def test_unidentified_connections_have_only_the_total_limit() -> None:
    """Unidentified clients are not one user."""
    registry = ConnectionRegistry[Subscriber](ConnectionLimits(per_user=1, total=3))
    for id in "123":
        registered(id, registry, None)
    assert registry.is_full
    assert registry.users == 0


@pytest.mark.parametrize("user", [BOB, None])
def test_personal_message_reaches_its_user_only(user: UserId | None) -> None:
    """A subscription of another user to all topics does not cover it."""
    registry = ConnectionRegistry[Subscriber]()
    recipient = registered("1", registry, ANN, "a")
    registered("2", registry, user, "a", "**", USER_TOPIC)
    registered("3", registry, ANN, "b")
    assert list(registry.recipients(message(1, to_user=ANN))) == [recipient]


def test_pattern_does_not_reach_personal_topics() -> None:
    """A subscription to all topics does not cover the topics of the library."""
    registry = ConnectionRegistry[Subscriber]()
    registered("1", registry, ANN, "**")
    assert not registry.has_listeners(USER_TOPIC)
    assert list(registry.recipients(message(1, USER_TOPIC, to_user=ANN))) == []


def test_unsubscribe_returns_the_held_expressions() -> None:
    """`unsubscribe` returns the held expressions, each once, in the given order."""
    registry = ConnectionRegistry[Subscriber]()
    connected = registered("1", registry, ANN, "a.x", "b", "a.*")
    assert registry.unsubscribe(connected, ["b", "a.x", "b", "not held"]) == ["b", "a.x"]
    assert connected.subscriptions == {"a.*": 0}


def test_repeated_subscription_keeps_its_since() -> None:
    """A topic that is subscribed again keeps its since."""
    registry = ConnectionRegistry[Subscriber]()
    connected = registered("1", registry, ANN, "a")
    registry.subscribe(connected, ["a", "b"], Offset(7))
    assert connected.subscriptions == {"a": 0, "b": 7}


def test_removed_connection_is_not_in_the_index() -> None:
    """A subscription after the end of its connection is not in the index."""
    registry = ConnectionRegistry[Subscriber]()
    removed = registered("1", registry, ANN)
    registry.remove(removed)
    registry.subscribe(removed, ["a", "**"], Offset(0))
    assert not registry.has_listeners("a")


def test_connections_with_equal_subscriptions_end_separately() -> None:
    """A connection that unsubscribes changes no other that began with the same record."""
    registry, held = ConnectionRegistry[Subscriber](), {"a": Offset(0)}
    older, newer = Subscriber("1", ANN, held), Subscriber("2", ANN, held)
    registry.add(older)
    registry.add(newer)
    registry.unsubscribe(newer, ["a"])
    assert list(registry.recipients(message(1))) == [older]
    assert older.subscriptions == held == {"a": 0}
    registry.remove(older)
    assert not registry.has_listeners("a")
