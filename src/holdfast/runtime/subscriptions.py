"""SubscriptionControl: adds and removes topics of connections, by the rights of their users."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from ..core import frames
from ..core.message import UserId
from ..core.topics import USER_TOPIC, check_expression
from ..errors import BrokerUnavailable, InvalidTopic, OutcomeUnknown, Refused
from ..reasons import Reason
from .audit import AuditAction
from .connection import Connection, MaySubscribe
from .node import Node

_logger = logging.getLogger("holdfast")


def check_topics(names: Iterable[str], limit: int) -> tuple[str, ...]:
    """Return the names without duplicates.

    Raises:
        Refused: A name is not a topic or pattern, or there are more than `limit`.
        TypeError: `names` is a string or `None`.
    """
    if isinstance(names, str):
        raise TypeError(f"topics must be a list of names, such as [{names!r}], not a string")
    if names is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise TypeError("topics must be a list of names, not None: leave it out for no topics")
    unique = tuple(dict.fromkeys(names))
    if len(unique) > limit:
        raise Refused(Reason.TOO_MANY_TOPICS, f"a connection has at most {limit} topics")
    for name in unique:
        try:
            check_expression(name)
        except InvalidTopic as error:
            raise Refused(Reason.INVALID_TOPIC, str(error)) from None
    return unique


class SubscriptionControl:
    """Changes the subscriptions of the connections of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def authorize(
        self, topics: Iterable[str], may: MaySubscribe | None, user: UserId | None, transport: str
    ) -> tuple[list[str], list[str]]:
        """Return the topics that `may` allows, and the topics that it rejects."""
        allowed: list[str] = []
        rejected: list[str] = []
        for topic in topics:
            if topic == USER_TOPIC:
                continue
            answer = may is None or may(topic)
            if answer if isinstance(answer, bool) else await answer:
                allowed.append(topic)
            else:
                rejected.append(topic)
                self._node.audit.record(
                    AuditAction.SUBSCRIPTION_REFUSED, user, None, transport, topic
                )
        return allowed, rejected

    async def subscribe(
        self, connection: Connection, names: Iterable[str]
    ) -> tuple[list[str], list[str]]:
        """Add topics; see `Broadcaster.subscribe`."""
        node = self._node
        limit = node.registry.limits.topics
        topics = check_topics(names, limit)
        allowed, rejected, version = list[str](), list[str](), -1
        while version != node.permissions_version:  # `reauthorize` was called meanwhile
            version = node.permissions_version
            allowed, rejected = await self.authorize(
                topics, connection.may_subscribe, connection.user, connection.transport
            )
        if connection not in node.registry:
            raise Refused(Reason.NO_CONNECTION, "the connection has ended")
        held = connection.subscriptions
        if len({*held, *allowed} - {USER_TOPIC}) > limit:
            raise Refused(Reason.TOO_MANY_TOPICS, f"a connection has at most {limit} topics")
        added = [topic for topic in allowed if topic not in held]
        since = connection.delivery.subscribe_offset(node.log.delivered_offset)
        node.registry.subscribe(connection, allowed, since)
        node.on_subscribed()
        try:
            await self._save(connection)
        except (BrokerUnavailable, OutcomeUnknown) as error:
            node.registry.unsubscribe(connection, added)
            _record_subscriptions(connection)  # otherwise a resume would have the topics
            raise Refused(Reason.UNAVAILABLE, "the subscription could not be saved") from error
        node.audit_connection(AuditAction.SUBSCRIBED, connection, " ".join(allowed))
        return allowed, rejected

    async def unsubscribe(self, connection: Connection, names: Iterable[str]) -> list[str]:
        """Remove topics; see `Broadcaster.unsubscribe`."""
        topics = check_topics(names, self._node.registry.limits.topics)
        session = connection.session
        connection.replace_session(replace(session, refused=session.refused - frozenset(topics)))
        return await self._remove(connection, topics)

    async def _remove(self, connection: Connection, topics: Iterable[str]) -> list[str]:
        removed = self._node.registry.unsubscribe(connection, topics)
        try:
            await self._save(connection)
        except (BrokerUnavailable, OutcomeUnknown) as error:
            # The topics are removed from this connection. A later resume authorizes all topics of
            # the session again.
            _logger.warning("could not save a session after unsubscribing: %s", error)
        self._node.audit_connection(AuditAction.UNSUBSCRIBED, connection, " ".join(removed))
        return removed

    async def _save(self, connection: Connection) -> None:
        """Save the current subscriptions, unless another connection has taken over the session."""
        _record_subscriptions(connection)
        await self._node.broker.tokens.save(connection.id, connection.session)

    async def reauthorize(self, user: str | None) -> None:
        """Authorize the topics of a user (`None`: of all users) again; see the Broadcaster."""
        self._node.void_permissions()
        for connection in list(self._node.connections):
            if user is None or connection.user == user:
                await self._reauthorize(connection)

    async def _reauthorize(self, connection: Connection) -> None:
        try:
            _, rejected = await self.authorize(
                list(connection.subscriptions),
                connection.may_subscribe,
                connection.user,
                connection.transport,
            )
        except Exception:
            _logger.exception(
                "the authorize hook failed during reauthorize; closing connection %s", connection.id
            )
            self._node.end(connection, Reason.FAILED)
            return
        if rejected:
            session = connection.session
            refused = session.refused | frozenset(rejected)
            connection.replace_session(replace(session, refused=refused))
            await self._remove(connection, rejected)
            data = {"topics": rejected}
            connection.put_control(frames.control("unsubscribed", self._node.clock.time(), data))


def _record_subscriptions(connection: Connection) -> None:
    """Let the session of a connection have its current subscriptions."""
    session = replace(connection.session, subscriptions=connection.subscriptions)
    connection.replace_session(session)
