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


class LocalPresence:
    """Who is here, on this node, and what of that has not been told to the others.

    Invariant (tests/core/test_presence.py, beside a store that fails): after a telling that was
    carried out, what the others know is who is here, whatever became of the tellings before it.
    Someone who leaves and comes back between two tellings has not changed.
    """

    def __init__(self) -> None:
        self._here: Counter[Member] = Counter()
        self._told: set[Member] = set()
        self._leaving: set[Member] = set()  # told last as gone; nobody said yet that it was heard
        self._doubtful: set[Member] = set()  # the others may know them, or not
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
        """Who came and who went since the last call; the caller tells the others.

        A caller that cannot tell them, or got no answer, calls `schedule_full_sync`.
        """
        changed, self._changed = self._changed, set[Member]()
        doubtful, self._doubtful = self._doubtful, set[Member]()
        joined = [each for each in changed if each in self._here and each not in self._told]
        gone = [each for each in changed if each not in self._here]
        left = [each for each in gone if each in self._told or each in doubtful]
        self._told.update(joined)
        self._told.difference_update(left)
        self._leaving = set(left)
        return joined, left

    def schedule_full_sync(self) -> None:
        """Nobody knows what the others know: who is here has come, who may have been has gone."""
        self._doubtful |= self._told | self._leaving
        self._told.clear()
        self._changed = self._doubtful.union(self._here)


@dataclass(frozen=True, slots=True)
class PresenceDelta:
    """Who came and who went, over all nodes.

    Without `is_known`, not all that the node told before is noted: it was taken for dead, or is
    new, or the store lost something. It tells everything again.
    """

    is_known: bool
    joined: tuple[Member, ...] = ()
    left: tuple[Member, ...] = ()


@dataclass(slots=True)
class _Node:
    until: float
    members: set[Member] = field(default_factory=set[Member])


class PresenceTable:
    """Who is where, over all nodes. A node without a lease is dead, and its members are gone.

    If nobody has one, it was the roster that could not be reached: all are given another.

    Invariant (tests/core/test_presence.py): a member is on the roster while at least one node that
    is alive has it; each coming and going is reported once, to one node.
    """

    def __init__(self) -> None:
        self._nodes: dict[NodeId, _Node] = {}
        self._count: Counter[Member] = Counter()

    def update(
        self,
        node: NodeId,
        joined: Iterable[Member],
        left: Iterable[Member],
        *,
        now: float,
        until: float,
    ) -> PresenceDelta:
        """Note what changed on `node`, whose lease is until `until`; bury those without one."""
        arrived: list[Member] = []
        departed = [each for dead in self._dead(now, until) for each in self.remove(dead)]
        is_known = node in self._nodes
        record = self._nodes.setdefault(node, _Node(until))
        record.until = until
        for member in joined:
            if member not in record.members:
                record.members.add(member)
                self._count[member] += 1
                if self._count[member] == 1:
                    arrived.append(member)
        departed += [member for member in left if self._drop(record, member)]
        return PresenceDelta(is_known, tuple(arrived), tuple(departed))

    def remove(self, node: NodeId) -> list[Member]:
        """A node is gone; return who was nowhere else."""
        record = self._nodes.pop(node, _Node(0.0))
        return [member for member in list(record.members) if self._drop(record, member)]

    def users(self, topic: str) -> Iterator[UserId]:
        """Who is on a topic; costs a search."""
        return (user for name, user in self._count if name == topic)

    def _dead(self, now: float, until: float) -> list[NodeId]:
        over = [node for node, record in self._nodes.items() if record.until <= now]
        if len(over) < len(self._nodes):
            return over
        for record in self._nodes.values():  # nobody was heard, which says nothing of any of them
            record.until = until
        return []

    def _drop(self, record: _Node, member: Member) -> bool:
        if member not in record.members:
            return False
        record.members.remove(member)
        self._count[member] -= 1
        if self._count[member]:
            return False
        del self._count[member]
        return True
