"""RedisBroker: one log for many nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ...core.cursor import MAX_OFFSET, Cursor, Epoch, Head
from ...core.log.pages import Page, PageRequest, ReplaySummary, Subscriptions
from ...core.log.retention import Retention
from ...core.message import Draft, Offset, UserId
from ...core.tokens import TokenLimits
from ...core.validation import check_number
from ...errors import BrokerUnavailable, ConfigurationError
from ..protocol import Batch
from . import entries, keys
from .archive import Archive
from .bounded import within
from .line import UNREACHABLE, Client, Line, connection_settings
from .presence import RedisPresence
from .reader import Reader
from .replica import Replica
from .script import HEAD, End, Operation
from .tokens import RedisTokens

_logger = logging.getLogger("holdfast")

SWEPT = 100
"""Things that one operation of a sweep drops, at the most."""


class RedisBroker:
    """A log in Redis (7.0 or newer, or Valkey), with Streams and one script.

        client = redis.asyncio.Redis.from_url("redis://…")
        Broadcaster(broker=RedisBroker(client))

    `client` is redis-py's asyncio client, connected as the application likes (TLS, Sentinel,
    Cluster), with `decode_responses=False`; it stays the application's to close. A node uses two
    of its connections. All nodes of one `hub` share one log; give them the same `retention` and
    `tokens`, which count from the last node that started.

    `timeout`: seconds until a call to Redis has failed. `replica_bytes`: messages kept here, so
    that clients that come back soon ask Redis nothing. `clock` gives seconds since the Unix epoch.
    """

    def __init__(
        self,
        client: Client,
        *,
        hub: str = "main",
        retention: Retention | None = None,
        tokens: TokenLimits | None = None,
        timeout: float = 2.0,
        replica_bytes: int = 64 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_number("timeout", timeout)
        check_number("replica_bytes", replica_bytes, whole=True)
        check_client(client)
        prefix = keys.prefix(hub)
        self._retention = retention or Retention()
        self._limits = tokens or TokenLimits()
        self._clock = clock
        self._client = client
        self._timeout = timeout
        self._line = Line(client, prefix, timeout=timeout, clock=clock)
        self._line.on_change = self._changed
        self._reader = Reader(
            client,
            self._line,
            prefix,
            replace(self._retention, total_bytes=min(replica_bytes, self._retention.total_bytes)),
            self._configure,
        )
        self._tokens = RedisTokens(self._line)
        self._presence = RedisPresence(self._line)
        self._watchers: list[Callable[[bool], None]] = []
        self._archive = Archive(self._line)
        self._users = 0
        self._starting = asyncio.Lock()

    @property
    def tokens(self) -> RedisTokens:
        """The place for tokens."""
        return self._tokens

    @property
    def presence(self) -> RedisPresence:
        """Where it is noted who is there."""
        return self._presence

    @property
    def history_age(self) -> float | None:
        """See `Broker.history_age`."""
        return self._retention.age

    @property
    def token_lifetime(self) -> float:
        """See `Broker.token_lifetime`."""
        return self._limits.lifetime

    @property
    def skipped(self) -> int:
        """Entries of the feed that were none of ours; they count as lost."""
        return self._reader.skipped

    def on_availability(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """See `Broker.on_availability`."""
        self._watchers.append(callback)
        return partial(self._watchers.remove, callback)

    async def start(self) -> None:
        """Tell Redis the limits, and begin to follow; raises `BrokerUnavailable`."""
        if not self._users and not self._starting.locked():
            self._starting = asyncio.Lock()  # of this loop
        async with self._starting:  # whoever shares this broker waits for the first
            if not self._users:
                try:
                    self._configure()
                    await self._reader.start()
                    await self._warn_of_eviction()
                except BaseException:
                    await self._reader.stop()
                    raise
            self._users += 1

    async def close(self) -> None:
        """The last one to close wakes who waits; the client stays open."""
        self._users = max(0, self._users - 1)
        if not self._users:
            await self._reader.stop()
            await self._line.settled()

    async def publish(self, draft: Draft) -> Head:
        """See `Broker.publish`. Those of one process keep the order in which they were called."""
        self._reader.feed.open_head()
        head: Head = await self._line.call(entries.publish(draft), _position)
        return head

    async def head(self) -> Head:
        """See `Broker.head`."""
        self._reader.feed.open_head()
        head: Head = await self._line.call(HEAD, _end)
        return head

    async def follow(self, after: Head) -> Batch:
        """See `Broker.follow`."""
        return await self._reader.feed.after(after)

    async def read(
        self, epoch: Epoch, request: PageRequest, subscriptions: Subscriptions, user: UserId | None
    ) -> Page | None:
        """See `Broker.read`."""
        replica = await self._reach(epoch, request.up_to)
        if replica is None:
            return None
        cursor = Cursor.at(request.after)
        if replica.covers(cursor, subscriptions, (request.lane,)):
            return replica.page(request, subscriptions, user, self._clock())
        page = await self._archive.page(request, subscriptions, user)
        return page if self._reader.is_of(epoch) else None

    async def summarize(
        self, epoch: Epoch, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None
    ) -> ReplaySummary | None:
        """See `Broker.summarize`."""
        replica = await self._reach(epoch, Offset(MAX_OFFSET))
        if replica is None:
            return None
        if replica.covers(cursor, subscriptions):
            return replica.summarize(cursor, subscriptions, user, self._clock())
        summary = await self._archive.summarize(cursor, subscriptions, user)
        return summary if self._reader.is_of(epoch) else None

    async def sweep(self) -> None:
        """Trim by age, expire tokens, drop what nobody has used for long."""
        self._reader.feed.open_head()
        await self._reader.reach(self._reader.head)
        self._reader.replica.trim(self._clock())
        await self._tokens.refresh()
        while await self._line.call(Operation("trim_aged", (SWEPT,))):
            pass
        for name in ("expire_sessions", "drop_idle"):
            while await self._line.call(Operation(name, (SWEPT,))) >= SWEPT:
                pass

    # ------------------------------------------------------------------------------------------

    async def _reach(self, epoch: Epoch, up_to: Offset) -> Replica | None:
        """The replica, come as far as is known; `None` if the log is another one by now."""
        self._reader.feed.open_head()
        up_to = min(up_to, self._reader.head)
        await self._reader.reach(up_to)
        if not self._reader.is_of(epoch):
            return None
        if self._reader.is_behind(up_to):
            raise BrokerUnavailable("the feed has not come as far as what is asked for")
        return self._reader.replica

    def _configure(self) -> None:
        """Tell the hub its limits; it forgets them with everything else."""
        keep, limits = self._retention, self._limits
        settings = {
            "limit": keep.limit, "max_bytes": keep.max_bytes,
            "age": "" if keep.age is None else keep.age,
            "total_bytes": keep.total_bytes, "max_logs": keep.max_logs,
            "lifetime": limits.lifetime, "grace": limits.grace,
            "per_user": limits.per_user, "total": limits.total,
        }  # fmt: skip
        flat = [each for setting in settings.items() for each in setting]
        self._line.tell(Operation("configure", flat))

    async def _warn_of_eviction(self) -> None:
        """Say so if Redis may throw away what it was given: that is a loss, if a declared one."""
        with contextlib.suppress(*UNREACHABLE):
            memory: Any = await within(
                self._timeout, self._client.execute_command("INFO", "memory")
            )
            policy = memory.get("maxmemory_policy") if hasattr(memory, "get") else None
            if policy not in (None, "noeviction"):
                _logger.warning("maxmemory-policy is %s: for this it should be noeviction", policy)

    def _changed(self, is_up: bool) -> None:
        if is_up:
            self._tokens.catch_up()
        for told in self._watchers:
            told(is_up)


def check_client(client: object) -> None:
    """Raise `ConfigurationError` for a client that decodes: messages are bytes."""
    if connection_settings(client).get("decode_responses"):
        raise ConfigurationError(
            "the Redis client has decode_responses=True: make one without it for this"
        )


def _position(offset: int, end: End) -> Head:
    return Head(end.epoch, Offset(offset), end.forks)


def _end(_: Any, end: End) -> Head:
    return Head(end.epoch, end.head, end.forks)
