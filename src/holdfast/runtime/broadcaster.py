"""Broadcaster: the object that an application uses. Each kind of work has a module of its own."""

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
from ..errors import BroadcasterFailed, ConfigurationError, NotRunning, WrongThread
from ..reasons import Reason
from .audit import AuditAction, AuditHook
from .connection import Connection, MaySubscribe
from .handshake import ConnectRequest, PendingConnection
from .lifecycle import DRAIN_TIMEOUT, BroadcasterRun, BroadcasterState
from .node import statistics_at_rest
from .options import DEFAULTS, Options
from .periodic import PeriodicSource, Source
from .presence import PresenceHook
from .statistics import ConnectionStatistics, Statistics

_USER_FORM = "the id of a user, a str that is not empty, or None"
_CONNECTION_FORM = "a Connection, such as broadcaster.connection(id, user=user)"
_OPTIONS = ("broker", "audit", "presence", "clock", *Options.__slots__)


class Broadcaster:
    """Publishes to a broker's log, and delivers from it to the connections of this process.

        async with Broadcaster() as broadcaster:
            await broadcaster.publish("orders", {"id": 7}, priority=Priority.HIGH)

    It belongs to the event loop in which it is started. It can be started in one task and stopped
    in another, and started again after it has stopped, in another event loop too: between two
    runs it holds only its options and its broker. If a background task dies, every connection is
    closed, and `publish` raises `BroadcasterFailed`.

    Args:
        broker: the log; by default one in the memory of this process.
        audit: called with each security-relevant `AuditEvent`, in the event loop.
        presence: True keeps account of the present users over all nodes; a hook is also called
            for each `PresenceChange`.
        clock: returns seconds since the Unix epoch.
        buffer_capacity: messages that wait for one connection, at most (default 100).
        buffer_bytes: bytes that wait for one connection, at most (2 MiB).
        max_message_bytes: bytes of one encoded message (1 MiB).
        history_limit: messages kept per topic, user and lane (1000; memory broker only, as all
            options of `history_` and `token_`).
        history_age: seconds that a message is kept (3600).
        history_bytes: bytes kept per topic, user and lane (16 MiB).
        token_lifetime: seconds that a reconnect token is valid after its connection went (86400).
        token_grace: seconds that the previous token is valid after its connection went (60).
        heartbeat_interval: seconds that a connection may be silent (30); None sends no heartbeats.
        idle_timeout: seconds without a sign of life from the client until its connection is
            closed (1800); None never closes it.
        send_timeout: seconds that one send, or an acknowledgement, may take (60); None for ever.
        window_bytes: bytes that may be unacknowledged by a client that acknowledges (1 MiB); None
            switches the window off.
        cleanup_interval: seconds between two sweeps of the broker (300).
        flush_interval: seconds between two deliveries, at least (None: each turn of the loop).
        max_connections: connections of this process (20,000).
        max_connections_per_user: connections of one identified user (20).
        max_topics: topics of one connection (200).
        drain_at_signal: end the streams at SIGTERM and SIGINT (True). Without it, call
            `begin_drain` before the server waits for its streams.

    Raises:
        ConfigurationError: an option cannot work.
        TypeError: an option does not exist.
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

    # -- life ----------------------------------------------------------------------------------

    @property
    def state(self) -> BroadcasterState:
        """The phase of its life."""
        return BroadcasterState.NEW if self._run is None else self._run.state

    async def start(self) -> None:
        """Start the broker and the background tasks; `async with` does it, too.

        Raises:
            NotRunning: it is running already.
            BrokerUnavailable: the broker's server cannot be reached.

        Cancellation: nothing is left running.
        """
        if self._starting is not None or self.state not in _STARTABLE:
            raise NotRunning("this Broadcaster is running already: start it once, in one place")
        run = BroadcasterRun(
            self._broker,
            self.options,
            time=self._clock,
            audit=self._audit,
            presence=self._presence,
            publish=self.publish,
        )
        self._starting = run.loop.create_future()
        before, self._run = self._run, run
        try:
            await run.start(self._sources)
        except BaseException:
            self._run = before
            raise
        finally:
            self._starting.set_result(None)
            self._starting = None

    async def stop(self) -> None:
        """Drain, end all background tasks and close the broker; `async with` does it, too.

        Cancellation: does not cut it short; it is raised afterwards.
        """
        if self._run is not None and self._run.state not in _STARTABLE:
            await self._run.stop()

    async def ensure_started(self) -> None:
        """Start, unless this was ever started before. Concurrent calls start it once."""
        if self._starting is not None:
            await asyncio.shield(self._starting)
        elif self._run is None:
            await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def begin_drain(self) -> None:
        """Accept no connections any more, and close all; does not wait."""
        run = self._built_run()
        if run is not None:
            run.begin_drain()

    async def drain(self, timeout: float = DRAIN_TIMEOUT) -> bool:  # noqa: ASYNC109
        """`begin_drain`, then wait up to `timeout` seconds.

        Clients reconnect, and resume on another node, or here after a restart.

        Returns:
            True if all connections have ended.
        """
        check_number("timeout", timeout, zero=True)
        run = self._built_run()
        return run is None or await run.drain(timeout)

    def check_running(self) -> None:
        """Raise unless messages can be published and delivered, from where this is called.

        Raises:
            BroadcasterFailed: a background task died.
            NotRunning: it was not started, or has stopped.
            WrongThread: the caller is in another thread or event loop.
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
            raise WrongThread("call this in the Broadcaster's event loop, or publish_from_thread")
        return run

    # -- called by LiveApp ---------------------------------------------------------------------

    def now(self) -> float:
        """Return seconds since the Unix epoch, by the clock that was given."""
        return self._clock()

    def audit(
        self,
        action: AuditAction,
        *,
        user: str | None = None,
        transport: str | None = None,
        detail: str = "",
    ) -> None:
        """Call the audit hook, if there is one."""
        run = self._built_run()
        if run is not None:
            run.node.audit.record(action, user, None, transport, detail)

    def has_listeners(self, topic: str) -> bool:
        """Return True if a connection here is subscribed to `topic`, also by a pattern."""
        run = self._built_run()
        return run is not None and run.node.registry.has_listeners(topic)

    @property
    def is_accepting(self) -> bool:
        """True while new connections are admitted: running, and not draining."""
        run = self._built_run()
        return run is not None and run.node.is_accepting

    # -- publishing ----------------------------------------------------------------------------

    async def publish(self, topic: str, data: object, **options: Unpack[PublishOptions]) -> Offset:
        """Publish `data` to a topic. On return, every node can read it.

        Args:
            topic: a topic name, not a pattern.
            data: anything that `json.dumps` accepts, encoded before this waits for anything.
            priority: `Priority.NORMAL` by default. A higher priority overtakes all lower ones.
            key: the message supersedes pending messages of the same topic, addressee and key.
            ttl: seconds after which the message is no longer delivered; `None` for no limit.
            to_user: only this user's subscribers get the message.
            idempotency_key: a second publish with the same key returns the offset of the first,
                and publishes nothing.

        Returns:
            the offset of the message in the log.

        Raises:
            PublishError: the message cannot be published; nothing was queued.
            NotRunning, WrongThread, BroadcasterFailed: see `check_running`.
            BrokerUnavailable: the broker does not answer, or refuses; nothing was published.
            OutcomeUnknown: the connection to the broker broke before the answer came.

        Cancellation: the message may have been published. Repeating it with the same
        `idempotency_key` does not publish it twice.
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
        run.node.counters.published += 1
        return head.offset

    async def publish_to_user(
        self, user: str, data: object, **options: Unpack[PublishOptions]
    ) -> Offset:
        """Publish to all connections of one user, whatever they subscribe to (topic `$user`).

        See `publish` for options, errors and cancellation.
        """
        check_name("user", user, "the id of a user, a str that is not empty")
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
        """Publish from a worker thread, and block until that is done.

        Args:
            timeout: seconds to wait, `None` for ever.

        Raises:
            TimeoutError: the message may have been published, as after a cancellation.
            WrongThread: called in an event loop, which this would block.

        See `publish` for the other arguments and errors.
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

        A plain function is called in a worker thread; a source that uses this Broadcaster, or
        anything else of the event loop, must therefore be a coroutine function. A result of
        `None` is not published. See `publish` for the options.

        Returns:
            the source, whose `cancel` stops it for good.

        Raises:
            ConfigurationError: `interval` is not a number over 0.
            PublishError: `topic` or `options` cannot be published with.
        """
        made = PeriodicSource(
            topic, source, interval, options, max_bytes=self.options.max_message_bytes
        )
        self._sources = [known for known in self._sources if not known.is_cancelled]
        self._sources.append(made)
        if self._run is not None:
            self._run.add_source(made)
        return made

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
        """Open a connection: resumed if the client presents something valid, fresh otherwise.

            async with broadcaster.connect(topics=["orders"]) as connection:
                await sse.serve(connection, scope, receive, send)

        When the block is left, the session is kept for a resume.

        Args:
            user: the identified user, `None` for an unidentified client.
            topics: topics and patterns to subscribe to.
            last_event_id: the event id that the client presents.
            reconnect_token: a token that counts before the one inside `last_event_id`.
            transport: a word for statistics and audit.
            acknowledges: the client acknowledges, so that at most a window of bytes is on its way.
            expires_at: seconds since the Unix epoch when the credentials, and the connection, end.
            may_subscribe: asked for each topic; `None` allows all.

        Raises:
            Refused: when the block is entered; the client is to be answered with its reason.
            NotRunning, WrongThread, BroadcasterFailed: see `check_running`.
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
        """Return an event id of now, to render into a page together with the state it shows.

        A client that presents it gets everything that is published to `topics` after this call.
        """
        run = self._running()
        if user is not None:
            check_name("user", user, _USER_FORM)
        return await run.handshake.issue_position(topics, None if user is None else UserId(user))

    def connection(self, id: str, *, user: str | None = None) -> Connection | None:
        """Return the connection with that id, if it is on this node and belongs to `user`."""
        run = self._built_run()
        found = None if run is None else run.node.registry.get(id)
        return None if found is None or found.user != user else found

    def connections_of(self, user: str) -> list[Connection]:
        """Return all connections of a user on this node, oldest first."""
        run = self._built_run()
        return [] if run is None else list(run.node.registry.of_user(UserId(user)))

    def disconnect(self, connection_id: str, reason: Reason = Reason.REQUESTED) -> bool:
        """End a connection; return False if it is not on this node."""
        check_type("connection_id", connection_id, str, "the id of a connection, a str")
        check_type("reason", reason, Reason, "a member of Reason")
        run = self._built_run()
        found = None if run is None else run.node.registry.get(connection_id)
        if found is not None:
            found.close(reason)
        return found is not None

    async def reauthorize(self, user: str | None = None) -> None:
        """Ask for the rights of a user (`None`: of everybody) again, and drop what is refused.

        Connections that are just being opened ask again, too.
        """
        if user is not None:
            check_name("user", user, _USER_FORM)
        await self._running().subscriptions.reauthorize(user)

    async def disconnect_user(self, user: str) -> None:
        """End all connections of a user on this node, and make their reconnect tokens useless."""
        check_name("user", user, "the id of a user, a str that is not empty")
        await self._running().handshake.disconnect_user(UserId(user))

    async def subscribe(
        self, connection: Connection, topics: Iterable[str]
    ) -> tuple[list[str], list[str]]:
        """Add topics to a live connection, from now on.

        Returns:
            the topics that were added or already held, and the rejected ones.

        Raises:
            Refused: a name is not a topic, there are too many, or the connection has ended.
        """
        check_type("connection", connection, Connection, _CONNECTION_FORM)
        return await self._running().subscriptions.subscribe(connection, topics)

    async def unsubscribe(self, connection: Connection, topics: Iterable[str]) -> list[str]:
        """Remove topics, and drop what is pending for them; return the ones that were held."""
        check_type("connection", connection, Connection, _CONNECTION_FORM)
        return await self._running().subscriptions.unsubscribe(connection, topics)

    # -- presence and statistics ---------------------------------------------------------------

    async def presence(self, topic: str) -> frozenset[str]:
        """Return the users on a topic (or subscribed to that very pattern), on any node.

        The answer lags by up to a second, and by ten where a node died. The application decides
        who may see it.

        Raises:
            ConfigurationError: presence is disabled.
        """
        self._running()
        if not self._presence:
            raise ConfigurationError("presence is disabled: pass presence=True to Broadcaster")
        check_name("topic", topic, "a topic or a pattern, a str")
        return await self._broker.presence.users(topic)

    async def online_users(self) -> frozenset[str]:
        """Return the users who have a connection, on any node (see `presence`)."""
        return await self.presence(USER_TOPIC)

    def statistics(self) -> Statistics:
        """Return a snapshot of counts. Costs time in proportion to the connections."""
        run = self._built_run()
        if run is None:
            return statistics_at_rest(self.state.value)
        return run.node.statistics(self.state.value, run.uptime)

    def connection_statistics(
        self, transport: str | None = None, *, limit: int | None = None
    ) -> list[ConnectionStatistics]:
        """Return a snapshot of each connection (of one transport), the oldest `limit` of them."""
        if limit is not None:
            check_number("limit", limit, whole=True, zero=True)
        run = self._built_run()
        return [] if run is None else run.node.connection_statistics(transport, limit)


_STARTABLE = (BroadcasterState.NEW, BroadcasterState.CLOSED)
