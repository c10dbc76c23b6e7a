"""Broker: the interface between a node and the log.

A broker gives each message its offset and makes it readable, in one step. The same broker keeps the
history, the sessions and the presence. A node delivers only messages that it read from `follow`, in
that order, including those that it published. tests/contract/ checks every implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from ..core.cursor import Cursor, Epoch, Head
from ..core.log.pages import Page, PageRequest, ReplaySummary, Subscriptions
from ..core.message import Draft, Message, UserId
from ..core.presence import Member, NodeId, PresenceDelta
from ..core.tokens import ConnectionId, Redemption, Session, Token


@dataclass(frozen=True, slots=True)
class Batch:
    """The messages that `Broker.follow` returns.

    Attributes:
        head: The end of the batch.
        messages: The messages between the position of the caller and `head`, in log order.
        truncated: True if the oldest of these messages are missing, because they are not in the
            live feed any more. They can be read from the history.
    """

    head: Head
    messages: tuple[Message, ...]
    truncated: bool = False


class TokenStore(Protocol):
    """The sessions and their reconnect tokens. `core.tokens` has the rules.

    A session is a frozen value. The store has the current one of each connection, and replaces it
    when the connection saves another.
    """

    async def issue(self, session: Session, connection: ConnectionId | None) -> Token:
        """Store a new session, and return its token.

        Args:
            session: The session.
            connection: The connection that has the session; `None` stores it detached.

        Cancellation:
            The session may have been stored. `detach(connection, None)` detaches it.
        """
        ...

    async def redeem(self, token: str, user: UserId | None, connection: ConnectionId) -> Redemption:
        """Attach the session of `token` to a new connection, in one atomic step over all nodes.

        Args:
            token: The reconnect token that the client presents; any text.
            user: The user that the client has authenticated as.
            connection: The new connection.

        Returns:
            The session and its next token. A session that is taken over has no position, because
            its connection has moved on from the stored one.

        Cancellation:
            The session may have been attached. `detach(connection, None)` undoes it.
        """
        ...

    async def save(self, connection: ConnectionId, session: Session) -> bool:
        """Replace the session of a connection, and return False if it does not have one any more.

        Args:
            connection: The connection.
            session: The new session.

        Cancellation:
            The session may have been replaced.
        """
        ...

    async def detach(self, connection: ConnectionId, session: Session | None) -> None:
        """Detach the session of a connection that has ended, and keep it for a resume.

        The call has no effect if another connection has taken over the session, or if the
        connection has none. A node also calls it after an `issue` or `redeem` with an unknown
        outcome.

        Args:
            connection: The connection.
            session: The session to keep; `None` keeps the saved one.

        Cancellation:
            The session may have been detached. The call can be repeated.
        """
        ...

    async def drop_user(self, user: UserId) -> int:
        """Drop the detached sessions of a user, and return their number.

        Cancellation:
            The sessions may have been dropped. The call can be repeated.
        """
        ...


class PresenceStore(Protocol):
    """The users on each topic, over all nodes. `core.presence` has the rules."""

    async def update(
        self, node: NodeId, joined: Iterable[Member], left: Iterable[Member], lease: float
    ) -> PresenceDelta:
        """Record the changes on a node, and extend the lease of the node.

        Args:
            node: The node.
            joined: Members that are new on the node.
            left: Members that are not on the node any more.
            lease: Seconds without an update after which the node counts as dead.

        Returns:
            The changes over all nodes, including those of nodes whose lease has ended.

        Cancellation:
            The changes may have been recorded. The caller reports all members again.
        """
        ...

    async def remove(self, node: NodeId) -> PresenceDelta:
        """Remove a node, and return the members that were on no other node.

        Cancellation:
            The node may have been removed.
        """
        ...

    async def users(self, topic: str) -> frozenset[UserId]:
        """Return the users with a subscription to exactly this topic or pattern, on all nodes.

        Cancellation:
            A cancelled call has no effect on the presence.
        """
        ...


class Broker(Protocol):
    """A log of messages that every node reads in the same order.

    Every method of a broker on a network may raise `BrokerUnavailable` (nothing was done) or
    `OutcomeUnknown` (the work may have been done), except `follow`, which waits until the log can
    be reached again.
    """

    @property
    def tokens(self) -> TokenStore:
        """The sessions and their reconnect tokens."""
        ...

    @property
    def presence(self) -> PresenceStore:
        """The users on each topic."""
        ...

    @property
    def history_age(self) -> float | None:
        """Seconds that a message stays readable; `None` for no limit by age."""
        ...

    @property
    def token_lifetime(self) -> float:
        """Seconds that a reconnect token is valid after the end of its connection."""
        ...

    async def start(self) -> None:
        """Make the log ready. `close` takes effect after as many calls as `start` had.

        Cancellation:
            The broker is not started.
        """
        ...

    def on_availability(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback(False)` when the log becomes unreachable, and `callback(True)` after that.

        Args:
            callback: A plain function, called in the event loop.

        Returns:
            A function that removes the callback.
        """
        ...

    async def close(self) -> None:
        """Release all resources. `follow` raises `NotRunning` in tasks that wait in it.

        Cancellation:
            Some resources may be left. A repeated call releases them.
        """
        ...

    async def publish(self, draft: Draft) -> Head:
        """Append a message to the log, and return its epoch and offset.

        Args:
            draft: The message.

        Cancellation:
            The message may have been published.
        """
        ...

    async def head(self) -> Head:
        """Return the end of the log.

        Cancellation:
            A cancelled call has no effect on the log.
        """
        ...

    async def follow(self, after: Head) -> Batch:
        """Wait until there are messages after `after`, and return all of them.

        Args:
            after: The head of the previous batch.

        Returns:
            The messages. A batch of another epoch means that the log was replaced.

        Raises:
            NotRunning: The broker was closed.

        Cancellation:
            No message is lost, because the next call repeats `after`.
        """
        ...

    async def read(
        self, epoch: Epoch, request: PageRequest, subscriptions: Subscriptions, user: UserId | None
    ) -> Page | None:
        """Read one page of one lane (see `History.page`).

        Args:
            epoch: The epoch that the offsets of the request are from.
            request: The lane, the range and the bounds of the page.
            subscriptions: The subscriptions of the reader, each with its since.
            user: The user of the reader; `None` for an unidentified client.

        Returns:
            The page; `None` if the log has another epoch.

        Cancellation:
            A cancelled call has no effect on the log.
        """
        ...

    async def summarize(
        self, epoch: Epoch, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None
    ) -> ReplaySummary | None:
        """Count the messages and the losses after `cursor` (see `History.summarize`).

        Args:
            epoch: The epoch of the cursor.
            cursor: The cursor of the reader.
            subscriptions: The subscriptions of the reader, each with its since.
            user: The user of the reader; `None` for an unidentified client.

        Returns:
            The counts; `None` if the log has another epoch.

        Cancellation:
            A cancelled call has no effect on the log.
        """
        ...

    async def sweep(self) -> None:
        """Drop expired messages and sessions; nodes call this every `cleanup_interval` seconds.

        Cancellation:
            Some of them may be left for the next call.
        """
        ...
