"""Subscribing and unsubscribing a live connection, each by the rights of now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from ..core.message import UserId
from ..core.topics import USER_TOPIC, check_expression
from ..errors import InvalidTopic, Refused
from .audit import AuditAction

if TYPE_CHECKING:
    from .node import Node
    from .outbox import Outbox

MaySubscribe = Callable[[str], Awaitable[bool]]
"""Whether a client may see a topic (or use a pattern), by its rights of now."""


def check_topics(names: Iterable[str], limit: int) -> tuple[str, ...]:
    """The names, each once; raises `Refused` for one that is none, or for too many."""
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
        self, wanted: Iterable[str], user: UserId | None, transport: str, may: MaySubscribe | None
    ) -> tuple[list[str], list[str]]:
        """Split `wanted` into what the client may have, its own topic added, and the rest."""
        allowed: list[str] = []
        rejected: list[str] = []
        for topic in wanted:
            if topic == USER_TOPIC:
                continue
            if may is None or await may(topic):
                allowed.append(topic)
            else:
                rejected.append(topic)
                self._node.note(AuditAction.SUBSCRIPTION_REFUSED, user, None, transport, topic)
        if user is not None:
            allowed.append(USER_TOPIC)
        return allowed, rejected

    async def subscribe(self, outbox: Outbox, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Add topics from now on; return (added or held already, rejected). Raises `Refused`.

        The session is recorded before this returns, so a resume anywhere knows of it.
        """
        node, connection = self._node, outbox.connection
        limit = node.registry.limits.topics
        allowed, rejected = await self.permitted(
            check_topics(names, limit), None, connection.transport, outbox.may_subscribe
        )
        held = connection.session.subscriptions
        if len({*held, *allowed} - {USER_TOPIC}) > limit:
            raise Refused("too_many_topics", f"at most {limit} topics", status=400)
        since = connection.delivery.horizon(node.ingested)
        node.registry.subscribe(connection, allowed, since)
        node.on_listeners()
        await node.broker.tokens.record(connection.session)
        node.note_connection(AuditAction.SUBSCRIBED, connection, " ".join(allowed))
        return allowed, rejected

    async def unsubscribe(self, outbox: Outbox, names: Iterable[str]) -> list[str]:
        """Remove topics, and drop what is pending for them; return those that were held."""
        node, connection = self._node, outbox.connection
        topics = check_topics(names, node.registry.limits.topics)
        removed = [topic for topic in topics if topic in connection.session.subscriptions]
        node.registry.unsubscribe(connection, removed)
        await node.broker.tokens.record(connection.session)
        node.note_connection(AuditAction.UNSUBSCRIBED, connection, " ".join(removed))
        return removed

    async def reauthorize(self, outbox: Outbox) -> list[str]:
        """Ask again for every subscription, and drop what is no longer allowed; return that."""
        connection = outbox.connection
        held = list(connection.session.subscriptions)
        _, rejected = await self.permitted(
            held, connection.user, connection.transport, outbox.may_subscribe
        )
        if rejected:
            await self.unsubscribe(outbox, rejected)
        return rejected
