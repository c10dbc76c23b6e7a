"""RedisPresence: the roster of all nodes, in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.message import UserId
from ...core.presence import Member, NodeId, PresenceDelta
from ...errors import BrokerUnavailable, OutcomeUnknown
from . import keys
from .line import Line
from .script import Argument, End, Operation, text

TOLD = 1000
"""Members in one operation, at the most."""


@dataclass(slots=True)
class _Tellings:
    """The tellings of a node that changed something, counted: Redis may lose what it confirmed."""

    made: int = 0
    confirmed: int = 0


class RedisPresence:
    """A `PresenceStore` in a hub.

    Each telling says which of those before it was carried out. If Redis does not know that one (its
    keys were lost, or another server took over that lacked the end), `is_known` is false.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._tellings: dict[NodeId, _Tellings] = {}

    async def update(
        self, node: NodeId, joined: Iterable[Member], left: Iterable[Member], lease: float
    ) -> PresenceDelta:
        """See `PresenceStore.update`."""
        coming, going = [*map(_address, joined)], [*map(_address, left)]
        is_known, arrived, departed = True, list[Member](), list[Member]()
        is_first = True
        while is_first or coming or going:
            now, coming = coming[:TOLD], coming[TOLD:]
            then, going = going[: TOLD - len(now)], going[TOLD - len(now) :]
            try:
                moved = await self._tell(node, lease, now, then)
            except (BrokerUnavailable, OutcomeUnknown):
                if is_first:
                    raise
                # What has been done is reported, and everything told again.
                return PresenceDelta(is_known=False, joined=tuple(arrived), left=tuple(departed))
            is_first, is_known = False, is_known and moved.is_known
            arrived += moved.joined
            departed += moved.left
        return PresenceDelta(is_known, tuple(arrived), tuple(departed))

    async def _tell(
        self, node: NodeId, lease: float, joined: Sequence[str], left: Sequence[str]
    ) -> PresenceDelta:
        tellings = self._tellings.setdefault(node, _Tellings())
        tellings.made += bool(joined or left)
        number = tellings.made
        arguments: list[Argument] = [node, lease, number, tellings.confirmed, len(joined)]
        operation = Operation("update_presence", [*arguments, *joined, *left])
        moved: PresenceDelta = await self._line.call(operation, _movement)
        tellings.confirmed = number
        return moved

    async def remove(self, node: NodeId) -> PresenceDelta:
        """See `PresenceStore.remove`."""
        self._tellings.pop(node, None)
        moved: PresenceDelta = await self._line.call(
            Operation("remove_presence", (node,)), _movement
        )
        return moved

    async def users(self, topic: str) -> frozenset[UserId]:
        """See `PresenceStore.users`."""
        owners: list[bytes] = await self._line.call(Operation("presence_users", (topic,)))
        return frozenset(user for each in owners if (user := keys.parse_owner(text(each))))


def _address(member: Member) -> str:
    topic, user = member
    return keys.address(topic, user)


def _movement(value: list[Any], _: End) -> PresenceDelta:
    known, joined, left = value
    return PresenceDelta(bool(known), tuple(_members(joined)), tuple(_members(left)))


def _members(addresses: Iterable[bytes]) -> Iterable[Member]:
    for each in addresses:
        topic, user = keys.parse_address(text(each))
        if user is not None:
            yield topic, user
