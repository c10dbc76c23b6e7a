"""RedisBroker: one log for many nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Never

from ...core.cursor import MAX_OFFSET, Cursor, Epoch, Head
from ...core.log.pages import Page, PageRequest, ReplaySummary, Subscriptions
from ...core.log.retention import Retention
from ...core.message import Draft, Offset, UserId
from ...core.tokens import TokenLimits
from ...core.validation import check_keywords, check_number, check_type
from ...errors import BrokerUnavailable
from ..protocol import Batch
from . import entries, keys
from .feed_reader import FeedReader
from .presence import RedisPresence
from .remote_history import RemoteHistory
from .replica import Replica
from .script import HEAD, LogState, Operation
from .script_client import UNREACHABLE, Client, ScriptClient, check_client
from .timeouts import run_with_timeout
from .tokens import RedisTokens

_logger = logging.getLogger("holdfast")

SWEEP_STEP = 100
"""The number of sessions or addresses that one operation of a sweep drops, at most."""


_OPTIONS = ("namespace", "retention", "tokens", "timeout", "replica_bytes", "clock")


class RedisBroker:
    """A log in Redis (7.0 or newer, or Valkey), with Streams and one script.

        client = redis.asyncio.Redis.from_url("redis://…")
        Broadcaster(broker=RedisBroker(client))

    All nodes of one `namespace` share one log. Give them the same `retention` and `tokens`: those
    of the last node that started apply.

    The client belongs to the event loop in which it is used first, and so does the RedisBroker:
    make both anew for each event loop, for instance in the function that makes the application. A
    node uses two connections of the client. The application closes the client.

    Args:
        client: An asyncio client of redis-py, with the application's options for TLS, Sentinel or
            Cluster, and with `decode_responses=False`.
        namespace: The name of the log, 1 to 64 of the characters `A-Z a-z 0-9 . _ -`.
        retention: The bounds of the history.
        tokens: The limits of resume tokens.
        timeout: Seconds until a call to Redis has failed.
        replica_bytes: The size of the messages that this process keeps, so that clients that
            return soon cost Redis no read.
        clock: Returns seconds since the Unix epoch.

    Raises:
        ConfigurationError: An argument is out of range, or the client decodes replies.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str = "main",
        retention: Retention | None = None,
        tokens: TokenLimits | None = None,
        timeout: float = 2.0,
        replica_bytes: int = 64 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
        **unknown: Never,
    ) -> None:
        check_number("timeout", timeout)
        check_number("replica_bytes", replica_bytes, whole=True)
        check_keywords("RedisBroker", unknown, _OPTIONS)
        if retention is not None:
            check_type("retention", retention, Retention, "a Retention(limit=…), or None")
        if tokens is not None:
            check_type("tokens", tokens, TokenLimits, "a TokenLimits(grace=…), or None")
        check_client(client, is_async=True)
        prefix = keys.prefix(namespace)
        self._namespace = namespace
        self._retention = retention or Retention()
        self._limits = tokens or TokenLimits()
        self._clock = clock
        self._client = client
        self._timeout = timeout
        self._scripts = ScriptClient(
            client,
            prefix,
            timeout=timeout,
            clock=clock,
            on_log_state=self._log_state_received,
            on_availability=self._availability_changed,
        )
        total_bytes = min(replica_bytes, self._retention.total_bytes)
        self._reader = FeedReader(
            client,
            self._scripts,
            prefix,
            replace(self._retention, total_bytes=total_bytes),
            self._configure,
        )
        self._tokens = RedisTokens(self._scripts)
        self._presence = RedisPresence(self._scripts)
        self._history = RemoteHistory(self._scripts)
        self._availability_callbacks: list[Callable[[bool], None]] = []
        self._users = 0
        self._starting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<RedisBroker namespace={self._namespace!r}>"

    @property
    def tokens(self) -> RedisTokens:
        """The sessions of resume tokens."""
        return self._tokens

    @property
    def presence(self) -> RedisPresence:
        """The presence of all nodes."""
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
    def foreign_entries(self) -> int:
        """The number of entries in the feed that another program wrote; they count as lost."""
        return self._reader.foreign_entries

    def on_availability(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """See `Broker.on_availability`."""
        self._availability_callbacks.append(callback)
        return partial(self._availability_callbacks.remove, callback)

    async def start(self) -> None:
        """Send the limits to Redis, read the feed, and follow it.

        Each `start` needs one `close`. A second start while the first is under way waits for it.

        Raises:
            BrokerUnavailable: Redis does not reply, or refuses.
            OutcomeUnknown: Redis stopped replying.
            WrongThread: The client belongs to another event loop; the message says what to do.

        Cancellation:
            The broker is not started.
        """
        self._scripts.check_loop(asyncio.get_running_loop())
        async with self._starting:
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
        """Undo one `start`; the last call stops the reader, and leaves the client open.

        Cancellation:
            Some resources may be left. A repeated call releases them.
        """
        self._users = max(0, self._users - 1)
        if not self._users:
            await self._reader.stop()
            await self._scripts.wait_idle()

    async def publish(self, draft: Draft) -> Head:
        """See `Broker.publish`; messages of one process are published in the order of the calls."""
        self._reader.feed.current_head()
        operation = entries.publish_operation(draft)
        head: Head = await self._scripts.call(operation, _decode_position)
        return head

    async def head(self) -> Head:
        """See `Broker.head`."""
        self._reader.feed.current_head()
        head: Head = await self._scripts.call(HEAD, _decode_head)
        return head

    async def follow(self, after: Head) -> Batch:
        """See `Broker.follow`."""
        return await self._reader.feed.follow(after)

    async def read(
        self, epoch: Epoch, request: PageRequest, subscriptions: Subscriptions, user: UserId | None
    ) -> Page | None:
        """See `Broker.read`."""
        replica = await self._current_replica(epoch, request.up_to)
        if replica is None:
            return None
        cursor = Cursor.at(request.after)
        if replica.covers(cursor, subscriptions, (request.lane,)):
            return replica.page(request, subscriptions, user, self._clock())
        page = await self._history.page(request, subscriptions, user)
        return page if self._reader.is_in_epoch(epoch) else None

    async def summarize(
        self, epoch: Epoch, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None
    ) -> ReplaySummary | None:
        """See `Broker.summarize`."""
        replica = await self._current_replica(epoch, Offset(MAX_OFFSET))
        if replica is None:
            return None
        if replica.covers(cursor, subscriptions):
            return replica.summarize(cursor, subscriptions, user, self._clock())
        summary = await self._history.summarize(cursor, subscriptions, user)
        return summary if self._reader.is_in_epoch(epoch) else None

    async def sweep(self) -> None:
        """Trim by age, expire tokens, and drop addresses that are not in use any more.

        Cancellation:
            Some of them may be left for the next call.
        """
        self._reader.feed.current_head()
        await self._reader.wait_for(self._reader.head)
        self._reader.replica.trim(self._clock())
        await self._tokens.refresh()
        while await self._scripts.call(Operation("trim_aged", (SWEEP_STEP,))):
            pass
        for name in ("expire_sessions", "drop_idle"):
            while await self._scripts.call(Operation(name, (SWEEP_STEP,))) >= SWEEP_STEP:
                pass

    # ------------------------------------------------------------------------------------------

    async def _current_replica(self, epoch: Epoch, up_to: Offset) -> Replica | None:
        """Return the replica when it has `up_to` or the head; `None` if the epoch has ended."""
        self._reader.feed.current_head()
        up_to = min(up_to, self._reader.head)
        await self._reader.wait_for(up_to)
        if not self._reader.is_in_epoch(epoch):
            return None
        if self._reader.lacks(up_to):
            raise BrokerUnavailable("the feed is behind the requested position")
        return self._reader.replica

    def _configure(self) -> None:
        """Send the limits to the namespace, which loses them if it loses its keys."""
        retention, limits = self._retention, self._limits
        settings = {
            "limit": retention.limit, "max_bytes": retention.max_bytes,
            "age": "" if retention.age is None else retention.age,
            "total_bytes": retention.total_bytes, "max_logs": retention.max_logs,
            "lifetime": limits.lifetime, "grace": limits.grace,
            "per_user": limits.per_user, "total": limits.total,
        }  # fmt: skip
        flat = [each for setting in settings.items() for each in setting]
        self._scripts.submit_nowait(Operation("configure", flat))

    async def _warn_of_eviction(self) -> None:
        """Log a warning if Redis may evict keys: that is a loss, though a declared one."""
        with contextlib.suppress(*UNREACHABLE):
            memory: Any = await run_with_timeout(
                self._timeout, self._client.execute_command("INFO", "memory")
            )
            policy = memory.get("maxmemory_policy") if hasattr(memory, "get") else None
            if policy not in (None, "noeviction"):
                _logger.warning(
                    "Redis may evict keys of holdfast: maxmemory-policy is %s, set noeviction",
                    policy,
                )

    def _log_state_received(self, state: LogState) -> None:
        self._reader.update_log_state(state)

    def _availability_changed(self, is_available: bool) -> None:
        if is_available:
            self._tokens.send_pending_detaches()
        for callback in self._availability_callbacks:
            callback(is_available)


def _decode_position(offset: int, state: LogState) -> Head:
    return Head(state.epoch, Offset(offset), state.forks)


def _decode_head(_: Any, state: LogState) -> Head:
    return Head(state.epoch, state.head, state.forks)
