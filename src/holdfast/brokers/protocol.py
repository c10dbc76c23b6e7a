"""Broker: the seam between one process and many.

A broker gives each message its position and makes it readable, in one step; it keeps the history
and the resume tokens. A node delivers only what it read from `follow`, in that order, its own
messages too. tests/contract/ holds every implementation to what is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..core.cursor import Cursor, Epoch
from ..core.log.pages import Page, PageRequest, ReplaySummary, Subscriptions
from ..core.message import Message, Offset, Priority, UserId
from ..core.presence import Member, NodeId, PresenceDelta
from ..core.tokens import ConnectionId, Redemption, Session, Token


@dataclass(slots=True, kw_only=True)
class Draft:
    """A message before it has a position; the fields are those of `Message`.

    `idempotency_key` makes a repeated publish return the position of the first.
    """

    topic: str
    priority: Priority
    body: bytes
    timestamp: float
    key: str | None = None
    expires_at: float | None = None
    to_user: UserId | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """A position in the log, and the epoch whose log it is.

    `forks` are earlier epochs, each with the offset up to which their log is this one: a server
    that took over for another may have lacked the end. A position in one of them up to there is
    the same position here.
    """

    epoch: Epoch
    offset: Offset
    forks: Mapping[Epoch, Offset] = field(default_factory=dict[Epoch, Offset], compare=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """What followed a position: `messages` in log order, complete up to `head`.

    `truncated`: some that followed it are no longer in the feed and have to be read from history;
    `messages` are then those at the end.
    """

    head: Head
    messages: tuple[Message, ...]
    truncated: bool = False


class TokenStore(Protocol):
    """Where the sessions of resume tokens are kept (see `TokenRegistry` for the rules)."""

    async def issue(self, session: Session, connection: ConnectionId | None) -> Token:
        """Keep a new session, attached to `connection` or to none; return its token."""
        ...

    async def redeem(self, token: str, user: UserId | None, connection: ConnectionId) -> Redemption:
        """Present a token for a new connection; atomic, also across nodes."""
        ...

    async def record(self, session: Session) -> None:
        """Keep what changed in a session (subscriptions, position) before it is answered."""
        ...

    async def detach(self, session: Session, connection: ConnectionId) -> None:
        """Note that a connection is gone; nothing happens if the session has another by now."""
        ...

    async def abandon(self, connection: ConnectionId) -> None:
        """Detach whatever `issue` or `redeem` gave this connection; their answer is not known.

        It comes after a call that was cancelled or failed, and undoes it if it has happened.
        """
        ...

    async def forget(self, user: UserId) -> int:
        """Drop the user's sessions that have no connection; how many those were."""
        ...


class PresenceStore(Protocol):
    """Where all nodes note who is there (see `core/presence.py`)."""

    async def update(
        self, node: NodeId, joined: Iterable[Member], left: Iterable[Member], lease: float
    ) -> PresenceDelta:
        """Note what changed on a node, and that it is alive for `lease` seconds more.

        Returns what that changed over all nodes, and who went with nodes that died.
        """
        ...

    async def remove(self, node: NodeId) -> PresenceDelta:
        """The node ends; who was nowhere else has gone."""
        ...

    async def users(self, topic: str) -> frozenset[UserId]:
        """Who is on a topic (or has subscribed to that very pattern), on any node."""
        ...


class Broker(Protocol):
    """A log of messages that every node reads in the same order.

    A cancelled call has either happened or not, except `publish`, which may have happened. Where
    the log lies beyond a network, each may raise `BrokerUnavailable` (nothing was done) or
    `OutcomeUnknown` (nobody knows), and `follow` waits until it can be reached again.
    """

    @property
    def tokens(self) -> TokenStore:
        """The place for tokens."""
        ...

    @property
    def presence(self) -> PresenceStore:
        """Where it is noted who is there."""
        ...

    @property
    def history_age(self) -> float | None:
        """Seconds that a message stays readable at most, `None` if only number and size bound."""
        ...

    @property
    def token_lifetime(self) -> float:
        """Seconds that the token of a connection that went stays valid."""
        ...

    async def start(self) -> None:
        """Make ready; the epoch exists from here on. Starting again is allowed."""
        ...

    def on_availability(self, told: Callable[[bool], None]) -> None:
        """Call `told` whenever the log cannot be reached any more, and when it can again."""
        ...

    async def close(self) -> None:
        """Give everything back; who waits in `follow` is woken and gets `NotRunning`."""
        ...

    async def publish(self, draft: Draft) -> Head:
        """Append; on return the message is readable, and the result is its position."""
        ...

    async def head(self) -> Head:
        """The end of the log."""
        ...

    async def follow(self, after: Head) -> Batch:
        """Wait until there is something after `after`, and return all of it.

        A batch of another epoch than `after` means that the log of `after` is gone.
        Cancellation loses nothing: the position is the caller's.
        """
        ...

    async def read(
        self, epoch: Epoch, request: PageRequest, subscriptions: Subscriptions, user: UserId | None
    ) -> Page | None:
        """One page of one lane (see `History.page`); `None` if the log is another one by now."""
        ...

    async def summarize(
        self, epoch: Epoch, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None
    ) -> ReplaySummary | None:
        """Count what lies between `cursor` and the head (`History.summarize`); `None` as in `read`."""
        ...

    async def sweep(self) -> None:
        """Drop what is past its age; called every `cleanup_interval` seconds."""
        ...
