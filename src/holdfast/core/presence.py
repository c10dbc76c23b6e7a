"""Presence: which users are on which topic, here and over all nodes.

A user is present on what a connection is subscribed to by name: a topic, or a pattern as such. On
`$user` is everybody who is online. Connections without a user are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NewType

from .message import UserId

NodeId = NewType("NodeId", str)

Member = tuple[str, UserId]
"""A topic or pattern, and a user who is there."""


class Attendance:
    """Who is here, on this node, and what of that has not been told to the others.

    Invariant (tests/core/test_presence.py, beside a plain count): what was told, with `changes`
    carried out, is who is here. Someone who leaves and comes back before that has not changed.
    """

    def __init__(self) -> None:
        self._here: Counter[Member] = Counter()
        self._told: set[Member] = set()
        self._changed: set[Member] = set()

    def enter(self, member: Member) -> None:
        """One more connection of the user is on the topic."""
        self._here[member] += 1
        self._changed.add(member)

    def leave(self, member: Member) -> None:
        """One less is."""
        self._here[member] -= 1
        if not self._here[member]:
            del self._here[member]
        self._changed.add(member)

    def changes(self) -> tuple[list[Member], list[Member]]:
        """Who came and who went since the last call; the caller tells the others."""
        changed, self._changed = self._changed, set[Member]()
        came = [each for each in changed if each in self._here and each not in self._told]
        went = [each for each in changed if each not in self._here and each in self._told]
        self._told.update(came)
        self._told.difference_update(went)
        return came, went

    def forget_told(self) -> None:
        """The others know nothing any more: everybody who is here counts as having come."""
        self._told.clear()
        self._changed = set(self._here)


@dataclass(frozen=True, slots=True)
class Movement:
    """Who came and who went, over all nodes. `is_known`: the node that asked had a lease."""

    is_known: bool
    came: tuple[Member, ...] = ()
    went: tuple[Member, ...] = ()


@dataclass(slots=True)
class _Node:
    until: float
    members: set[Member] = field(default_factory=set[Member])


class Roster:
    """Who is where, over all nodes. A node without a lease is dead, and its members are gone.

    Invariant (tests/core/test_presence.py): a member is on the roster while at least one node that
    is alive has it; each coming and going is reported once, to one node.
    """

    def __init__(self) -> None:
        self._nodes: dict[NodeId, _Node] = {}
        self._count: Counter[Member] = Counter()

    def update(
        self,
        node: NodeId,
        came: Iterable[Member],
        went: Iterable[Member],
        *,
        now: float,
        until: float,
    ) -> Movement:
        """Note what changed on `node`, whose lease is until `until`; bury those without one."""
        arrived: list[Member] = []
        departed = [each for dead in self._expired(now) for each in self.remove(dead)]
        is_known = node in self._nodes
        record = self._nodes.setdefault(node, _Node(until))
        record.until = until
        for member in came:
            if member not in record.members:
                record.members.add(member)
                self._count[member] += 1
                if self._count[member] == 1:
                    arrived.append(member)
        departed += [member for member in went if self._drop(record, member)]
        return Movement(is_known, tuple(arrived), tuple(departed))

    def remove(self, node: NodeId) -> list[Member]:
        """A node is gone; return who was nowhere else."""
        record = self._nodes.pop(node, _Node(0.0))
        return [member for member in list(record.members) if self._drop(record, member)]

    def users(self, topic: str) -> Iterator[UserId]:
        """Who is on a topic; costs a search."""
        return (user for name, user in self._count if name == topic)

    def _expired(self, now: float) -> list[NodeId]:
        return [node for node, record in self._nodes.items() if record.until <= now]

    def _drop(self, record: _Node, member: Member) -> bool:
        if member not in record.members:
            return False
        record.members.remove(member)
        self._count[member] -= 1
        if self._count[member]:
            return False
        del self._count[member]
        return True
