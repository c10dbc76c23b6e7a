"""Handshake: how a connection begins and ends.

    redeem the token → decide the resume point → authorize the subscriptions → register

`core.resume` has the table of resume points. An invalid token or event id begins a fresh session
and is not an error, because a browser's EventSource would not reconnect after an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from ..core import frames
from ..core.cursor import Cursor, Epoch, EventId, Head, Position
from ..core.delivery.buffer import PriorityBuffer
from ..core.delivery.lanes import Delivery
from ..core.log.pages import ReplaySummary
from ..core.message import OFFSET_ZERO, Offset, UserId
from ..core.resume import (
    NOTHING_TO_REPLAY,
    GapCause,
    Presented,
    ResumePoint,
    farthest_offset,
    lanes_to_replay,
    resume_point,
    resumed_subscriptions,
)
from ..core.tokens import NONE_REFUSED, ConnectionId, RedeemStatus, Session, Token, base64url
from ..core.topics import USER_TOPIC
from ..core.validation import check_function, check_name, check_number, check_type
from ..errors import BrokerUnavailable, OutcomeUnknown, Refused
from ..reasons import Reason
from .audit import AuditAction
from .connection import Connection, MaySubscribe
from .node import Node
from .subscriptions import SubscriptionControl, check_topics

LONG_POLL = "poll"
"""The transport whose clients get their token only at the end of the connection."""


@dataclass(slots=True)
class ConnectRequest:
    """The arguments of `Broadcaster.connect`, which documents them."""

    user: UserId | None = None
    topics: Iterable[str] = ()
    last_event_id: str | None = field(default=None, repr=False)
    reconnect_token: str | None = field(default=None, repr=False)
    transport: str = "custom"
    acknowledges: bool = False
    expires_at: float | None = None
    may_subscribe: MaySubscribe | None = None

    def check(self) -> None:
        """Raise `TypeError` for a field that the application passed with the wrong type."""
        user, last_event_id, token = self.user, self.last_event_id, self.reconnect_token
        if user is not None and (user.__class__ is not str or not user):
            check_name("user", user, "the id of a user, a str that is not empty, or None")
        if last_event_id is not None and last_event_id.__class__ is not str:
            check_type("last_event_id", last_event_id, str, "a str or None")
        if token is not None and token.__class__ is not str:
            check_type("reconnect_token", token, str, "a str or None")
        if self.transport.__class__ is not str:
            check_type("transport", self.transport, str, "a str")
        if self.may_subscribe is not None and not callable(self.may_subscribe):
            check_function("may_subscribe", self.may_subscribe, "a function of a topic, or None")
        if self.expires_at is not None:
            check_number("expires_at", self.expires_at)


@dataclass(slots=True)
class _Redeemed:
    """The outcome of the presented token: the session and its token, if it was accepted."""

    session: Session | None = None
    token: Token | None = None


@dataclass(slots=True)
class _Prepared:
    """The result of the handshake before the registration.

    Attributes:
        session: The saved session, with the allowed subscriptions.
        token: The reconnect token of the connection.
        epoch: The log that the subscriptions and the summary are from.
        point: The resume point.
        farthest: The highest offset that the client has seen or subscribed at.
        summary: The counts of the messages to replay and of the lost ones.
    """

    session: Session
    token: Token
    epoch: Epoch
    point: ResumePoint
    farthest: Offset
    summary: ReplaySummary


class Handshake:
    """Begins and ends the connections of one node."""

    def __init__(self, node: Node, subscriptions: SubscriptionControl) -> None:
        self._node = node
        self._subscriptions = subscriptions

    async def connect(self, request: ConnectRequest) -> Connection:
        """Register a connection, with its first frame.

        Raises:
            Refused: The connection may not begin, or the client must come back later.

        Cancellation:
            The session is given back, and its token can be presented again.
        """
        node = self._node
        topics = check_topics(request.topics, node.registry.limits.topics)
        is_fresh = not (request.last_event_id or request.reconnect_token)
        node.check_accepting(replaces=not is_fresh)
        id = ConnectionId(base64url(os.urandom(16)))
        node.begin_handshake(id, request.user)
        try:
            return await self._connect(request, topics, id)
        except (BrokerUnavailable, OutcomeUnknown) as error:
            raise _unavailable(str(error)) from error
        finally:
            node.end_handshake(id)

    async def _connect(
        self, request: ConnectRequest, topics: tuple[str, ...], id: ConnectionId
    ) -> Connection:
        node, event_id, redeemed = self._node, None, _Redeemed()
        is_fresh = not (request.last_event_id or request.reconnect_token)
        if not is_fresh:
            event_id = EventId.parse(request.last_event_id) if request.last_event_id else None
            try:
                redeemed = await self._redeem(request, event_id, id)
            except BaseException:
                # The store may have attached the session, although the call failed.
                node.abandon(id)
                raise
        try:
            if is_fresh:
                point = ResumePoint(node.log.epoch)
            else:
                point = await self._resume_point(request, event_id, redeemed.session)
            prepared = await self._prepare(request, topics, id, redeemed, point)
            return self._register(request, id, prepared)
        except BaseException:
            # The stored session has no position if it was taken over; this one may have one.
            await node.detach(id, redeemed.session)
            raise

    async def disconnect(self, connection: Connection) -> None:
        """End a connection whose transport has returned, and keep its session for the client."""
        session = self._node.unregister(connection)
        await self._node.detach(connection.id, session)

    async def issue_position(self, topics: Iterable[str], user: UserId | None) -> str:
        """Create a session without a connection, and return its event id at the end of the log."""
        broker = self._node.broker
        names = check_topics(topics, self._node.registry.limits.topics)
        head = await broker.head()
        cursor = Cursor.at(head.offset)
        subscribed = [*names, *([USER_TOPIC] if user is not None else [])]
        session = Session(
            user,
            dict.fromkeys(subscribed, head.offset),
            frozenset(names),
            position=Position(head.epoch, cursor),
            acknowledged=True,
        )
        return str(EventId(head.epoch, cursor, await broker.tokens.issue(session, None)))

    async def disconnect_user(self, user: UserId) -> None:
        """End the user's connections on this node, and invalidate their reconnect tokens."""
        node = self._node
        node.abort_handshakes(user)
        for connection in list(node.connections):  # includes closing ones
            if connection.user == user:
                node.end(connection, Reason.FORBIDDEN)
                await node.detach(connection.id, connection.last_session())
        await node.wait_background()
        await node.broker.tokens.drop_user(user)

    # -- token and position --------------------------------------------------------------------

    async def _redeem(
        self, request: ConnectRequest, event_id: EventId | None, id: ConnectionId
    ) -> _Redeemed:
        """Redeem the presented token, without a wait after the answer of the store."""
        node = self._node
        token = request.reconnect_token or (event_id.token if event_id else None)
        if token is None:
            self._count_refused(request, id, "malformed")
            return _Redeemed()
        redemption = await node.broker.tokens.redeem(token, request.user, id)
        session = redemption.session
        if redemption.status is not RedeemStatus.ACCEPTED or session is None:
            self._count_refused(request, id, redemption.status.value)
            return _Redeemed()
        if redemption.taken_over is not None:
            old = node.take_over(redemption.taken_over)
            if old is not None:  # a connection of this node, whose position is exact
                last = old.last_session()
                session = replace(session, position=last.position, acknowledged=last.acknowledged)
        return _Redeemed(session, redemption.token)

    async def _resume_point(
        self, request: ConnectRequest, event_id: EventId | None, session: Session | None
    ) -> ResumePoint:
        """Decide where the connection begins."""
        presented = Presented(
            event_id,
            is_unreadable=bool(request.last_event_id) and event_id is None,
            has_token=bool(request.reconnect_token),
        )
        head = self._node.log.head if session is None else await self._head_for(event_id)
        return resume_point(presented, session, head)

    async def _head_for(self, event_id: EventId | None) -> Head:
        """Return the head to compare `event_id` with.

        An id up to the delivered offset of this node needs no call of the broker. An id beyond it
        may come from a node that is ahead of this one, so the broker's head decides.
        """
        head = self._node.log.head
        is_known = (
            event_id is not None
            and event_id.epoch == head.epoch
            and event_id.cursor.highest <= head.offset
        )
        return head if is_known else await self._node.broker.head()

    def _count_refused(self, request: ConnectRequest, id: ConnectionId, detail: str) -> None:
        self._node.count(tokens_refused=1)
        self._node.audit.record(
            AuditAction.TOKEN_REFUSED, request.user, id, request.transport, detail
        )

    # -- subscriptions ---------------------------------------------------------------------------

    async def _prepare(
        self,
        request: ConnectRequest,
        topics: tuple[str, ...],
        id: ConnectionId,
        redeemed: _Redeemed,
        point: ResumePoint,
    ) -> _Prepared:
        """Authorize the subscriptions, save the session, and count the messages to replay.

        The steps are repeated if `reauthorize` was called meanwhile.
        """
        node, tokens = self._node, self._node.broker.tokens
        session, token = redeemed.session, redeemed.token
        candidates: Iterable[str] = topics
        requested = _shared_set(topics)
        if session is None:
            is_long_poll = request.transport == LONG_POLL
            session = Session(request.user, requested=requested, is_long_poll=is_long_poll)
        else:
            repeats = requested == session.requested and request.transport != LONG_POLL
            if not topics or repeats:
                # A browser repeats the topics of its URL at each reconnect. The session has these
                # and the topics that were added or removed later, so the session counts.
                candidates = [*session.subscriptions, *session.refused]
                requested = session.requested
        held: Mapping[str, Offset] = session.subscriptions
        if point.since_limit is not None:
            held = {topic: min(since, point.since_limit) for topic, since in held.items()}
        while True:
            version = node.permissions_version
            epoch = node.log.epoch if point.cursor is None else point.epoch
            allowed, rejected = await self._subscriptions.authorize(
                candidates, request.may_subscribe, request.user, request.transport
            )
            if request.user is not None:
                allowed.append(USER_TOPIC)
            farthest = farthest_offset(point.cursor, held) if point.cursor else OFFSET_ZERO
            held = resumed_subscriptions(point, held, allowed, node.log.delivered_offset)
            session = Session(
                session.user,
                held,
                requested,
                frozenset(rejected) if rejected else NONE_REFUSED,
                session.position,
                session.acknowledged,
                session.is_long_poll,
            )
            if token is None:
                token = await tokens.issue(session, id)
            elif not await tokens.save(id, session):
                raise Refused(Reason.TAKEN_OVER, "another connection has the session")
            summary: ReplaySummary | None = NOTHING_TO_REPLAY
            if point.cursor is not None:
                summary = await node.broker.summarize(
                    epoch, point.cursor, session.subscriptions, session.user
                )
            if summary is None:
                raise _unavailable("the log was replaced during the handshake")
            if version == node.permissions_version:
                return _Prepared(session, token, epoch, point, farthest, summary)

    # -- registration ----------------------------------------------------------------------------

    def _register(
        self, request: ConnectRequest, id: ConnectionId, prepared: _Prepared
    ) -> Connection:
        """Create and register the connection, in one synchronous step with the last checks."""
        node, point = self._node, prepared.point
        node.check_accepting()
        if prepared.epoch != node.log.epoch:
            raise _unavailable("the log was replaced during the handshake")
        if not node.is_handshake_valid(id):
            raise Refused(Reason.UNAUTHORIZED, "the user was disconnected")
        delivered = node.log.delivered_offset
        buffer = PriorityBuffer(node.options.buffer_capacity, max_bytes=node.options.buffer_bytes)
        delivery = Delivery(
            buffer,
            point.cursor or Cursor.at(delivered),
            catching_up=lanes_to_replay(point, prepared.summary, prepared.farthest, delivered),
            farthest=prepared.farthest,
        )
        session = prepared.session
        if point.cursor is not None or point.cause is not None:  # the client presented something
            session = replace(
                session,
                position=None,
                acknowledged=False,
                is_long_poll=request.transport == LONG_POLL,
            )
        connection = Connection(
            node.context,
            id,
            session,
            prepared.token,
            delivery,
            transport=request.transport,
            acknowledges=request.acknowledges,
            expires_at=request.expires_at,
            may_subscribe=request.may_subscribe,
        )
        connection.open(self._first_frame(connection, prepared))
        node.register(connection, resumed=point.cursor is not None)
        return connection

    def _first_frame(self, connection: Connection, prepared: _Prepared) -> bytes:
        node, session, point = self._node, prepared.session, prepared.point
        gap = prepared.summary.gap
        data: dict[str, object] = {
            "session": "fresh",
            "topics": [topic for topic in session.subscriptions if topic != USER_TOPIC],
            "rejected": sorted(session.refused),
            "heartbeatInterval": node.options.heartbeat_interval,
        }
        if connection.window_size is not None:
            data["window"] = connection.window_size
        if point.cursor is not None:
            data |= {"session": "resumed", "replay": prepared.summary.replay}
        if point.cause is not None:
            data |= {"session": "gap", "gap": {"cause": point.cause.value, "count": None}}
        elif gap is not None:
            cause = GapCause.TRIMMED.value
            data |= {"session": "gap", "gap": {"cause": cause, "count": gap.count}}
        return frames.established(
            connection.id, prepared.token, node.clock.time(), node.log.resumable_for, data
        )


class PendingConnection:
    """The result of `Broadcaster.connect`: the connection begins and ends with the block.

    async with broadcaster.connect() as connection:
        ...
    """

    __slots__ = ("_connection", "_handshake", "_request")

    def __init__(self, handshake: Handshake, request: ConnectRequest) -> None:
        self._handshake = handshake
        self._request: ConnectRequest | None = request
        self._connection: Connection | None = None

    async def __aenter__(self) -> Connection:
        request, self._request = self._request, None
        if request is None:
            raise RuntimeError("a connection is entered once: call connect() again")
        self._connection = await self._handshake.connect(request)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        assert self._connection is not None
        await self._handshake.disconnect(self._connection)


@lru_cache(maxsize=64)
def _shared_set(topics: tuple[str, ...]) -> frozenset[str]:
    """Return one set for all clients that request the same topics."""
    return frozenset(topics)


def _unavailable(detail: str) -> Refused:
    """Return the refusal after which the client comes back."""
    return Refused(Reason.UNAVAILABLE, detail)
