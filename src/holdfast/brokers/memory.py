"""MemoryBroker: the default broker, for one process. It needs nothing and keeps nothing on disk."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from ..core.cursor import Cursor, Epoch
from ..core.log.history import History
from ..core.log.pages import Page, PageRequest, ReplaySummary, Subscriptions
from ..core.log.retention import Retention
from ..core.message import Message, Offset, UserId
from ..core.presence import Member, NodeId, PresenceDelta, PresenceTable
from ..core.tokens import (
    ConnectionId,
    Redemption,
    Session,
    Token,
    TokenLimits,
    TokenRegistry,
    base64url,
)
from .feed import Feed
from .protocol import Batch, Draft, Head

YIELD_EVERY = 64
"""After so many messages that nobody has read yet, `publish` lets the event loop turn."""

IDEMPOTENCY_KEYS = 10_000


class MemoryTokens:
    """A `TokenStore` in this process: the registry, with a clock and real randomness."""

    def __init__(self, limits: TokenLimits | None, clock: Callable[[], float]) -> None:
        self.registry = TokenRegistry(limits)
        self._clock = clock

    async def issue(self, session: Session, connection: ConnectionId | None) -> Token:
        """See `TokenStore.issue`."""
        token = Token(base64url(os.urandom(16)))
        self.registry.issue(token, session, self._clock(), connection)
        return token

    async def redeem(self, token: str, user: UserId | None, connection: ConnectionId) -> Redemption:
        """See `TokenStore.redeem`."""
        nonce = secrets.token_bytes(16)
        return self.registry.redeem(token, user, connection, nonce, self._clock())

    async def record(self, session: Session) -> None:
        """Nothing to do: the session that the caller changed is the one that is kept."""

    async def detach(self, session: Session, connection: ConnectionId) -> None:
        """See `TokenStore.detach`."""
        self.registry.detach(session, connection, self._clock())

    async def abandon(self, connection: ConnectionId) -> None:
        """See `TokenStore.abandon`."""
        self.registry.abandon(connection, self._clock())

    async def forget(self, user: UserId) -> int:
        """See `TokenStore.forget`."""
        return self.registry.forget(user)


class MemoryPresence:
    """A `PresenceStore` in this process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._roster = PresenceTable()
        self._clock = clock

    async def update(
        self, node: NodeId, joined: Iterable[Member], left: Iterable[Member], lease: float
    ) -> PresenceDelta:
        """See `PresenceStore.update`."""
        now = self._clock()
        return self._roster.update(node, joined, left, now=now, until=now + lease)

    async def remove(self, node: NodeId) -> PresenceDelta:
        """See `PresenceStore.remove`."""
        return PresenceDelta(is_known=True, left=tuple(self._roster.remove(node)))

    async def users(self, topic: str) -> frozenset[UserId]:
        """See `PresenceStore.users`."""
        return frozenset(self._roster.users(topic))


class MemoryBroker:
    """A log in memory. Several Broadcasters of one event loop may share one.

    `clock` returns seconds since the Unix epoch.
    """

    def __init__(
        self,
        *,
        retention: Retention | None = None,
        tokens: TokenLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._history = History(retention)
        self.tokens = MemoryTokens(tokens, clock)
        """The place for tokens."""
        self.history_age = self._history.retention.age
        """See `Broker.history_age`."""
        self.token_lifetime = self.tokens.registry.limits.lifetime
        """See `Broker.token_lifetime`."""
        self._presence = MemoryPresence(clock)
        self._epoch: Epoch | None = None
        self._feed = Feed()
        self._published: OrderedDict[str, Offset] = OrderedDict()
        self._users = 0

    @property
    def presence(self) -> MemoryPresence:
        """Where it is noted who is there."""
        return self._presence

    @property
    def history(self) -> History:
        """The log itself, to look at."""
        return self._history

    async def start(self) -> None:
        """Name the epoch. It is made here, in the running loop, so that no fork inherits it."""
        self._users += 1
        if self._epoch is None:
            self._epoch = Epoch(secrets.token_urlsafe(9))
        if self._feed.head is None:
            self._feed.begin(Head(self._epoch, self._history.head))

    def on_availability(self, told: Callable[[bool], None]) -> None:
        """Nothing to tell: this log can always be reached."""

    async def close(self) -> None:
        """The last one to close wakes who waits; the log stays, and `start` goes on with it."""
        self._users = max(0, self._users - 1)
        if not self._users:
            self._feed.close()

    async def publish(self, draft: Draft) -> Head:
        """Append; a publisher that never pauses gives way to the readers now and then."""
        if self._feed.unread >= YIELD_EVERY:
            await asyncio.sleep(0)
        epoch, key = self._feed.open_head().epoch, draft.idempotency_key
        if key is not None and key in self._published:
            return Head(epoch, self._published[key])
        offset = Offset(self._history.head + 1)
        message = Message(
            offset=offset,
            topic=draft.topic,
            priority=draft.priority,
            body=draft.body,
            timestamp=draft.timestamp,
            key=draft.key,
            expires_at=draft.expires_at,
            to_user=draft.to_user,
        )
        self._history.append(message, self._clock())
        self._feed.append(message)
        if key is not None:
            self._published[key] = offset
            if len(self._published) > IDEMPOTENCY_KEYS:
                self._published.popitem(last=False)
        return Head(epoch, offset)

    async def head(self) -> Head:
        """See `Broker.head`."""
        return self._feed.open_head()

    async def follow(self, after: Head) -> Batch:
        """See `Broker.follow`."""
        return await self._feed.after(after)

    async def read(
        self, epoch: Epoch, request: PageRequest, subscriptions: Subscriptions, user: UserId | None
    ) -> Page | None:
        """See `Broker.read`."""
        if epoch != self._epoch:
            return None
        return self._history.page(request, subscriptions, user, self._clock())

    async def summarize(
        self, epoch: Epoch, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None
    ) -> ReplaySummary | None:
        """See `Broker.summarize`."""
        if epoch != self._epoch:
            return None
        return self._history.summarize(cursor, subscriptions, user, self._clock())

    async def sweep(self) -> None:
        """Trim by age, expire tokens."""
        now = self._clock()
        self._history.trim(now)
        self.tokens.registry.expire(now)
