"""ConnectionRegistry: connections by id, by user and by topic, within limits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from .connection import Connection
from .message import Message, Offset, UserId
from .presence import LocalPresence
from .tokens import ConnectionId
from .topics import TopicIndex, covering


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections in all and per identified user, and topics per connection."""

    total: int = 20_000
    per_user: int = 20
    topics: int = 200


class ConnectionRegistry:
    """Who is connected, and who may have a message.

    Invariants (the machine of tests/core/test_registry.py, beside plain sets): a connection is in
    the index under exactly its topics while it is registered, and nowhere after;
    removal is by identity, so the late end of an old connection never removes a new one; no user
    has more than `per_user`. Whether there is room for one more at all says `is_full`.
    """

    def __init__(self, limits: ConnectionLimits | None = None) -> None:
        self.limits = limits or ConnectionLimits()
        self.attendance: LocalPresence | None = None
        """Who is on which topic; `None` while nobody wants to know."""
        self._connections: dict[ConnectionId, Connection] = {}
        self._of_user: dict[UserId, dict[Connection, None]] = {}
        self._topics: TopicIndex[Connection] = TopicIndex()

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._connections.values())

    def get(self, id: str) -> Connection | None:
        """The connection of that id, if it is here."""
        return self._connections.get(ConnectionId(id))

    def of_user(self, user: UserId) -> Collection[Connection]:
        """The user's connections, oldest first."""
        return self._of_user.get(user, {})

    @property
    def users(self) -> int:
        """How many identified users are connected."""
        return len(self._of_user)

    @property
    def is_full(self) -> bool:
        """Whether `total` is reached."""
        return len(self._connections) >= self.limits.total

    def add(self, connection: Connection) -> list[Connection]:
        """Register; return the user's oldest ones that it replaces, which the caller closes.

        Ghosts of a lost network would otherwise lock the user out.
        """
        if connection.id in self._connections:
            raise ValueError("a connection is registered once")
        replaced: list[Connection] = []
        if connection.user is not None:
            own = self._of_user.setdefault(connection.user, {})
            excess = len(own) + 1 - self.limits.per_user
            replaced = list(own)[: max(excess, 0)]
            for old in replaced:
                self.remove(old)
            self._of_user.setdefault(connection.user, own)[connection] = None
        self._connections[connection.id] = connection
        self._enter(connection, connection.subscriptions)
        return replaced

    def remove(self, connection: Connection) -> bool:
        """Take exactly this connection out; `False` if it is not, or no longer, here."""
        if self._connections.get(connection.id) is not connection:
            return False
        del self._connections[connection.id]
        if connection.user is not None:
            own = self._of_user[connection.user]
            del own[connection]
            if not own:
                del self._of_user[connection.user]
        self._leave(connection, connection.subscriptions)
        return True

    def subscribe(self, connection: Connection, expressions: Iterable[str], since: Offset) -> None:
        """Add those that are new, each from `since`; a subscription that is there keeps its own."""
        held = connection.subscriptions
        added = {expression: since for expression in expressions if expression not in held}
        connection.subscriptions = {**held, **added}
        if self.get(connection.id) is connection:
            self._enter(connection, added)

    def unsubscribe(self, connection: Connection, expressions: Iterable[str]) -> None:
        """Remove them, and drop what is pending for topics that nothing else covers."""
        before = connection.subscriptions
        removed = before.keys() & set(expressions)
        held = {name: since for name, since in before.items() if name not in removed}
        connection.subscriptions = held
        if self.get(connection.id) is connection:
            self._leave(connection, removed)

        def unwanted(topic: str) -> bool:
            return any(covering(removed, topic)) and not any(covering(held, topic))

        if removed:
            connection.delivery.discard(unwanted)

    def recipients(self, message: Message) -> Collection[Connection]:
        """Who may have `message`: each once; a view, good until the registry changes."""
        if message.to_user is None:
            return self._topics.match(message.topic)
        return [
            connection
            for connection in self.of_user(message.to_user)
            if any(covering(connection.subscriptions, message.topic))
        ]

    def has_listeners(self, topic: str) -> bool:
        """Whether anybody is subscribed to `topic`, directly or by a pattern."""
        return bool(self._topics.match(topic))

    def _enter(self, connection: Connection, expressions: Iterable[str]) -> None:
        for expression in expressions:
            self._topics.add(expression, connection)
            if self.attendance is not None and connection.user is not None:
                self.attendance.enter((expression, connection.user))

    def _leave(self, connection: Connection, expressions: Iterable[str]) -> None:
        for expression in expressions:
            self._topics.remove(expression, connection)
            if self.attendance is not None and connection.user is not None:
                self.attendance.leave((expression, connection.user))
