"""Subscribing and unsubscribing a live connection, each by the rights of now."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from ..core.connection import CloseReason, Connection
from ..core.message import UserId
from ..core.topics import USER_TOPIC, check_expression
from ..errors import BrokerUnavailable, InvalidTopic, OutcomeUnknown, Refused
from . import frames
from .audit import AuditAction

if TYPE_CHECKING:
    from .connection import Outbox
    from .node import Node

_logger = logging.getLogger("holdfast")

MaySubscribe = Callable[[str], bool | Awaitable[bool]]
"""Whether a client may see a topic (or use a pattern), by its rights of now."""


def check_topics(names: Iterable[str], limit: int) -> tuple[str, ...]:
    """The names, each once; raises `Refused` for one that is none, or for too many."""
    if isinstance(names, str):
        raise TypeError(f"topics is a list of names, and {names!r} a string")
    unique = tuple(dict.fromkeys(names))
    if len(unique) > limit:
        raise Refused("too_many_topics", f"at most {limit} topics", status=400)
    for name in unique:
        try:
            check_expression(name)
        except InvalidTopic as error:
            raise Refused("invalid_topic", str(error), status=400) from None
    return unique


class Subscriber:
    """Changes what connections are subscribed to: one instance per node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def permitted(
        self, wanted: Iterable[str], may: MaySubscribe | None, user: UserId | None, transport: str
    ) -> tuple[list[str], list[str]]:
        """Split `wanted` into what the client may have and what not."""
        allowed: list[str] = []
        rejected: list[str] = []
        for topic in wanted:
            if topic == USER_TOPIC:
                continue
            answer = may is None or may(topic)
            if answer if isinstance(answer, bool) else await answer:
                allowed.append(topic)
            else:
                rejected.append(topic)
                self._node.note(AuditAction.SUBSCRIPTION_REFUSED, user, None, transport, topic)
        return allowed, rejected

    async def subscribe(self, outbox: Outbox, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Add topics from now on; return (added or held already, rejected). Raises `Refused`.

        The session is recorded before this returns, so a resume anywhere knows of it; where that
        fails, nothing is added.
        """
        node, connection = self._node, outbox.connection
        limit = node.registry.limits.topics
        wanted, rights = check_topics(names, limit), -1
        allowed, rejected = list[str](), list[str]()
        while rights != node.rights:  # withdrawn while we asked: ask again
            rights = node.rights
            allowed, rejected = await self.permitted(
                wanted, outbox.may_subscribe, connection.user, connection.transport
            )
        if node.registry.get(connection.id) is not connection:
            raise Refused("no_connection", "the connection has ended", status=404)
        held = connection.subscriptions
        if len({*held, *allowed} - {USER_TOPIC}) > limit:
            raise Refused("too_many_topics", f"at most {limit} topics", status=400)
        since = connection.delivery.subscribe_offset(node.ingested)
        added = [topic for topic in allowed if topic not in held]
        node.registry.subscribe(connection, allowed, since)
        node.on_listeners()
        try:
            await self._record(connection)
        except (BrokerUnavailable, OutcomeUnknown) as error:
            node.registry.unsubscribe(connection, added)
            detail = "the subscription could not be kept"
            raise Refused("unavailable", detail, status=503) from error
        node.note_connection(AuditAction.SUBSCRIBED, connection, " ".join(allowed))
        return allowed, rejected

    async def unsubscribe(self, outbox: Outbox, names: Iterable[str]) -> list[str]:
        """Remove topics, and drop what is pending for them; return those that were held."""
        topics = check_topics(names, self._node.registry.limits.topics)
        outbox.connection.session.refused -= frozenset(topics)
        return await self._drop(outbox.connection, topics)

    async def _drop(self, connection: Connection, topics: Iterable[str]) -> list[str]:
        removed = [topic for topic in topics if topic in connection.subscriptions]
        self._node.registry.unsubscribe(connection, removed)
        try:
            await self._record(connection)
        except (BrokerUnavailable, OutcomeUnknown) as error:
            # Here they are gone. Whoever resumes elsewhere is asked for them by the rights of then.
            _logger.warning("unsubscribing could not be recorded: %s", error)
        self._node.note_connection(AuditAction.UNSUBSCRIBED, connection, " ".join(removed))
        return removed

    async def _record(self, connection: Connection) -> None:
        """Keep the subscriptions of now for a resume, unless the session has moved on."""
        session = connection.session
        if session.connection == connection.id:
            session.subscriptions = connection.subscriptions
            await self._node.broker.tokens.record(session)

    async def reauthorize(self, user: str | None) -> None:
        """See `Broadcaster.reauthorize`."""
        self._node.rights += 1
        for outbox in list(self._node.outboxes.values()):
            if user is None or outbox.connection.user == user:
                await self._ask_again(outbox)

    async def _ask_again(self, outbox: Outbox) -> None:
        """Ask again for every subscription, and drop what is no longer allowed."""
        connection = outbox.connection
        held = list(connection.subscriptions)
        try:
            _, rejected = await self.permitted(
                held, outbox.may_subscribe, connection.user, connection.transport
            )
        except Exception:
            _logger.exception("nobody could say what a client may have; it is to come back")
            self._node.end(outbox, CloseReason.FAILED)
            return
        if rejected:
            connection.session.refused |= frozenset(rejected)
            await self._drop(connection, rejected)
            data = {"topics": rejected}
            outbox.put(frames.control("unsubscribed", self._node.clock(), data))
