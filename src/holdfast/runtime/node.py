"""Node: the connections of one process, and the offset up to which it has delivered the log.

A node is built for one run of a Broadcaster, and belongs to its event loop. Every synchronous
method is complete when it returns.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from ..brokers.protocol import Batch, Broker
from ..core import frames
from ..core.cursor import Head
from ..core.message import OFFSET_ZERO, UserId
from ..core.presence import LocalPresence
from ..core.registry import ConnectionRegistry
from ..core.tokens import ConnectionId, Session
from ..errors import Refused
from ..reasons import Reason
from .audit import AuditAction, AuditTrail
from .background import BackgroundTasks
from .clock import Clock
from .connection import Connection, ConnectionContext, DeliveredLog
from .fanout import FanOut
from .options import Options
from .statistics import ConnectionStatistics, Counters, Statistics
from .timers import ConnectionTimers

_logger = logging.getLogger("holdfast")


class Node:
    """The connections of this process.

    `registry` contains the connections that take part in the fan-out. `connections` contains these
    and the connections that are closing, until their transports return.

    Invariants (tests/runtime/test_node.py): every registered connection is in `connections`; the
    cursor of a connection that has left the fan-out does not move with the node; a batch is
    offered to all connections in one synchronous step, and the delivered offset moves to its end
    before any connection takes a message from it.

    Args:
        broker: The log.
        options: The options of the Broadcaster.
        clock: The clocks of this run.
        audit: Receives security-relevant events.
        head: The end of the log, from which the node begins to deliver.
        presence: Receives the users of each topic; `None` if presence is disabled.
        on_subscribed: Called after a connection has subscribed.
    """

    def __init__(
        self,
        broker: Broker,
        options: Options,
        clock: Clock,
        audit: AuditTrail,
        head: Head,
        *,
        presence: LocalPresence | None = None,
        on_subscribed: Callable[[], None] = lambda: None,
    ) -> None:
        self.broker = broker
        self.options = options
        self.clock = clock
        self.audit = audit
        self._counters = Counters()
        self.log = DeliveredLog(broker, head)
        self.timers = ConnectionTimers(clock.monotonic)
        self.context = ConnectionContext(options, clock, self.log, self.timers)
        self.registry = ConnectionRegistry[Connection](
            options.connection_limits(), presence=presence
        )
        self.on_subscribed = on_subscribed
        self.permissions_version = 0
        """The number of calls of `reauthorize`.

        An answer of `may_subscribe` that was given at a lower number is out of date.
        """
        self._connections: dict[ConnectionId, Connection] = {}
        self._handshakes: dict[ConnectionId, UserId | None] = {}
        self._waiting_for_log: set[Connection] = set()
        self._no_connections = asyncio.Event()
        self._background = BackgroundTasks()
        self._fan_out = FanOut(self.registry, self.log, clock)
        self._is_accepting = True
        self._is_reachable = True

    @property
    def connections(self) -> Collection[Connection]:
        """All connections, oldest first, including those that are closing."""
        return self._connections.values()

    # -- handshakes ----------------------------------------------------------------------------

    @property
    def is_accepting(self) -> bool:
        """True while new connections may begin."""
        return self._is_accepting

    def check_accepting(self, *, replaces: bool = False) -> None:
        """Raise `Refused` if no connection may begin.

        A full node does not refuse a client that presents a token (`replaces`), because the client
        usually takes over a connection, which ends first. The handshake checks again after that.
        """
        if not self._is_accepting:
            raise Refused(Reason.DRAIN, "the server is shutting down")
        if self.registry.is_full and not replaces:
            raise Refused(Reason.OVER_CAPACITY, "the server has no room for more connections")

    def begin_handshake(self, id: ConnectionId, user: UserId | None) -> None:
        """Record the handshake of a connection of `user`."""
        self._handshakes[id] = user

    def end_handshake(self, id: ConnectionId) -> None:
        """Remove the record of a handshake, which has succeeded or failed."""
        self._handshakes.pop(id, None)

    def is_handshake_valid(self, id: ConnectionId) -> bool:
        """Return False if the user was disconnected during the handshake."""
        return id in self._handshakes

    def abort_handshakes(self, user: UserId) -> None:
        """Make all handshakes of `user` invalid."""
        for id in [id for id, other in self._handshakes.items() if other == user]:
            del self._handshakes[id]

    # -- delivery ------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Read the log and deliver it, until cancelled.

        A batch has all messages since the previous one, so batches grow with the load.
        """
        while True:
            self.deliver(await self.broker.follow(self.log.head))
            await asyncio.sleep(self.options.flush_interval or 0)

    def deliver(self, batch: Batch) -> None:
        """Offer the messages of `batch` to their connections, and move to its head."""
        if batch.head.epoch != self.log.epoch:
            # The log was replaced. Close all connections, so that clients resume in the new log.
            # `end` rather than `close`: their event ids name the old log, and must not get marks
            # of the new one.
            for connection in list(self.connections):
                self.end(connection, Reason.FAILED)
            self.log.advance(batch.head)
            return
        if batch.truncated:
            for connection in self.connections:
                connection.delivery.rewind(self.log.delivered_offset)
                connection.wake()
        else:
            self._fan_out.offer(batch.messages)
        self.log.advance(batch.head)
        if self._waiting_for_log:
            self._wake_caught_up()

    def _wake_caught_up(self) -> None:
        """Wake the connections whose clients were ahead of this node, and are not any more."""
        for connection in list(self._waiting_for_log):
            if not connection.delivery.is_ahead_of(self.log.delivered_offset):
                self._waiting_for_log.discard(connection)
                connection.wake()

    def set_reachable(self, is_reachable: bool) -> None:
        """Report `degraded` or `recovered` to every client."""
        self._is_reachable = is_reachable
        if not is_reachable:
            _logger.warning("the broker does not answer; no messages are delivered until it does")
        for connection in list(self.connections):
            self._report_reachable(connection)

    def _report_reachable(self, connection: Connection) -> None:
        kind = "recovered" if self._is_reachable else "degraded"
        connection.put_control(frames.control(kind, self.clock.time()))

    # -- connections ---------------------------------------------------------------------------

    def register(self, connection: Connection, *, resumed: bool) -> None:
        """Add a connection to the fan-out, and close the user's oldest ones beyond the limit."""
        for old in self.registry.add(connection):
            self.end(old, Reason.REPLACED)
        self._connections[connection.id] = connection
        self._no_connections.clear()
        if connection.delivery.is_ahead_of(self.log.delivered_offset):
            self._waiting_for_log.add(connection)
        self._counters.opened += 1
        self._counters.resumed += resumed
        if self.audit.is_on:
            self.audit_connection(AuditAction.CONNECTED, connection, "resumed" if resumed else "")
        if not self._is_reachable:
            self._report_reachable(connection)
        self.on_subscribed()

    def unregister(self, connection: Connection) -> Session:
        """Remove a connection whose transport has returned, and return the session to keep."""
        connection.finish()
        session = connection.last_session()
        self._leave_fan_out(connection)
        if self._connections.get(connection.id) is connection:
            del self._connections[connection.id]
            if self.audit.is_on:
                reason = connection.close_reason
                detail = reason.word if reason else "the client left"
                self.audit_connection(AuditAction.DISCONNECTED, connection, detail)
            connection.count_into(self._counters)
        if not self._connections:
            self._no_connections.set()
        return session

    def take_over(self, id: ConnectionId) -> Connection | None:
        """End the connection whose session was taken over; return it if it is on this node.

        A connection that has ended already, but whose transport has not returned, still has the
        session, and the position of its client.
        """
        connection = self._connections.get(id)
        if connection is not None and connection in self.registry:
            self.audit_connection(AuditAction.TAKEN_OVER, connection, "")
            self.end(connection, Reason.TAKEN_OVER)
        return connection

    def end(self, connection: Connection, reason: Reason) -> None:
        """Take a connection out of the fan-out at once, and close it."""
        self._leave_fan_out(connection)
        connection.close(reason)

    def _leave_fan_out(self, connection: Connection) -> None:
        """Stop offering messages to a connection, and stop its cursor from moving with the node."""
        self._waiting_for_log.discard(connection)
        self.registry.remove(connection)
        connection.delivery.rewind(self.log.delivered_offset)

    def close_all(self, reason: Reason) -> None:
        """Refuse new connections, and close all existing ones."""
        self._is_accepting = False
        for connection in self.connections:
            connection.close(reason)

    async def wait_empty(self) -> None:
        """Wait until all connections have ended."""
        if self._connections:
            await self._no_connections.wait()

    # -- sessions ------------------------------------------------------------------------------

    async def detach(self, id: ConnectionId, session: Session | None) -> None:
        """Give the session of a connection back to the store, even if the caller is cancelled."""
        try:
            await self.broker.tokens.detach(id, session)
        except asyncio.CancelledError:
            self.spawn(self.broker.tokens.detach(id, session))  # a repetition changes nothing
            raise

    def abandon(self, id: ConnectionId) -> None:
        """Give back the session that a failed handshake may have redeemed, without waiting."""
        self.spawn(self.broker.tokens.detach(id, None))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in a background task that survives the cancellation of the caller."""
        self._background.spawn(work, "detach session")

    async def wait_background(self) -> None:
        """Wait for all background tasks."""
        await self._background.wait()

    # -- audit and statistics ------------------------------------------------------------------

    def audit_connection(self, action: AuditAction, connection: Connection, detail: str) -> None:
        """Record an audit event about a connection."""
        user, transport = connection.user, connection.transport
        self.audit.record(action, user, connection.id, transport, detail)

    def count(self, *, published: int = 0, tokens_refused: int = 0, source_errors: int = 0) -> None:
        """Add to the counts of the node."""
        self._counters.published += published
        self._counters.tokens_refused += tokens_refused
        self._counters.source_errors += source_errors

    def void_permissions(self) -> None:
        """Make every answer of an `authorize` hook void that has not been used yet."""
        self.permissions_version += 1

    def statistics(self, state: str, uptime: float) -> Statistics:
        """Return the counts of this node, in time proportional to its connections."""
        total = replace(self._counters)
        for connection in self.connections:
            connection.count_into(total)
        transports = Counter(connection.transport for connection in self.connections)
        return Statistics(
            state=state,
            reachable=self._is_reachable,
            uptime=uptime,
            offset=self.log.delivered_offset,
            connections=len(self.registry),
            users=self.registry.users,
            transports=dict(transports),
            **asdict(total),
        )

    def connection_statistics(
        self, transport: str | None, limit: int | None
    ) -> list[ConnectionStatistics]:
        """Return the statistics of the oldest `limit` connections, of one transport or of all."""
        found = (
            connection
            for connection in self.connections
            if transport is None or connection.transport == transport
        )
        return [connection.statistics() for connection in islice(found, limit)]


def statistics_at_rest(state: str) -> Statistics:
    """Return the statistics of a Broadcaster that is not running."""
    return Statistics(
        state=state,
        reachable=False,
        uptime=0.0,
        offset=OFFSET_ZERO,
        connections=0,
        users=0,
        transports={},
        **asdict(Counters()),
    )
