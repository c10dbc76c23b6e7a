"""Broadcaster: the object that an application uses. Other modules do the work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Never, Self

from typing_extensions import Unpack

from ..brokers.protocol import Broker
from ..core.message import Offset, UserId
from ..core.publishing import PublishOptions, make_draft
from ..core.topics import USER_TOPIC
from ..core.validation import (
    check_function,
    check_keywords,
    check_name,
    check_number,
    check_type,
    reject,
)
from ..errors import (
    BroadcasterFailed,
    ConfigurationError,
    NotRunning,
    PublishError,
    WrongThread,
)
from ..reasons import Reason
from .audit import AuditAction, AuditHook, AuditTrail
from .connection import Connection, MaySubscribe
from .handshake import ConnectRequest, PendingConnection
from .lifecycle import DRAIN_TIMEOUT, BroadcasterRun, BroadcasterState
from .node import statistics_at_rest
from .options import DEFAULTS, Options
from .periodic import PeriodicSource, Source
from .presence import PresenceHook
from .statistics import ConnectionStatistics, Statistics

_USER_ID = "the id of a user, a str that is not empty"
_USER_FORM = f"{_USER_ID}, or None"
_CONNECTION_FORM = "a Connection, such as broadcaster.connection(id, user=user)"
_OPTIONS = ("broker", "audit", "presence", "clock", *Options.__slots__)


class Broadcaster:
    """Publishes to a broker's log, and delivers from it to the connections of this process.

        async with Broadcaster() as broadcaster:
            await broadcaster.publish("orders", {"id": 7}, priority=Priority.HIGH)

    A Broadcaster belongs to the event loop in which it is started. One task may start it and
    another stop it. A stopped Broadcaster can be started again, also in another event loop,
    because between two runs it holds only its options and its broker. If a background task dies,
    every connection is closed, and `publish` raises `BroadcasterFailed`.

    Args:
        broker: The log; by default one in the memory of this process.
        audit: A plain function that is called with each security-relevant `AuditEvent`, in the
            event loop.
        presence: True counts the present users over all nodes. A plain or coroutine function does
            that, too, and is called for each `PresenceChange`.
        clock: Returns seconds since the Unix epoch.
        buffer_capacity: Messages that wait for one connection, at most (default 100).
        buffer_bytes: Bytes that wait for one connection, at most (2 MiB).
        max_message_bytes: Bytes of one encoded message, at most (1 MiB).
        history_limit: Messages that are kept per topic, user and lane (1000). The options that
            begin with `history_` and `token_` are for the memory broker only.
        history_age: Seconds that a message is kept (3600).
        history_bytes: Bytes that are kept per topic, user and lane (16 MiB).
        token_lifetime: Seconds that a reconnect token is valid after the end of its connection
            (86,400).
        token_grace: Seconds that the previous token is valid after the end of the connection (60).
        heartbeat_interval: Seconds that a connection may be silent (30). `None` sends no
            heartbeats.
        idle_timeout: Seconds without a sign of life from the client after which its connection is
            closed (1800). `None` never closes it.
        send_timeout: Seconds that one send or one acknowledgement may take (60). `None` sets no
            limit.
        window_bytes: Bytes that a client that acknowledges may have unacknowledged (1 MiB). `None`
            switches the window off.
        cleanup_interval: Seconds between two sweeps of the broker (300).
        flush_interval: Seconds between two deliveries, at least. `None`, the default, delivers at
            each turn of the event loop.
        max_connections: Connections of this process, at most (20,000).
        max_connections_per_user: Connections of one identified user, at most (20).
        max_topics: Topics of one connection, at most (200).
        drain_at_signal: True, the default, ends the streams at SIGTERM and SIGINT. Otherwise the
            application calls `begin_drain` before the server waits for its streams.

    Raises:
        ConfigurationError: An option cannot work.
        TypeError: An option does not exist, or has the wrong type.
    """

    def __init__(
        self,
        *,
        broker: Broker | None = None,
        audit: AuditHook | None = None,
        presence: bool | PresenceHook = False,
        clock: Callable[[], float] = time.time,
        buffer_capacity: int = DEFAULTS.buffer_capacity,
        buffer_bytes: int = DEFAULTS.buffer_bytes,
        max_message_bytes: int = DEFAULTS.max_message_bytes,
        history_limit: int | None = DEFAULTS.history_limit,
        history_age: float | None = DEFAULTS.history_age,
        history_bytes: int | None = DEFAULTS.history_bytes,
        token_lifetime: float | None = DEFAULTS.token_lifetime,
        token_grace: float | None = DEFAULTS.token_grace,
        heartbeat_interval: float | None = DEFAULTS.heartbeat_interval,
        idle_timeout: float | None = DEFAULTS.idle_timeout,
        send_timeout: float | None = DEFAULTS.send_timeout,
        window_bytes: int | None = DEFAULTS.window_bytes,
        cleanup_interval: float = DEFAULTS.cleanup_interval,
        flush_interval: float | None = DEFAULTS.flush_interval,
        max_connections: int = DEFAULTS.max_connections,
        max_connections_per_user: int = DEFAULTS.max_connections_per_user,
        max_topics: int = DEFAULTS.max_topics,
        drain_at_signal: bool = DEFAULTS.drain_at_signal,
        **unknown: Never,
    ) -> None:
        check_keywords("Broadcaster", unknown, _OPTIONS)
        if broker is not None and (isinstance(broker, type) or not hasattr(broker, "follow")):
            reject("broker", broker, "a broker, such as MemoryBroker() or RedisBroker(client)")
        if audit is not None:
            check_function("audit", audit, "a function that takes an AuditEvent")
        if not isinstance(presence, bool):
            check_function("presence", presence, "True, False, or a function of a PresenceChange")
        check_function("clock", clock, "a function that returns seconds since the Unix epoch")
        self.options = Options(
            buffer_capacity=buffer_capacity,
            buffer_bytes=buffer_bytes,
            max_message_bytes=max_message_bytes,
            history_limit=history_limit,
            history_age=history_age,
            history_bytes=history_bytes,
            token_lifetime=token_lifetime,
            token_grace=token_grace,
            heartbeat_interval=heartbeat_interval,
            idle_timeout=idle_timeout,
            send_timeout=send_timeout,
            window_bytes=window_bytes,
            cleanup_interval=cleanup_interval,
            flush_interval=flush_interval,
            max_connections=max_connections,
            max_connections_per_user=max_connections_per_user,
            max_topics=max_topics,
            drain_at_signal=drain_at_signal,
        )
        self._broker = self.options.broker(broker, clock)
        self._clock = clock
        self._audit = audit
        self._presence = presence
        self._sources: list[PeriodicSource] = []
        self._run: BroadcasterRun | None = None
        self._starting: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        run = self._built_run()
        count = 0 if run is None else len(run.node.connections)
        return f"<Broadcaster {self.state.value}, {count} connections>"

    # -- start and stop ------------------------------------------------------------------------

    @property
    def state(self) -> BroadcasterState:
        """The phase of the Broadcaster's life."""
        return BroadcasterState.NEW if self._run is None else self._run.state

    async def start(self) -> None:
        """Start the broker and the background tasks; `async with` does it, too.

        Raises:
            NotRunning: The Broadcaster is running already, or has not stopped completely.
            BrokerUnavailable: The broker's server cannot be reached.

        Cancellation:
            Everything that was started is stopped again.
        """
        if self._run is not None and not self._run.is_over:
            raise NotRunning("this Broadcaster is running already: start it once, in one place")
        run = BroadcasterRun(
            self._broker,
            self.options,
            time=self._clock,
            audit=self._audit,
            presence=self._presence,
            publish=self.publish,
        )
        starting = self._starting = run.loop.create_future()
        before, self._run = self._run, run
        try:
            await run.start(self._sources)
        except BaseException as error:
            self._run = before
            if isinstance(error, Exception):
                starting.set_exception(error)
                starting.exception()  # marks it as retrieved, because no caller may wait
            raise
        finally:
            self._starting = None
            if not starting.done():
                starting.set_result(None)

    async def stop(self) -> None:
        """Drain, end all background tasks and close the broker; `async with` does it, too.

        A Broadcaster that is starting in another task is stopped when it has started.

        Raises:
            WrongThread: The caller is in another event loop.

        Cancellation:
            The call completes first, and then raises the cancellation.
        """
        run = self._run
        if run is not None and not run.is_over:
            run.check_loop()
            await run.stop()

    async def ensure_started(self) -> None:
        """Start the Broadcaster unless it was started before.

        Several concurrent calls start it once, and all wait until it is running.

        Raises:
            BrokerUnavailable: The broker's server cannot be reached. All concurrent calls raise it.

        Cancellation:
            The call that starts stops everything again, and another call starts instead.
        """
        while self._run is None or self._starting is not None:
            if self._starting is None:
                await self.start()
            else:
                await asyncio.shield(self._starting)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def begin_drain(self) -> None:
        """Refuse new connections and close all existing ones, without waiting for their end."""
        run = self._built_run()
        if run is not None:
            run.begin_drain()

    async def drain(self, timeout: float = DRAIN_TIMEOUT) -> bool:  # noqa: ASYNC109
        """Call `begin_drain`, then wait for the end of all connections.

        The clients reconnect, and resume on another node, or on this one after a restart.

        Args:
            timeout: Seconds to wait, at most.

        Returns:
            True if all connections have ended.

        Cancellation:
            The connections end all the same.
        """
        check_number("timeout", timeout, zero=True)
        run = self._built_run()
        return run is None or await run.drain(timeout)

    def check_running(self) -> None:
        """Raise an exception unless the caller can publish now.

        Raises:
            BroadcasterFailed: A background task died.
            NotRunning: The Broadcaster was not started, or has stopped.
            WrongThread: The caller is in another thread or event loop.
        """
        self._running()

    def _built_run(self) -> BroadcasterRun | None:
        """Return the current run, or the last one, once its node has been built."""
        run = self._run
        return None if run is None or run.state is BroadcasterState.NEW else run

    def _running(self) -> BroadcasterRun:
        run = self._run
        if run is not None and run.failure is not None:
            raise BroadcasterFailed("a background task died") from run.failure
        if run is None or run.state in _STARTABLE:
            raise NotRunning(
                "the Broadcaster is not running: serve LiveApp, or use `async with broadcaster:` "
                "in the lifespan of your framework"
            )
        if asyncio._get_running_loop() is not run.loop:
            run.check_loop()  # raises
        return run

    # -- called by LiveApp ---------------------------------------------------------------------

    def now(self) -> float:
        """Return seconds since the Unix epoch, by the argument `clock`."""
        return self._clock()

    def audit(
        self,
        action: AuditAction,
        *,
        user: str | None = None,
        transport: str | None = None,
        detail: str = "",
    ) -> None:
        """Call the audit hook, if there is one.

        Args:
            action: The kind of the event.
            user: The identified user.
            transport: The transport of the request.
            detail: A word or a sentence without secrets.
        """
        run = self._built_run()
        trail = AuditTrail(self._audit, self._clock) if run is None else run.node.audit
        trail.record(action, user, None, transport, detail)

    def has_listeners(self, topic: str) -> bool:
        """Return True if a connection of this node has `topic`, by name or by a pattern."""
        run = self._built_run()
        return run is not None and run.node.registry.has_listeners(topic)

    @property
    def is_accepting(self) -> bool:
        """True while new connections may begin: the Broadcaster is running, and not draining."""
        run = self._built_run()
        return run is not None and run.node.is_accepting

    # -- publishing ----------------------------------------------------------------------------

    async def publish(self, topic: str, data: object, **options: Unpack[PublishOptions]) -> Offset:
        """Publish `data` to a topic, and return when every node can read the message.

        Args:
            topic: The name of a topic, not a pattern.
            data: Anything that `json.dumps` accepts. A later change of the object has no effect,
                because the data is encoded before the first wait.
            priority: `Priority.NORMAL` by default. A message overtakes all with a lower priority.
            key: The message supersedes waiting messages of the same topic, `to_user` and key. At
                most 200 bytes.
            ttl: Seconds after which the message is no longer sent; `None`, the default, for no
                limit.
            to_user: Only the subscribers with this user id get the message.
            idempotency_key: A second publish with the same key returns the offset of the first,
                and publishes nothing. At most 200 bytes.

        Returns:
            The offset of the message in the log.

        Raises:
            PublishError: The message cannot be published; nothing was queued.
            NotRunning, WrongThread, BroadcasterFailed: See `check_running`.
            BrokerUnavailable: The broker does not answer, or refuses; nothing was published.
            OutcomeUnknown: The link to the broker broke before the answer arrived.

        Cancellation:
            The message may have been published. A second call with the same `idempotency_key` does
            not publish it twice.
        """
        run = self._running()
        draft = make_draft(
            topic,
            data,
            now=self._clock(),
            max_bytes=self.options.max_message_bytes,
            **options,
        )
        head = await self._broker.publish(draft)
        run.node.count(published=1)
        return head.offset

    async def publish_to_user(
        self, user: str, data: object, **options: Unpack[PublishOptions]
    ) -> Offset:
        """Publish `data` to all connections of one user, independent of their subscriptions.

        Args:
            user: The id of the user.
            data: See `publish`.
            options: See `publish`. The topic is `$user`, and `to_user` is `user`.

        Returns:
            The offset of the message in the log.

        Raises:
            PublishError: `user` is not a str, or is empty, or see `publish`.
            BrokerUnavailable, OutcomeUnknown: See `publish`.
            NotRunning, WrongThread, BroadcasterFailed: See `check_running`.

        Cancellation:
            See `publish`.
        """
        if not isinstance(user, str) or not user:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PublishError(f"user={user!r:.80}: it must be {_USER_ID}")
        options["to_user"] = user
        return await self.publish(USER_TOPIC, data, **options)

    def publish_from_thread(
        self,
        topic: str,
        data: object,
        *,
        timeout: float | None = None,
        **options: Unpack[PublishOptions],
    ) -> Offset:
        """Publish from a worker thread, and block until the message is published.

        Args:
            topic: See `publish`.
            data: See `publish`.
            timeout: Seconds to wait; `None` sets no limit.
            options: See `publish`.

        Returns:
            The offset of the message in the log.

        Raises:
            TimeoutError: The time is over; the message may have been published.
            WrongThread: The caller is in an event loop, which this method would block.
            NotRunning, BroadcasterFailed: See `check_running`.
            PublishError, BrokerUnavailable, OutcomeUnknown: See `publish`.
        """
        run = self._run
        if run is None or run.state in _STARTABLE:
            raise NotRunning("the Broadcaster is not running")
        if asyncio._get_running_loop() is not None:
            raise WrongThread("this would block the event loop: await publish instead")
        publishing = self.publish(topic, data, **options)
        return asyncio.run_coroutine_threadsafe(publishing, run.loop).result(timeout)

    def periodic(
        self, topic: str, source: Source, *, interval: float, **options: Unpack[PublishOptions]
    ) -> PeriodicSource:
        """Publish the result of `source` every `interval` seconds, while the topic has a listener.

        Args:
            topic: See `publish`.
            source: Returns the data to publish, or `None` to publish nothing this time. A plain
                function is called in a worker thread, because it may block. A source that uses
                this Broadcaster or the event loop must be a coroutine function.
            interval: Seconds between two calls.
            options: See `publish`.

        Returns:
            The source, whose `cancel` stops it for good.

        Raises:
            ConfigurationError: `interval` is not a number over 0.
            PublishError: The topic or an option is not valid.
            TypeError: `source` is not a function, or an option does not exist.
        """
        periodic = PeriodicSource(
            topic, source, interval, options, max_bytes=self.options.max_message_bytes
        )
        self._sources = [each for each in self._sources if not each.is_cancelled]
        self._sources.append(periodic)
        if self._run is not None:
            self._run.add_source(periodic)
        return periodic

    # -- connections ---------------------------------------------------------------------------

    def connect(
        self,
        *,
        user: str | None = None,
        topics: Iterable[str] = (),
        last_event_id: str | None = None,
        reconnect_token: str | None = None,
        transport: str = "custom",
        acknowledges: bool = False,
        expires_at: float | None = None,
        may_subscribe: MaySubscribe | None = None,
        **unknown: Never,
    ) -> PendingConnection:
        """Return a connection, to open in an `async with` block.

            async with broadcaster.connect(topics=["orders"]) as connection:
                await sse.serve(connection, scope, receive, send)

        The connection resumes a session if the client presents a valid token, and is fresh
        otherwise. At the end of the block, the session is kept for the next connection.

        Args:
            user: The identified user, `None` for an unidentified client.
            topics: Topics and patterns to subscribe to.
            last_event_id: The event id that the client presents.
            reconnect_token: The reconnect token that the client presents. The token inside
                `last_event_id` is used only without this one.
            transport: A word for statistics and audit.
            acknowledges: True if the client acknowledges, so that the window limits the bytes
                that it has not acknowledged.
            expires_at: The time at which the credentials expire and the connection is closed, in
                seconds since the Unix epoch.
            may_subscribe: A plain or coroutine function that is called with each topic or
                pattern, and returns True if the client may subscribe to it. `None` allows all.

        Returns:
            A connection that begins when its block is entered.

        Raises:
            Refused: The connection may not begin. Raised when the block is entered; `reason` has
                the answer to the client.
            NotRunning, WrongThread, BroadcasterFailed: See `check_running`.
            TypeError: An argument does not exist, or has the wrong type.

        Cancellation:
            A cancelled entry keeps the session, and its token can be presented again. A cancelled
            exit keeps the session, too.
        """
        run = self._running()
        if unknown:
            check_keywords("connect", unknown, ConnectRequest.__slots__)
        request = ConnectRequest(
            None if user is None else UserId(user),
            topics,
            last_event_id,
            reconnect_token,
            transport,
            acknowledges,
            expires_at,
            may_subscribe,
        )
        request.check()
        return PendingConnection(run.handshake, request)

    async def position(self, topics: Iterable[str], *, user: str | None = None) -> str:
        """Return an event id for the end of the log, to render into a page together with its data.

        A client that presents it receives every message that is published to `topics` after this
        call.

        Args:
            topics: Topics and patterns of the client's session.
            user: The identified user, `None` for an unidentified client.

        Raises:
            Refused: A name is not a topic, or there are too many.
            NotRunning, WrongThread, BroadcasterFailed: See `check_running`.
            BrokerUnavailable, OutcomeUnknown: The broker does not answer.

        Cancellation:
            The session may have been created, and expires as any other.
        """
        run = self._running()
        if user is not None:
            check_name("user", user, _USER_FORM)
        return await run.handshake.issue_position(topics, None if user is None else UserId(user))

    def connection(self, id: str, *, user: str | None = None) -> Connection | None:
        """Return the connection with that id, `None` unless it is on this node and of `user`."""
        run = self._built_run()
        found = None if run is None else run.node.registry.get(id)
        return None if found is None or found.user != user else found

    def connections_of(self, user: str) -> list[Connection]:
        """Return all connections of a user on this node, oldest first."""
        run = self._built_run()
        return [] if run is None else list(run.node.registry.of_user(UserId(user)))

    def disconnect(self, connection_id: str, reason: Reason = Reason.REQUESTED) -> bool:
        """Close a connection, and return False if it is not on this node.

        Args:
            connection_id: The id of the connection.
            reason: The reason that its client gets.
        """
        check_type("connection_id", connection_id, str, "the id of a connection, a str")
        check_type("reason", reason, Reason, "a member of Reason")
        run = self._built_run()
        found = None if run is None else run.node.registry.get(connection_id)
        if found is not None:
            found.close(reason)
        return found is not None

    async def reauthorize(self, user: str | None = None) -> None:
        """Call `may_subscribe` again for all topics, and remove the topics that it refuses.

        Only connections of this node are checked, including those in their handshake. A
        connection whose `may_subscribe` raises is closed, and its client reconnects.

        Args:
            user: The user whose connections are checked; `None` checks all connections.

        Raises:
            NotRunning, WrongThread, BroadcasterFailed: See `check_running`.

        Cancellation:
            Some connections may not have been checked.
        """
        if user is not None:
            check_name("user", user, _USER_FORM)
        await self._running().subscriptions.reauthorize(user)

    async def disconnect_user(self, user: str) -> None:
        """Close all connections of a user on this node, and invalidate the user's reconnect tokens.

        Raises:
            NotRunning, WrongThread, BroadcasterFailed: See `check_running`.
            BrokerUnavailable, OutcomeUnknown: The broker does not answer, so tokens may still be
                valid.

        Cancellation:
            Connections or tokens may be left, so call the method again.
        """
        check_name("user", user, _USER_ID)
        await self._running().handshake.disconnect_user(UserId(user))

    async def subscribe(
        self, connection: Connection, topics: Iterable[str]
    ) -> tuple[list[str], list[str]]:
        """Subscribe a live connection to topics, from the present end of the log on.

        The session is saved before this method returns, so a resume on any node includes the
        topics.

        Args:
            connection: A connection of this node.
            topics: Topics and patterns. A topic that the connection has already keeps its since.

        Returns:
            The topics that the connection has now, and the topics that `may_subscribe` refused.

        Raises:
            Refused: A name is not a topic, there are too many, the connection has ended, or the
                broker does not answer. No topic was added.
            NotRunning, WrongThread, BroadcasterFailed: See `check_running`.

        Cancellation:
            The topics may have been added.
        """
        check_type("connection", connection, Connection, _CONNECTION_FORM)
        return await self._running().subscriptions.subscribe(connection, topics)

    async def unsubscribe(self, connection: Connection, topics: Iterable[str]) -> list[str]:
        """Remove topics from a live connection, and drop their waiting messages.

        Args:
            connection: A connection of this node.
            topics: Topics and patterns, exactly as they were subscribed.

        Returns:
            The topics that were removed.

        Raises:
            Refused: A name is not a topic, or there are too many.
            NotRunning, WrongThread, BroadcasterFailed: See `check_running`.

        Cancellation:
            The topics are removed from the connection, but its saved session may still have them.
        """
        check_type("connection", connection, Connection, _CONNECTION_FORM)
        return await self._running().subscriptions.unsubscribe(connection, topics)

    # -- presence and statistics ---------------------------------------------------------------

    async def presence(self, topic: str) -> frozenset[str]:
        """Return the users that are subscribed to a topic, on all nodes.

        The result lags by up to 1 second, and by 10 seconds after a node died. The application
        decides which clients may see it.

        Args:
            topic: A topic or a pattern. Only subscriptions with exactly this text count.

        Raises:
            ConfigurationError: Presence is disabled.
            NotRunning, WrongThread, BroadcasterFailed: See `check_running`.
            BrokerUnavailable, OutcomeUnknown: The broker does not answer.

        Cancellation:
            A cancelled call has no effect on the presence.
        """
        self._running()
        if not self._presence:
            raise ConfigurationError("presence is disabled: pass presence=True to Broadcaster")
        check_name("topic", topic, "a topic or a pattern, a str")
        return await self._broker.presence.users(topic)

    async def online_users(self) -> frozenset[str]:
        """Return the users that have a connection, on all nodes.

        See `presence` for the lag and the errors.

        Cancellation:
            A cancelled call has no effect on the presence.
        """
        return await self.presence(USER_TOPIC)

    def statistics(self) -> Statistics:
        """Return the counts of this node, in time proportional to its connections."""
        run = self._built_run()
        if run is None:
            return statistics_at_rest(self.state.value)
        return run.node.statistics(self.state.value, run.uptime)

    def connection_statistics(
        self, transport: str | None = None, *, limit: int | None = None
    ) -> list[ConnectionStatistics]:
        """Return the statistics of the connections of this node, oldest first.

        Args:
            transport: The transport whose connections are returned; `None` returns all.
            limit: Connections in the result, at most.
        """
        if limit is not None:
            check_number("limit", limit, whole=True, zero=True)
        run = self._built_run()
        return [] if run is None else run.node.connection_statistics(transport, limit)


_STARTABLE = (BroadcasterState.NEW, BroadcasterState.CLOSED)
