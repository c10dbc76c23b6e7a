"""Broadcaster: what an application calls; each kind of work is done by a part of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Self

from typing_extensions import Unpack

from ..brokers.protocol import Broker
from ..core.connection import CloseReason
from ..core.message import Offset, Priority, UserId
from ..core.presence import LocalPresence
from ..core.topics import USER_TOPIC
from ..errors import ConfigurationError
from .audit import AuditAction, AuditHook
from .connection import Outbox
from .handshake import Handshake
from .lifecycle import DRAIN_TIMEOUT, BroadcasterState, Lifecycle
from .node import Node
from .opening import ConnectRequest, Opening
from .options import Options, OptionsDict
from .periodic import PeriodicSource, Source
from .presence import PresenceHook
from .publishing import PublishOptions, make_draft
from .statistics import ConnectionStatistics, Statistics, of_connections, of_node
from .subscriptions import MaySubscribe, Subscriber


class Broadcaster:
    """Publishes to a broker's log and delivers from it to the connections of this process.

        async with Broadcaster() as broadcaster:
            await broadcaster.publish("orders", {"id": 7}, priority=Priority.HIGH)

    It belongs to the event loop in which it is entered. `Options` lists the keyword arguments;
    `clock` gives seconds since the Unix epoch. `presence` keeps account of which users are where,
    over all nodes, and calls the hook, if it is one, for each who comes or goes. All tasks live
    between enter and exit; if one dies, every connection is closed and `publish` raises
    `BroadcasterFailed`.
    """

    def __init__(
        self,
        *,
        broker: Broker | None = None,
        audit: AuditHook | None = None,
        presence: bool | PresenceHook = False,
        clock: Callable[[], float] = time.time,
        **options: Unpack[OptionsDict],
    ) -> None:
        self.options = Options(**options)
        self._node = Node(self.options.broker(broker, clock), self.options, clock, audit)
        hook = None if isinstance(presence, bool) else presence
        if presence:
            self._node.registry.attendance = LocalPresence()
        self._life = Lifecycle(self._node, self.publish, hook)
        self._subscriber = Subscriber(self._node)
        self._admission = Handshake(self._node, self._subscriber)

    # -- life ----------------------------------------------------------------------------------

    @property
    def state(self) -> BroadcasterState:
        """Where it is in its life."""
        return self._life.state

    async def __aenter__(self) -> Self:
        await self._life.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._life.stop()

    def begin_drain(self) -> None:
        """Let nobody in any more and tell every connection to end; does not wait."""
        self._life.begin_drain()

    async def drain(self, within: float = DRAIN_TIMEOUT) -> bool:
        """`begin_drain`, then wait up to `within` seconds; whether all connections ended.

        Clients are told to reconnect, and resume elsewhere, or here after a restart.
        """
        return await self._life.drain(within)

    def check_running(self) -> None:
        """Raise unless messages can be published and delivered, from where this is called."""
        self._life.check_running()

    # -- what the edges ask --------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the Unix epoch, by the clock that was given."""
        return self._node.clock()

    def audit(
        self,
        action: AuditAction,
        *,
        user: str | None = None,
        transport: str | None = None,
        detail: str = "",
    ) -> None:
        """Tell the audit hook, if there is one."""
        self._node.note(action, user, None, transport, detail)

    def has_listeners(self, topic: str) -> bool:
        """Whether anybody here is subscribed to `topic`, directly or by a pattern."""
        return self._node.registry.has_listeners(topic)

    def is_admitting(self) -> bool:
        """Whether new connections are let in: running, and not told to drain."""
        return self._node.is_open

    # -- publishing ----------------------------------------------------------------------------

    async def publish(
        self,
        topic: str,
        data: object,
        *,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
        ttl: float | None = None,
        to_user: str | None = None,
        idempotency_key: str | None = None,
    ) -> Offset:
        """Publish `data` to a topic and return its offset; from then on it can be read.

        `data` is what `json.dumps` takes, encoded before this waits for anything. With `key`, it
        supersedes what is pending of that topic and key. After `ttl` seconds it is no longer
        delivered. With `to_user`, only that user's subscribers get it. Raises `PublishError`
        before anything is queued. When cancelled, it may have been published; repeating it with
        the same `idempotency_key` does not publish twice.
        """
        self.check_running()
        draft = make_draft(
            topic,
            data,
            priority=priority,
            key=key,
            ttl=ttl,
            to_user=to_user,
            idempotency_key=idempotency_key,
            now=self._node.clock(),
            max_bytes=self.options.max_message_bytes,
        )
        head = await self._node.broker.publish(draft)
        self._node.counters.published += 1
        return head.offset

    async def publish_to_user(
        self, user: str, data: object, **options: Unpack[PublishOptions]
    ) -> Offset:
        """Publish to all connections of one user, whatever they subscribe to (topic `$user`)."""
        return await self.publish(USER_TOPIC, data, to_user=user, **options)

    def publish_from_thread(
        self,
        topic: str,
        data: object,
        *,
        to_user: str | None = None,
        timeout: float | None = None,
        **options: Unpack[PublishOptions],
    ) -> Offset:
        """`publish` for worker threads: blocks until it is done, `TimeoutError` after `timeout`.

        After a timeout the message may have been published, as after a cancellation.
        """
        return self._life.block_on(timeout, self.publish, topic, data, to_user=to_user, **options)

    def periodic(
        self,
        topic: str,
        source: Source,
        *,
        interval: float,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
        ttl: float | None = None,
    ) -> PeriodicSource:
        """Publish what `source` returns every `interval` seconds, while somebody listens.

        A plain function is called in a worker thread; one that looks at this Broadcaster, or at
        anything else of the event loop, must therefore be a coroutine function.
        """
        options = PublishOptions(priority=priority, key=key, ttl=ttl)
        max_bytes = self.options.max_message_bytes
        made = PeriodicSource(topic, source, interval, options, max_bytes=max_bytes)
        self._life.add_source(made)
        return made

    # -- connections ---------------------------------------------------------------------------

    def connect(
        self,
        *,
        user: str | None = None,
        topics: Iterable[str] = (),
        last_event_id: str | None = None,
        token: str | None = None,
        transport: str = "custom",
        acknowledges: bool = False,
        expires_at: float | None = None,
        may_subscribe: MaySubscribe | None = None,
    ) -> Opening:
        """Open a connection: resumed if `last_event_id` or `token` allow it, fresh otherwise.

            async with broadcaster.connect(topics=["orders"]) as outbox:
                ...

        Hand the outbox to a transport (`holdfast.transports`). With
        `acknowledges`, no more than a window of what was sent is unacknowledged
        (`Outbox.acknowledge`). Raises `Refused`. On leaving, the session is kept for a resume.
        """
        self._life.check_running()
        known = None if user is None else UserId(user)
        hello = ConnectRequest(
            known, topics, last_event_id, token, transport, acknowledges, expires_at, may_subscribe
        )
        return Opening(self._admission, hello)

    async def position(self, topics: Iterable[str], *, user: str | None = None) -> str:
        """An event id of now, to render into a page together with the state it shows.

        A client that presents it gets everything published to `topics` after this call.
        """
        self.check_running()
        return await self._admission.prepare(topics, None if user is None else UserId(user))

    def outbox(self, connection_id: str, user: str | None = None) -> Outbox | None:
        """The outbox of that connection, if it is here and the user's."""
        outbox = self._node.outbox_of(connection_id)
        return None if outbox is None or outbox.connection.user != user else outbox

    def outboxes_of(self, user: str) -> list[Outbox]:
        """All outboxes of a user."""
        outboxes = self._node.outboxes
        return [outboxes[connection] for connection in self._node.registry.of_user(UserId(user))]

    def disconnect(self, connection_id: str, reason: CloseReason = CloseReason.REQUESTED) -> bool:
        """End a connection; `False` if it is not here."""
        outbox = self._node.outbox_of(connection_id)
        if outbox is not None:
            outbox.close(reason)
        return outbox is not None

    async def reauthorize(self, user: str | None = None) -> None:
        """Ask again what a user (`None`: everybody) may see; drop what is no longer allowed.

        Connections that are just being opened ask again, too.
        """
        await self._subscriber.reauthorize(user)

    async def logout(self, user: str) -> None:
        """End all connections of a user, and make the tokens of those that were there useless."""
        await self._admission.turn_out(UserId(user))

    async def subscribe(self, outbox: Outbox, topics: Iterable[str]) -> tuple[list[str], list[str]]:
        """Add topics to a live connection, from now on; return (accepted, rejected).

        Raises `Refused` for a name that is no topic, or for too many.
        """
        self.check_running()
        return await self._subscriber.subscribe(outbox, topics)

    async def unsubscribe(self, outbox: Outbox, topics: Iterable[str]) -> list[str]:
        """Remove topics, and drop what is pending for them; return those that were held."""
        self.check_running()
        return await self._subscriber.unsubscribe(outbox, topics)

    async def present(self, topic: str) -> frozenset[str]:
        """The users who are on a topic (or have subscribed to that very pattern), on any node.

        Needs `presence`. It lags by up to a second, and by ten where a node died. Who may see it is
        for the application to decide.
        """
        self.check_running()
        if self._node.registry.attendance is None:
            raise ConfigurationError("nobody is counted: make the Broadcaster with presence=True")
        return await self._node.broker.presence.users(topic)

    async def online(self) -> frozenset[str]:
        """The users who have a connection, on any node (see `present`)."""
        return await self.present(USER_TOPIC)

    def statistics(self) -> Statistics:
        """A snapshot of counts; costs time in proportion to the connections."""
        return of_node(self._node, self.state.value, self._life.uptime)

    def connection_statistics(
        self, transport: str | None = None, *, limit: int | None = None
    ) -> list[ConnectionStatistics]:
        """A snapshot of every connection (of one transport), the oldest `limit` of them."""
        return of_connections(self._node, transport, limit)
