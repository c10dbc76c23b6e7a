"""Node: this process's part of the system: its connections, and how far it has delivered.

Everything here is synchronous, of one event loop, and complete when it returns.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from ..brokers.protocol import Batch, Broker, Head
from ..core.connection import CloseReason, Connection, Event, State
from ..core.cursor import Epoch
from ..core.log.pages import DirectPage, PageRequest
from ..core.message import OFFSET_ZERO, Gap, UserId
from ..core.registry import ConnectionRegistry
from ..core.tokens import ConnectionId, Position, Session
from ..errors import BrokerUnavailable, OutcomeUnknown, Refused
from . import frames
from .audit import AuditAction, AuditEvent, AuditHook
from .connection import Outbox
from .fanout import FanOut
from .options import Options
from .statistics import Counters
from .timers import ConnectionTimers

_logger = logging.getLogger("holdfast")

AGAIN = 0.5
"""Seconds until a page is asked for again that could not be read."""


class Node:
    """The connections of this process and their outboxes.

    `registry` holds the connections that take part in the fan-out, `outboxes` also those that were
    told to end and whose transport has not returned.

    Invariants (tests/runtime/test_node.py): every connection of `registry` has an outbox; one
    that has left the fan-out keeps the cursor that it had then; between the first and the last
    offer of a batch nothing waits, and `ingested` moves to its end before any outbox can look.
    """

    def __init__(
        self, broker: Broker, options: Options, clock: Callable[[], float], audit: AuditHook | None
    ) -> None:
        self.broker = broker
        self.options = options
        self.clock = clock
        self.monotonic: Callable[[], float] = time.monotonic
        """Seconds of the event loop's clock; the lifecycle sets it."""
        self.registry = ConnectionRegistry(options.connection_limits())
        self.counters = Counters()
        self.outboxes: dict[Connection, Outbox] = {}
        self.epoch = Epoch("")
        self.ingested = OFFSET_ZERO
        """The offset up to which the live feed has been fanned out."""
        self.is_open = False
        """Whether connections may begin."""
        self.admitting: dict[ConnectionId, UserId | None] = {}
        """Who is being let in; whoever is taken out meanwhile does not get in."""
        self.rights = 0
        """Counts how often rights were withdrawn: what was asked before does not hold."""
        self.is_reachable = True
        """Whether the broker answers; while it does not, nothing is delivered."""
        broker.on_availability(self._reachable)
        self.emptied = asyncio.Event()
        """Set whenever the last connection has gone."""
        self.on_listeners: Callable[[], None] = lambda: None
        """Called when somebody subscribed."""
        self._audit = audit
        self.upkeep = ConnectionTimers(self)
        self._fan_out = FanOut(self)
        self._ahead: set[Outbox] = set()
        self._under_way: set[asyncio.Task[Any]] = set()

    def begin(self, head: Head) -> None:
        """Start to deliver what follows `head`."""
        self.epoch, self.ingested = head.epoch, head.offset
        self.emptied = asyncio.Event()
        self._fan_out = FanOut(self)  # of this loop, if another one ran before
        self.is_open = True

    def check_open(self, *, takes_over: bool = False) -> None:
        """Raise `Refused` unless one more connection may begin, or take the place of another."""
        if not self.is_open:
            raise Refused("drain", "shutting down", status=503, close_code=1012)
        if self.registry.is_full and not takes_over:
            raise Refused("over_capacity", "no more connections", status=503, close_code=4006)

    # -- fan-out -------------------------------------------------------------------------------

    def deliver(self, batch: Batch) -> None:
        """Offer each message to whoever may have it; see to it that they get it."""
        if batch.head.epoch != self.epoch:
            # Another log: everybody comes back, and is told what became of the old one. How far
            # they have come in that one must not move with this node any more.
            for outbox in list(self.outboxes.values()):
                self.end(outbox, CloseReason.FAILED)
            self.epoch, self.ingested = batch.head.epoch, batch.head.offset
            return
        if batch.truncated:
            for connection, outbox in self.outboxes.items():
                connection.delivery.rewind(self.ingested)
                outbox.wake()
        else:
            self._fan_out.offer(batch.messages)
        self.ingested = batch.head.offset
        if self._ahead:
            self._wake_those_ahead()

    def _wake_those_ahead(self) -> None:
        """Go on with clients that had seen more than this node; now it may have come as far."""
        for outbox in list(self._ahead):
            if not outbox.connection.delivery.is_ahead_of(self.ingested):
                self._ahead.discard(outbox)
                outbox.wake()

    async def read_page(
        self, connection: Connection, request: PageRequest, room: int
    ) -> DirectPage | None:
        """Fill a lane that catches up with its next page, by the subscriptions of now.

        Returns what is to be handed over at once (`Delivery.fill`).
        """
        subscriptions = connection.subscriptions
        try:
            page = await self.broker.read(self.epoch, request, subscriptions, connection.user)
        except (BrokerUnavailable, OutcomeUnknown):
            await asyncio.sleep(AGAIN)  # the client has been told `degraded`, and waits
            return None
        if connection.state is not State.OPEN:  # it was told to end, and gets nothing more
            return None
        if subscriptions is not connection.subscriptions:  # it has what is no longer allowed
            return None
        if page is None:  # the log is gone, as everybody will be told at once
            self.end(self.outboxes[connection], CloseReason.FAILED)
            return None
        return connection.delivery.fill(request, page, self.ingested, room=room)

    # -- who is here ---------------------------------------------------------------------------

    def register(self, outbox: Outbox, *, resumed: bool) -> None:
        """From here on the fan-out knows the connection; the user's excess ones are closed."""
        connection = outbox.connection
        for old in self.registry.add(connection):
            self.end(self.outboxes[old], CloseReason.REPLACED)
        self.outboxes[connection] = outbox
        if connection.delivery.is_ahead_of(self.ingested):
            self._ahead.add(outbox)
        self.counters.opened += 1
        self.counters.resumed += resumed
        self.note_connection(AuditAction.CONNECTED, connection, "resumed" if resumed else "")
        self.upkeep.watch(outbox)
        if not self.is_reachable:
            self._tell_reachable(outbox)
        self.on_listeners()

    def unregister(self, outbox: Outbox) -> None:
        """The connection is over; doing it again changes nothing."""
        connection, session = outbox.connection, outbox.connection.session
        connection.handle(Event.FINISHED)
        outbox.wake()
        self._ahead.discard(outbox)
        if session.connection == connection.id and not session.acknowledged:
            session.position = Position(outbox.epoch, outbox.cursor())
        self._leave_fan_out(connection)
        if self.outboxes.pop(connection, None) is not None:
            reason = connection.close_reason
            self.upkeep.forget(outbox)
            detail = reason.text if reason else "the client left"
            self.note_connection(AuditAction.DISCONNECTED, connection, detail)
        if not outbox.accounted:
            outbox.accounted = True
            self.counters.add_account(connection, outbox)
        if not self.outboxes:
            self.emptied.set()

    async def detach(self, session: Session, id: ConnectionId) -> None:
        """Give a session back to the tokens, whatever happens to the caller."""
        try:
            await self.broker.tokens.detach(session, id)
        except asyncio.CancelledError:
            self.run_to_end(self.broker.tokens.detach(session, id))  # again changes nothing
            raise

    def abandon(self, id: ConnectionId) -> None:
        """Give back whatever session a connection that is not to be may have got."""
        self.run_to_end(self.broker.tokens.abandon(id))

    def run_to_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what must come to its end, though the client that it is for may be gone."""
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("what had to come to its end did not", exc_info=error)

    async def finish(self) -> None:
        """Wait for all that was started."""
        while self._under_way:
            await asyncio.wait(list(self._under_way))

    def outbox_of(self, id: str) -> Outbox | None:
        """The outbox of a connection that takes part in the fan-out."""
        connection = self.registry.get(id)
        return None if connection is None else self.outboxes[connection]

    def take_over(self, id: ConnectionId) -> None:
        """A newcomer has the session of this connection, which the client no longer uses."""
        outbox = self.outbox_of(id)
        if outbox is not None:
            self.note_connection(AuditAction.TAKEN_OVER, outbox.connection, "")
            self.end(outbox, CloseReason.TAKEN_OVER)

    def end(self, outbox: Outbox, reason: CloseReason) -> None:
        """Take a connection out of the fan-out at once, and tell it to end."""
        self._leave_fan_out(outbox.connection)
        outbox.close(reason)

    def _leave_fan_out(self, connection: Connection) -> None:
        """Nothing is offered any more, so the cursor must not move with the node any more."""
        self.registry.remove(connection)
        connection.delivery.rewind(self.ingested)

    def close_all(self, reason: CloseReason) -> None:
        """Tell every connection to end."""
        for outbox in self.outboxes.values():
            outbox.close(reason)

    def _reachable(self, is_reachable: bool) -> None:
        """Tell every client whether what is published can reach it."""
        self.is_reachable = is_reachable
        if not is_reachable:
            _logger.warning("the broker does not answer; nothing is delivered until it does")
        for outbox in list(self.outboxes.values()):
            self._tell_reachable(outbox)

    def _tell_reachable(self, outbox: Outbox) -> None:
        kind = "recovered" if self.is_reachable else "degraded"
        outbox.put(frames.control(kind, self.clock()))

    # -- counting and telling ------------------------------------------------------------------

    def count_gap(self, entry: Gap) -> None:
        """A gap frame goes out."""
        self.counters.gaps += 1
        self.counters.lost += entry.count or 0

    @property
    def resumable_for(self) -> float:
        """For how many seconds a resume can work if a connection were cut now."""
        lifetime, age = self.broker.token_lifetime, self.broker.history_age
        return lifetime if age is None else min(lifetime, age)

    def note(
        self,
        action: AuditAction,
        user: str | None = None,
        connection: str | None = None,
        transport: str | None = None,
        detail: str = "",
    ) -> None:
        """Tell the audit hook, if there is one."""
        if self._audit is None:
            return
        event = AuditEvent(
            action=action,
            at=self.clock(),
            user=user,
            connection=connection,
            transport=transport,
            detail=detail,
        )
        try:
            self._audit(event)
        except Exception:
            _logger.exception("the audit hook failed on %s", action.value)

    def note_connection(self, action: AuditAction, connection: Connection, detail: str) -> None:
        """The same, about a connection."""
        if self._audit is not None:
            self.note(action, connection.user, connection.id, connection.transport, detail)
