"""How a connection begins: token, position, rights of now, first frame.

    nothing presented                       fresh
    token accepted, position in the log     resumed, or gap if something after it was trimmed
    token accepted, no usable position      from the stored one; a gap unless that was acknowledged
    token refused, or no such log           gap: from now on, cause "restart" or "unknown"

A bad token or event id is never an error: a browser's EventSource would give up for good.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ..brokers.protocol import Head
from ..core.connection import CloseReason, Connection
from ..core.cursor import Cursor, Epoch, EventId
from ..core.delivery.buffer import PriorityBuffer
from ..core.delivery.lanes import EVERY_LANE, NO_LANE, Delivery
from ..core.log.pages import ReplaySummary
from ..core.message import OFFSET_ZERO, Offset, Priority, UserId
from ..core.tokens import (
    NONE_REFUSED,
    ConnectionId,
    Position,
    RedeemStatus,
    Session,
    Token,
    base64url,
)
from ..core.topics import USER_TOPIC
from ..errors import BrokerUnavailable, OutcomeUnknown, Refused
from . import frames
from .audit import AuditAction
from .connection import Outbox
from .frames import GapCause
from .opening import ConnectRequest
from .subscriptions import Subscriber, check_topics

if TYPE_CHECKING:
    from .node import Node


@dataclass(slots=True)
class _Start:
    """Where a connection begins: `cursor` of the log `epoch` to resume from, or `None` for now."""

    session: Session
    token: Token
    epoch: Epoch
    cursor: Cursor | None = None
    cause: GapCause | None = None
    returns: bool = False
    rights: int = 0
    newest: Offset = OFFSET_ZERO


_NOTHING_BEFORE = ReplaySummary(0, None)


class Handshake:
    """Lets clients in: one instance per node."""

    def __init__(self, node: Node, subscriber: Subscriber) -> None:
        self._node = node
        self._subscriber = subscriber

    async def admit(self, hello: ConnectRequest) -> Outbox:
        """Register a connection and prepare its first frame; raises `Refused`.

        When cancelled, the session is given back: its token can be presented again.
        """
        node = self._node
        topics = check_topics(hello.topics, node.registry.limits.topics)
        node.check_open(takes_over=bool(hello.token or hello.last_event_id))
        id = ConnectionId(base64url(os.urandom(16)))
        node.admitting[id] = hello.user
        try:
            try:
                start = await self._present(hello, topics, id)
            except BaseException:
                node.abandon(id)  # a token may be consumed: its session must not stay with nobody
                raise
            try:
                return await self._open(hello, topics, id, start)
            except BaseException:
                await node.detach(start.session, id)
                raise
        except (BrokerUnavailable, OutcomeUnknown) as error:
            raise _not_now(str(error)) from error
        finally:
            node.admitting.pop(id, None)

    async def leave(self, outbox: Outbox) -> None:
        """The transport has returned: the session waits for its client to come back."""
        self._node.unregister(outbox)
        await self._node.detach(outbox.connection.session, outbox.connection.id)

    async def prepare(self, topics: Iterable[str], user: UserId | None) -> str:
        """A session for a client that is still to come, as an event id of now."""
        broker = self._node.broker
        names = check_topics(topics, self._node.registry.limits.topics)
        head = await broker.head()
        cursor = Cursor.at(head.offset)
        session = Session(
            user,
            dict.fromkeys([*names, *([USER_TOPIC] if user is not None else [])], head.offset),
            frozenset(names),
            position=Position(head.epoch, cursor),
            acknowledged=True,
        )
        return str(EventId(head.epoch, cursor, await broker.tokens.issue(session, None)))

    async def turn_out(self, user: UserId) -> None:
        """End what a user has here, and let nobody back in by what was issued before."""
        node = self._node
        for id in [id for id, who in node.admitting.items() if who == user]:
            del node.admitting[id]
        # Those too that were told to end before, and those that are just leaving.
        for connection, outbox in list(node.outboxes.items()):
            if connection.user == user:
                node.end(outbox, CloseReason.FORBIDDEN)
                await node.detach(connection.session, connection.id)
        await node.finish()
        await node.broker.tokens.forget(user)

    # -- token and position --------------------------------------------------------------------

    async def _present(
        self, hello: ConnectRequest, topics: tuple[str, ...], id: ConnectionId
    ) -> _Start:
        node, broker = self._node, self._node.broker
        event_id = EventId.parse(hello.last_event_id) if hello.last_event_id else None
        presented = hello.token or (event_id.token if event_id else None)
        cause = None
        if hello.last_event_id or hello.token:
            foreign_log = event_id is not None and event_id.epoch != node.epoch
            cause = GapCause.RESTART if foreign_log else GapCause.UNKNOWN
        if presented is not None:
            answer = await broker.tokens.redeem(presented, hello.user, id)
            if answer.verdict is RedeemStatus.ACCEPTED and answer.session and answer.token:
                if answer.taken_over is not None:
                    node.take_over(answer.taken_over)
                head = Head(node.epoch, node.ingested)
                if event_id is None or event_id.epoch != head.epoch:
                    head = await broker.head()
                elif event_id.cursor.highest > head.offset:
                    head = await broker.head()  # which decides, not how far this node is
                start = _Start(answer.session, answer.token, head.epoch, returns=True)
                self._position(start, event_id, head, hello)
                return start
            self._refused(hello, id, answer.verdict.value)
        elif hello.last_event_id:
            self._refused(hello, id, "malformed")
        session = Session(hello.user, {}, _requested(topics))
        return _Start(session, await broker.tokens.issue(session, id), node.epoch, None, cause)

    def _refused(self, hello: ConnectRequest, id: ConnectionId, why: str) -> None:
        self._node.counters.tokens_refused += 1
        self._node.note(AuditAction.TOKEN_REFUSED, hello.user, id, hello.transport, why)

    def _position(
        self, start: _Start, event_id: EventId | None, head: Head, hello: ConnectRequest
    ) -> None:
        """Decide where an accepted session goes on."""
        session, at = start.session, start.session.position
        if event_id is not None:
            at = Position(event_id.epoch, event_id.cursor)
        if at is None:
            start.cause = GapCause.UNKNOWN
            return
        end = head.offset if at.epoch == head.epoch else head.forks.get(at.epoch)
        if end is None:
            start.cause = GapCause.RESTART if event_id is not None else GapCause.UNKNOWN
        elif at.cursor.highest <= end:
            start.cursor = at.cursor
            if event_id is None and (not session.acknowledged or hello.last_event_id):
                start.cause = GapCause.UNKNOWN
        elif at.epoch != head.epoch:
            start.cursor, start.cause = at.cursor.capped_at(end), GapCause.FAILOVER
        else:
            start.cause = GapCause.UNKNOWN
        if end is not None and at.epoch != head.epoch:
            # What was subscribed at the end that was lost is so from there.
            held = session.subscriptions.items()
            session.subscriptions = {topic: min(since, end) for topic, since in held}

    # -- subscriptions, by the rights of now -----------------------------------------------------

    async def _open(
        self, hello: ConnectRequest, topics: tuple[str, ...], id: ConnectionId, start: _Start
    ) -> Outbox:
        node, session = self._node, start.session
        wanted: Iterable[str] = topics
        if start.returns:
            requested, polls = frozenset(topics), hello.transport == "poll"
            if not topics or (requested == session.requested and not polls):
                # The same request again, as a browser repeats it: whatever was subscribed since.
                wanted = [*session.subscriptions, *session.refused]
            else:
                session.requested = requested
        summary = await self._settle(hello, wanted, start)
        while start.rights != node.rights:  # some were withdrawn while we asked
            summary = await self._settle(hello, wanted, start)
        # From here to the return nothing waits.
        node.check_open()
        if start.epoch != node.epoch:
            raise _not_now("the log is another one by now")
        if id not in node.admitting:
            raise Refused("unauthorized", "logged out", status=401, close_code=4401)
        if session.connection != id:
            raise Refused("taken_over", "another has the session", status=503, close_code=4003)
        session.acknowledged, session.is_long_poll = False, hello.transport == "poll"
        cursor = start.cursor or Cursor.at(node.ingested)
        buffer = PriorityBuffer(node.options.buffer_capacity, max_bytes=node.options.buffer_bytes)
        behind = _behind(start, summary, node)
        delivery = Delivery(buffer, cursor, behind=behind, not_before=start.newest)
        connection = Connection(id, session, delivery, hello.transport, node.monotonic())
        connection.expires_at = hello.expires_at
        outbox = Outbox(node, connection, start.token, hello.may_subscribe)
        if hello.acknowledges:
            outbox.open_window()
        outbox.begin(self._first_frame(outbox, start, summary))
        node.register(outbox, resumed=start.cursor is not None)
        return outbox

    async def _settle(
        self, hello: ConnectRequest, wanted: Iterable[str], start: _Start
    ) -> ReplaySummary:
        """Decide what the session may have, record it, and see what lies before it."""
        node, session = self._node, start.session
        start.rights = node.rights
        if start.cursor is None:
            start.epoch = node.epoch
        allowed, rejected = await self._subscriber.permitted(
            wanted, hello.may_subscribe, hello.user, hello.transport
        )
        if hello.user is not None:
            allowed.append(USER_TOPIC)
        subscriptions = dict.fromkeys(allowed, node.ingested)
        if start.cursor is not None:
            held = session.subscriptions
            start.newest = max([start.cursor.highest, *held.values()])
            since = max(node.ingested, start.newest)
            subscriptions = {topic: held.get(topic, since) for topic in allowed}
        session.subscriptions = subscriptions
        session.refused = frozenset(rejected) if rejected else NONE_REFUSED
        await node.broker.tokens.record(session)
        if start.cursor is None:
            return _NOTHING_BEFORE
        summary = await node.broker.summarize(
            start.epoch, start.cursor, session.subscriptions, session.user
        )
        if summary is None:
            raise _not_now("the log is another one by now")
        return summary

    def _first_frame(self, outbox: Outbox, start: _Start, summary: ReplaySummary) -> bytes:
        node, session = self._node, start.session
        data: dict[str, object] = {
            "session": "fresh",
            "topics": [topic for topic in session.subscriptions if topic != USER_TOPIC],
            "rejected": sorted(session.refused),
            "heartbeatInterval": node.options.heartbeat_interval,
        }
        if outbox.window is not None:
            data["window"] = outbox.window.size
        if start.cursor is not None:
            data |= {"session": "resumed", "replay": summary.replay}
        if start.cause is not None:
            data |= {"session": "gap", "gap": {"cause": start.cause.value, "count": None}}
        elif summary.lost is not None:
            gap = {"cause": GapCause.TRIMMED.value, "count": summary.lost.count}
            data |= {"session": "gap", "gap": gap}
        now, connection = node.clock(), outbox.connection
        return frames.established(connection.id, start.token, now, node.resumable_for, data)


@lru_cache(maxsize=64)
def _requested(topics: tuple[str, ...]) -> frozenset[str]:
    """What clients of one page name is the same, and one set for all."""
    return frozenset(topics)


def _behind(start: _Start, summary: ReplaySummary, node: Node) -> frozenset[Priority]:
    """The lanes that have to be read from the log before they are live."""
    if start.cursor is None:
        return NO_LANE
    if summary.through < node.ingested or start.newest > node.ingested:
        return EVERY_LANE  # more has come since, or the live feed is behind the client
    return EVERY_LANE - summary.empty


def _not_now(detail: str) -> Refused:
    """The client may come back in a moment."""
    return Refused("unavailable", detail, status=503, close_code=CloseReason.FAILED.code)
