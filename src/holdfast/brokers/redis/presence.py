"""RedisPresence: the roster of all nodes, in Redis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...core.message import UserId
from ...core.presence import Member, Movement, NodeId
from . import keys
from .line import Line
from .script import Argument, End, Operation, text

TOLD = 1000
"""Members in one operation, at the most."""


class RedisPresence:
    """A `PresenceStore` in a hub."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def update(
        self, node: NodeId, came: Iterable[Member], went: Iterable[Member], lease: float
    ) -> Movement:
        """See `PresenceStore.update`."""
        coming, going = [*map(_address, came)], [*map(_address, went)]
        first: Movement | None = None
        arrived: list[Member] = []
        departed: list[Member] = []
        while first is None or coming or going:
            now, coming = coming[:TOLD], coming[TOLD:]
            then, going = going[: TOLD - len(now)], going[TOLD - len(now) :]
            arguments: list[Argument] = [node, lease, len(now), *now, *then]
            moved: Movement = await self._line.call(
                Operation("update_presence", arguments), _movement
            )
            first = first or moved
            arrived += moved.came
            departed += moved.went
        return Movement(first.is_known, tuple(arrived), tuple(departed))

    async def remove(self, node: NodeId) -> Movement:
        """See `PresenceStore.remove`."""
        moved: Movement = await self._line.call(Operation("remove_presence", (node,)), _movement)
        return moved

    async def users(self, topic: str) -> frozenset[UserId]:
        """See `PresenceStore.users`."""
        owners: list[bytes] = await self._line.call(Operation("present", (topic,)))
        return frozenset(user for each in owners if (user := keys.parse_owner(text(each))))


def _address(member: Member) -> str:
    topic, user = member
    return keys.address(topic, user)


def _movement(value: list[Any], _: End) -> Movement:
    known, came, went = value
    return Movement(bool(known), tuple(_members(came)), tuple(_members(went)))


def _members(addresses: Iterable[bytes]) -> Iterable[Member]:
    for each in addresses:
        topic, user = keys.parse_address(text(each))
        if user is not None:
            yield topic, user
