"""MemoryBroker: the default broker, a log in the memory of one process."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from ..core.cursor import Cursor, Epoch, Head
from ..core.log.history import History
from ..core.log.pages import Page, PageRequest, ReplaySummary, Subscriptions
from ..core.log.retention import Retention
from ..core.message import Draft, Offset, UserId
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
from ..core.validation import check_type
from .feed import Feed
from .protocol import Batch

YIELD_EVERY = 64
"""Messages that no node has read yet, from which `publish` lets other tasks run first."""

IDEMPOTENCY_KEYS = 10_000
"""Idempotency keys that are kept, at most."""


class MemoryTokens:
    """A `TokenStore` in memory: a TokenRegistry with a clock and random tokens."""

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

    async def save(self, connection: ConnectionId, session: Session) -> bool:
        """See `TokenStore.save`."""
        return self.registry.save(connection, session)

    async def detach(self, connection: ConnectionId, session: Session | None) -> None:
        """See `TokenStore.detach`."""
        self.registry.detach(connection, session, self._clock())

    async def drop_user(self, user: UserId) -> int:
        """See `TokenStore.drop_user`."""
        return self.registry.drop_user(user)


class MemoryPresence:
    """A `PresenceStore` in memory: a PresenceTable with a clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._table = PresenceTable()
        self._clock = clock

    async def update(
        self, node: NodeId, joined: Iterable[Member], left: Iterable[Member], lease: float
    ) -> PresenceDelta:
        """See `PresenceStore.update`."""
        now = self._clock()
        return self._table.update(node, joined, left, now=now, until=now + lease)

    async def remove(self, node: NodeId) -> PresenceDelta:
        """See `PresenceStore.remove`."""
        return PresenceDelta(is_known=True, left=tuple(self._table.remove(node)))

    async def users(self, topic: str) -> frozenset[UserId]:
        """See `PresenceStore.users`."""
        return frozenset(self._table.users(topic))


class MemoryBroker:
    """A `Broker` in the memory of one process, which several Broadcasters of an event loop share.

    The log remains between two runs of a Broadcaster, and ends with the process.

    Args:
        retention: The bounds of the history.
        tokens: The lifetime of reconnect tokens, and the number of sessions.
        clock: Returns seconds since the Unix epoch.

    Raises:
        TypeError: An argument has the wrong type.
    """

    def __init__(
        self,
        *,
        retention: Retention | None = None,
        tokens: TokenLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if retention is not None:
            check_type("retention", retention, Retention, "a Retention(limit=…), or None")
        if tokens is not None:
            check_type("tokens", tokens, TokenLimits, "a TokenLimits(grace=…), or None")
        self._clock = clock
        self._history = History(retention)
        self.tokens = MemoryTokens(tokens, clock)
        """See `Broker.tokens`."""
        self.presence = MemoryPresence(clock)
        """See `Broker.presence`."""
        self.history_age = self._history.retention.age
        """See `Broker.history_age`."""
        self.token_lifetime = self.tokens.registry.limits.lifetime
        """See `Broker.token_lifetime`."""
        self._epoch: Epoch | None = None
        self._feed = Feed()
        self._offsets: OrderedDict[str, Offset] = OrderedDict()  # by idempotency key
        self._starts = 0

    def __repr__(self) -> str:
        return f"<MemoryBroker of {len(self._history)} messages>"

    @property
    def history(self) -> History:
        """The history, for tests and inspection only."""
        return self._history

    async def start(self) -> None:
        """See `Broker.start`; forked processes have different epochs, because this draws them."""
        self._starts += 1
        if self._epoch is None:
            self._epoch = Epoch(secrets.token_urlsafe(9))
        if self._feed.head is None:
            self._feed.restart(Head(self._epoch, self._history.head))

    def on_availability(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """See `Broker.on_availability`; a log in memory is always reachable."""
        return _do_nothing

    async def close(self) -> None:
        """See `Broker.close`; the log remains, and the next `start` continues it."""
        self._starts = max(0, self._starts - 1)
        if not self._starts:
            self._feed.close()

    async def publish(self, draft: Draft) -> Head:
        """See `Broker.publish`; every 64 unread messages, the nodes get a turn to read them."""
        if self._feed.unread >= YIELD_EVERY:
            await asyncio.sleep(0)
        epoch, key = self._feed.current_head().epoch, draft.idempotency_key
        if key is not None and key in self._offsets:
            return Head(epoch, self._offsets[key])
        message = draft.at(Offset(self._history.head + 1))
        self._history.append(message, self._clock())
        self._feed.append(message)
        if key is not None:
            self._offsets[key] = message.offset
            if len(self._offsets) > IDEMPOTENCY_KEYS:
                self._offsets.popitem(last=False)
        return Head(epoch, message.offset)

    async def head(self) -> Head:
        """See `Broker.head`."""
        return self._feed.current_head()

    async def follow(self, after: Head) -> Batch:
        """See `Broker.follow`."""
        return await self._feed.follow(after)

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
        """See `Broker.sweep`."""
        now = self._clock()
        self._history.trim(now)
        self.tokens.registry.expire(now)


def _do_nothing() -> None:
    pass
