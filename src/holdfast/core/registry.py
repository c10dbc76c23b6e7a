"""ConnectionRegistry: connections by id, by user and by topic, within limits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .log.pages import Subscriptions
from .message import Message, Offset, UserId
from .presence import LocalPresence
from .tokens import ConnectionId
from .topics import TopicIndex, covering


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The limits of a `ConnectionRegistry`.

    Args:
        total: Connections, at most.
        per_user: Connections of one identified user, at most.
        topics: Topics of one connection, at most.
    """

    total: int = 20_000
    per_user: int = 20
    topics: int = 200


class Registrable(Protocol):
    """The part of a connection that the registry uses."""

    @property
    def id(self) -> ConnectionId:
        """The id, unique over all nodes."""
        ...

    @property
    def user(self) -> UserId | None:
        """The identified user, `None` for an unidentified client."""
        ...

    @property
    def subscriptions(self) -> Subscriptions:
        """Topic or pattern → `since`."""
        ...

    def replace_subscriptions(self, subscriptions: Subscriptions) -> None:
        """Replace the subscriptions. Only the registry calls this."""
        ...


C = TypeVar("C", bound=Registrable)


class ConnectionRegistry(Generic[C]):
    """The connections of one process, by id, by user and by topic.

    The caller checks `is_full` before it adds a connection.

    Invariants (the state machine in tests/core/test_registry.py, which compares with plain sets):
    the index has a registered connection under exactly its subscriptions, and no other connection;
    removal is by identity, so the late end of an old connection never removes a new one with the
    same id; no user has more than `per_user` connections.

    Args:
        limits: The limits of connections and topics.
        presence: Receives the users of each topic; `None` if presence is disabled.
    """

    def __init__(
        self, limits: ConnectionLimits | None = None, *, presence: LocalPresence | None = None
    ) -> None:
        self.limits = limits or ConnectionLimits()
        self._presence = presence
        self._connections: dict[ConnectionId, C] = {}
        self._by_user: dict[UserId, dict[C, None]] = {}
        self._topics: TopicIndex[C] = TopicIndex()

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[C]:
        return iter(self._connections.values())

    def __repr__(self) -> str:
        return f"<ConnectionRegistry {len(self)} of {self.limits.total} connections>"

    def get(self, id: str) -> C | None:
        """Return the connection with that id; `None` if it is not registered."""
        return self._connections.get(ConnectionId(id))

    def __contains__(self, connection: object) -> bool:
        """Return True if exactly this connection is registered."""
        id = getattr(connection, "id", None)
        return id is not None and self._connections.get(id) is connection

    def of_user(self, user: UserId) -> Collection[C]:
        """Return the user's connections, oldest first."""
        return self._by_user.get(user, {})

    @property
    def users(self) -> int:
        """The number of identified users that are connected."""
        return len(self._by_user)

    @property
    def is_full(self) -> bool:
        """True if the registry has `limits.total` connections."""
        return len(self._connections) >= self.limits.total

    def add(self, connection: C) -> list[C]:
        """Register a connection, and remove the oldest ones of its user beyond `per_user`.

        The new connection is not refused instead, because connections whose network was lost would
        lock the user out.

        Args:
            connection: A connection that is not registered.

        Returns:
            The removed connections, for the caller to close.

        Raises:
            ValueError: A connection with that id is registered.
        """
        if connection.id in self._connections:
            raise ValueError("a connection is registered once")
        replaced: list[C] = []
        user = connection.user
        if user is not None:
            own = self._by_user.setdefault(user, {})
            excess = len(own) + 1 - self.limits.per_user
            replaced = list(own)[: max(excess, 0)]
            for old in replaced:
                self.remove(old)
            self._by_user.setdefault(user, own)[connection] = None
        self._connections[connection.id] = connection
        self._index(connection, connection.subscriptions)
        return replaced

    def remove(self, connection: C) -> bool:
        """Remove exactly this connection; return False if it is not registered."""
        if self._connections.get(connection.id) is not connection:
            return False
        del self._connections[connection.id]
        user = connection.user
        if user is not None:
            own = self._by_user[user]
            del own[connection]
            if not own:
                del self._by_user[user]
        self._unindex(connection, connection.subscriptions)
        return True

    def subscribe(self, connection: C, expressions: Iterable[str], since: Offset) -> None:
        """Add subscriptions to a connection.

        Args:
            connection: The connection, registered or not.
            expressions: Topics and patterns. One that the connection has already keeps its since.
            since: The since of the new subscriptions.
        """
        held = connection.subscriptions
        added = {expression: since for expression in expressions if expression not in held}
        connection.replace_subscriptions({**held, **added})
        if connection in self:
            self._index(connection, added)

    def unsubscribe(self, connection: C, expressions: Iterable[str]) -> list[str]:
        """Remove subscriptions from a connection, and return the topics that it had."""
        held = dict(connection.subscriptions)
        removed = [name for name in dict.fromkeys(expressions) if held.pop(name, None) is not None]
        if removed:
            connection.replace_subscriptions(held)
            if connection in self:
                self._unindex(connection, removed)
        return removed

    def recipients(self, message: Message) -> Collection[C]:
        """Return the connections that may have `message`, each once.

        The result is a view, valid until the registry changes.
        """
        if message.to_user is None:
            return self._topics.match(message.topic)
        return [
            connection
            for connection in self.of_user(message.to_user)
            if any(covering(connection.subscriptions, message.topic))
        ]

    def has_listeners(self, topic: str) -> bool:
        """Return True if a connection has `topic`, by name or by a pattern."""
        return bool(self._topics.match(topic))

    def _index(self, connection: C, expressions: Iterable[str]) -> None:
        user = connection.user
        for expression in expressions:
            self._topics.add(expression, connection)
            if self._presence is not None and user is not None:
                self._presence.enter((expression, user))

    def _unindex(self, connection: C, expressions: Iterable[str]) -> None:
        user = connection.user
        for expression in expressions:
            self._topics.remove(expression, connection)
            if self._presence is not None and user is not None:
                self._presence.leave((expression, user))
