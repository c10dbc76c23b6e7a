"""Broker: the interface between a node and the log.

A broker gives each message its offset and makes it readable, in one step. It keeps the history,
the reconnect tokens and the presence of users. A node delivers only messages that it read from
`follow`, in that order, including its own. tests/contract/ holds every implementation to this page.
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
    """The messages after a position, in log order and complete up to `head`.

    If `truncated`, some messages after the position are no longer in the feed and must be read
    from the history; `messages` has the newest ones.
    """

    head: Head
    messages: tuple[Message, ...]
    truncated: bool = False


class TokenStore(Protocol):
    """The sessions of reconnect tokens. `core.tokens.TokenRegistry` has the rules.

    A session is a frozen value. The store holds the current one under its connection, and
    replaces it when that connection saves another.
    """

    async def issue(self, session: Session, connection: ConnectionId | None) -> Token:
        """Keep a new session, attached to `connection` or detached, and return its token."""
        ...

    async def redeem(self, token: str, user: UserId | None, connection: ConnectionId) -> Redemption:
        """Attach the session of `token` to a new connection. Atomic, also across nodes.

        The session of a connection that is taken over comes without a position, because that
        connection has moved on from the stored one.
        """
        ...

    async def save(self, connection: ConnectionId, session: Session) -> bool:
        """Replace the session of `connection`; return False if it no longer has one."""
        ...

    async def detach(self, connection: ConnectionId, session: Session | None) -> None:
        """Detach the session of a connection that has gone, and keep `session` in its place.

        `None` keeps the session as it was saved. This also undoes an `issue` or a `redeem` that
        was cancelled or failed, whether or not it happened. A connection whose session another
        connection has taken over changes nothing.
        """
        ...

    async def drop_user(self, user: UserId) -> int:
        """Drop the user's detached sessions, and return how many there were."""
        ...


class PresenceStore(Protocol):
    """The users that are present on each node (see `core/presence.py`)."""

    async def update(
        self, node: NodeId, joined: Iterable[Member], left: Iterable[Member], lease: float
    ) -> PresenceDelta:
        """Record changes on a node, and that the node is alive for `lease` more seconds.

        Returns the changes over all nodes, including the members of nodes whose lease ended.
        """
        ...

    async def remove(self, node: NodeId) -> PresenceDelta:
        """Remove a node, and return the members that were on no other node."""
        ...

    async def users(self, topic: str) -> frozenset[UserId]:
        """Return the users on a topic (or subscribed to that very pattern), on any node."""
        ...


class Broker(Protocol):
    """A log of messages that every node reads in the same order.

    Cancellation: a cancelled call has either happened or not, except `publish`, which may have
    happened.

    Errors: a broker whose log lies beyond a network may raise `BrokerUnavailable` (nothing was
    done) or `OutcomeUnknown` (it may have been done) from each method. `follow` waits instead,
    until the log can be reached again.
    """

    @property
    def tokens(self) -> TokenStore:
        """The sessions of reconnect tokens."""
        ...

    @property
    def presence(self) -> PresenceStore:
        """The users that are present on each node."""
        ...

    @property
    def history_age(self) -> float | None:
        """Seconds that a message stays readable; `None` if only number and size bound it."""
        ...

    @property
    def token_lifetime(self) -> float:
        """Seconds that a token is valid after its connection has gone."""
        ...

    async def start(self) -> None:
        """Make the log ready; its epoch exists from here on. Nested starts are counted."""
        ...

    def on_availability(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback(False)` when the log becomes unreachable, `callback(True)` after that.

        Returns a function that removes the callback.
        """
        ...

    async def close(self) -> None:
        """Release everything. Tasks that wait in `follow` get `NotRunning`."""
        ...

    async def publish(self, draft: Draft) -> Head:
        """Append a message. On return it is readable, and the result is its position."""
        ...

    async def head(self) -> Head:
        """Return the end of the log."""
        ...

    async def follow(self, after: Head) -> Batch:
        """Wait until there are messages after `after`, and return all of them.

        A batch of another epoch than `after` means that the log of `after` is gone. Cancellation
        loses nothing, because the position belongs to the caller.
        """
        ...

    async def read(
        self, epoch: Epoch, request: PageRequest, subscriptions: Subscriptions, user: UserId | None
    ) -> Page | None:
        """Read one page of one lane (`History.page`); return `None` if the epoch has ended."""
        ...

    async def summarize(
        self, epoch: Epoch, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None
    ) -> ReplaySummary | None:
        """Summarize the log after `cursor` (`History.summarize`); `None` if the epoch has ended."""
        ...

    async def sweep(self) -> None:
        """Drop everything past its age. The node calls this every `cleanup_interval` seconds."""
        ...
