"""Node: the connections of one process, and how far they were offered the log.

A node is built for one run of a Broadcaster. Everything here is synchronous, belongs to one event
loop, and is complete when it returns.
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

    `registry` has the connections that take part in the fan-out; `connections` also those that
    are closing and whose transport has not returned.

    Invariants (tests/runtime/test_node.py): every registered connection is in `connections`; a
    connection that has left the fan-out keeps the cursor that it had then; nothing waits between
    the first and the last offer of a batch, and the delivered offset moves to the end of the batch
    before any connection takes from it.

    Args:
        broker: the log.
        options: the options of the Broadcaster.
        clock: the clocks of this run.
        audit: receives security-relevant events.
        head: the end of the log, from which the node begins to deliver.
        presence: receives which users are on which topics, `None` if presence is off.
        on_subscribed: called after a connection subscribed.
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
        self.counters = Counters()
        self.log = DeliveredLog(broker, head)
        self.timers = ConnectionTimers(clock.monotonic)
        self.context = ConnectionContext(options, clock, self.log, self.timers)
        self.registry = ConnectionRegistry[Connection](
            options.connection_limits(), presence=presence
        )
        self.on_subscribed = on_subscribed
        self.permissions_version = 0
        """Counts how often rights were withdrawn. An answer from before is void."""
        self._connections: dict[Connection, None] = {}
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
        return self._connections.keys()

    # -- admission -----------------------------------------------------------------------------

    @property
    def is_accepting(self) -> bool:
        """True while new connections may begin."""
        return self._is_accepting

    def check_accepting(self, *, replaces: bool = False) -> None:
        """Raise `Refused` unless one more connection may begin, or replace another."""
        if not self._is_accepting:
            raise Refused(Reason.DRAIN, "the server is shutting down")
        if self.registry.is_full and not replaces:
            raise Refused(Reason.OVER_CAPACITY, "the server has no room for more connections")

    def begin_handshake(self, id: ConnectionId, user: UserId | None) -> None:
        """Note that a connection of `user` is about to begin."""
        self._handshakes[id] = user

    def end_handshake(self, id: ConnectionId) -> None:
        """Note that the handshake is over, whether or not it succeeded."""
        self._handshakes.pop(id, None)

    def is_handshake_valid(self, id: ConnectionId) -> bool:
        """Return False if the user was disconnected meanwhile."""
        return id in self._handshakes

    def abort_handshakes(self, user: UserId) -> None:
        """Make all handshakes of `user` invalid."""
        for id in [id for id, other in self._handshakes.items() if other == user]:
            del self._handshakes[id]

    # -- delivery ------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Read the log and deliver it, until cancelled. One batch has all messages of a tick."""
        while True:
            self.deliver(await self.broker.follow(self.log.head))
            await asyncio.sleep(self.options.flush_interval or 0)

    def deliver(self, batch: Batch) -> None:
        """Offer each message to the connections that may have it."""
        if batch.head.epoch != self.log.epoch:
            # The log was replaced. Close all connections, so that clients resume in the new log.
            # Their cursors must not move with this node any more.
            for connection in list(self._connections):
                self.end(connection, Reason.FAILED)
            self.log.advance(batch.head)
            return
        if batch.truncated:
            for connection in self._connections:
                connection.delivery.rewind(self.log.delivered_offset)
                connection.wake()
        else:
            self._fan_out.offer(batch.messages)
        self.log.advance(batch.head)
        if self._waiting_for_log:
            self._wake_caught_up()

    def _wake_caught_up(self) -> None:
        """Wake connections whose clients had seen more than this node, which has caught up."""
        for connection in list(self._waiting_for_log):
            if not connection.delivery.is_ahead_of(self.log.delivered_offset):
                self._waiting_for_log.discard(connection)
                connection.wake()

    def set_reachable(self, is_reachable: bool) -> None:
        """Report to every client whether published messages can reach it."""
        self._is_reachable = is_reachable
        if not is_reachable:
            _logger.warning("the broker does not answer; nothing is delivered until it does")
        for connection in list(self._connections):
            self._report_reachable(connection)

    def _report_reachable(self, connection: Connection) -> None:
        kind = "recovered" if self._is_reachable else "degraded"
        connection.put_control(frames.control(kind, self.clock.time()))

    # -- connections ---------------------------------------------------------------------------

    def register(self, connection: Connection, *, resumed: bool) -> None:
        """Add a connection to the fan-out, and close the ones that it replaces."""
        for old in self.registry.add(connection):
            self.end(old, Reason.REPLACED)
        self._connections[connection] = None
        self._no_connections.clear()
        if connection.delivery.is_ahead_of(self.log.delivered_offset):
            self._waiting_for_log.add(connection)
        self.counters.opened += 1
        self.counters.resumed += resumed
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
        if connection in self._connections:
            del self._connections[connection]
            if self.audit.is_on:
                reason = connection.close_reason
                detail = reason.word if reason else "the client left"
                self.audit_connection(AuditAction.DISCONNECTED, connection, detail)
            connection.count_into(self.counters)
        if not self._connections:
            self._no_connections.set()
        return session

    def take_over(self, id: ConnectionId) -> Connection | None:
        """End the connection whose session a new connection has; return it if it is here."""
        connection = self.registry.get(id)
        if connection is not None:
            self.audit_connection(AuditAction.TAKEN_OVER, connection, "")
            self.end(connection, Reason.TAKEN_OVER)
        return connection

    def end(self, connection: Connection, reason: Reason) -> None:
        """Take a connection out of the fan-out at once, and close it."""
        self._leave_fan_out(connection)
        connection.close(reason)

    def _leave_fan_out(self, connection: Connection) -> None:
        """Offer nothing more, so the cursor must not move with the node any more."""
        self._waiting_for_log.discard(connection)
        self.registry.remove(connection)
        connection.delivery.rewind(self.log.delivered_offset)

    def close_all(self, reason: Reason) -> None:
        """Accept no connections any more, and close all."""
        self._is_accepting = False
        for connection in self._connections:
            connection.close(reason)

    async def wait_empty(self) -> None:
        """Wait until there is no connection."""
        if self._connections:
            await self._no_connections.wait()

    # -- sessions ------------------------------------------------------------------------------

    async def detach(self, id: ConnectionId, session: Session | None) -> None:
        """Give the session of a connection back to the store, even if the caller is cancelled."""
        try:
            await self.broker.tokens.detach(id, session)
        except asyncio.CancelledError:
            self.spawn(self.broker.tokens.detach(id, session))  # a second detach changes nothing
            raise

    def abandon(self, id: ConnectionId) -> None:
        """Give back the session that a failed handshake may have got, without waiting."""
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

    def statistics(self, state: str, uptime: float) -> Statistics:
        """Return a snapshot. Costs time in proportion to the connections."""
        total = replace(self.counters)
        for connection in self._connections:
            connection.count_into(total)
        transports = Counter(connection.transport for connection in self._connections)
        return Statistics(
            state=state,
            reachable=self._is_reachable,
            uptime=uptime,
            position=self.log.delivered_offset,
            connections=len(self.registry),
            users=self.registry.users,
            transports=dict(transports),
            **asdict(total),
        )

    def connection_statistics(
        self, transport: str | None, limit: int | None
    ) -> list[ConnectionStatistics]:
        """Return a snapshot of each connection (of one transport), the oldest `limit` of them."""
        found = (
            connection
            for connection in self._connections
            if transport is None or connection.transport == transport
        )
        return [connection.statistics() for connection in islice(found, limit)]


def statistics_at_rest(state: str) -> Statistics:
    """Return the snapshot of a Broadcaster that is not running."""
    return Statistics(
        state=state,
        reachable=False,
        uptime=0.0,
        position=OFFSET_ZERO,
        connections=0,
        users=0,
        transports={},
        **asdict(Counters()),
    )
