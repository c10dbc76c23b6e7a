"""RedisPresence: the presence of all nodes, in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.message import UserId
from ...core.presence import Member, NodeId, PresenceDelta
from ...errors import BrokerUnavailable, OutcomeUnknown
from . import keys
from .script import Argument, LogState, Operation, to_text
from .script_client import ScriptClient

MEMBERS_PER_CALL = 1000
"""At most, in one operation."""


@dataclass(slots=True)
class _UpdateCount:
    """The updates of a node that changed something, and how many Redis confirmed."""

    sent: int = 0
    confirmed: int = 0


class RedisPresence:
    """A `PresenceStore` in a namespace.

    Each update names the last update that Redis confirmed. If Redis lacks that one (its keys were
    lost, or a server took over that had not received it), `PresenceDelta.is_known` is false.
    """

    def __init__(self, scripts: ScriptClient) -> None:
        self._scripts = scripts
        self._updates: dict[NodeId, _UpdateCount] = {}

    async def update(
        self, node: NodeId, joined: Iterable[Member], left: Iterable[Member], lease: float
    ) -> PresenceDelta:
        """See `PresenceStore.update`."""
        to_add, to_remove = [*map(_address, joined)], [*map(_address, left)]
        is_known, all_joined, all_left = True, list[Member](), list[Member]()
        is_first = True
        while is_first or to_add or to_remove:
            add, to_add = to_add[:MEMBERS_PER_CALL], to_add[MEMBERS_PER_CALL:]
            room = MEMBERS_PER_CALL - len(add)
            remove, to_remove = to_remove[:room], to_remove[room:]
            try:
                delta = await self._send(node, lease, add, remove)
            except (BrokerUnavailable, OutcomeUnknown):
                if is_first:
                    raise
                # The parts that succeeded are reported; is_known=False makes the node send all.
                return PresenceDelta(is_known=False, joined=tuple(all_joined), left=tuple(all_left))
            is_first, is_known = False, is_known and delta.is_known
            all_joined += delta.joined
            all_left += delta.left
        return PresenceDelta(is_known, tuple(all_joined), tuple(all_left))

    async def _send(
        self, node: NodeId, lease: float, joined: Sequence[str], left: Sequence[str]
    ) -> PresenceDelta:
        updates = self._updates.setdefault(node, _UpdateCount())
        updates.sent += bool(joined or left)
        number = updates.sent
        arguments: list[Argument] = [node, lease, number, updates.confirmed, len(joined)]
        operation = Operation("update_presence", [*arguments, *joined, *left])
        delta: PresenceDelta = await self._scripts.call(operation, _decode_delta)
        updates.confirmed = number
        return delta

    async def remove(self, node: NodeId) -> PresenceDelta:
        """See `PresenceStore.remove`."""
        self._updates.pop(node, None)
        operation = Operation("remove_presence", (node,))
        delta: PresenceDelta = await self._scripts.call(operation, _decode_delta)
        return delta

    async def users(self, topic: str) -> frozenset[UserId]:
        """See `PresenceStore.users`."""
        users: list[bytes] = await self._scripts.call(Operation("presence_users", (topic,)))
        return frozenset(user for each in users if (user := keys.parse_user(to_text(each))))


def _address(member: Member) -> str:
    topic, user = member
    return keys.format_address(topic, user)


def _decode_delta(output: list[Any], _: LogState) -> PresenceDelta:
    is_complete, joined, left = output
    return PresenceDelta(bool(is_complete), tuple(_members(joined)), tuple(_members(left)))


def _members(addresses: Iterable[bytes]) -> Iterable[Member]:
    for each in addresses:
        topic, user = keys.parse_address(to_text(each))
        if user is not None:
            yield topic, user
