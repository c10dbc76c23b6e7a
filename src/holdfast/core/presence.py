"""Presence: which users are on which topic, on this node and over all nodes.

A user is present on each topic that one of their connections is subscribed to by name, and on each
pattern as such. Everyone who is online is present on `$user`. Connections without a user are not
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NewType

from .message import UserId

NodeId = NewType("NodeId", str)

Member = tuple[str, UserId]
"""A topic or pattern, and a user who is present there."""


class LocalPresence:
    """The members of this node, and the changes that were not yet reported to the other nodes.

    Invariant (tests/core/test_presence.py, beside a store that fails): after a report that
    succeeded, the store has exactly the members of this node, even if earlier reports failed or
    their outcome is unknown. A member that leaves and enters again between two reports is not a
    change.
    """

    def __init__(self) -> None:
        self._connections: Counter[Member] = Counter()  # members here, by number of connections
        self._changed: set[Member] = set()  # entered or left since the last report
        self._reported: set[Member] = set()  # the store has them
        self._reported_left: set[Member] = set()  # in the last report, which may have failed
        self._uncertain: set[Member] = set()  # the store may have them

    def enter(self, member: Member) -> None:
        """Count one more connection of the user on the topic."""
        self._connections[member] += 1
        self._changed.add(member)

    def leave(self, member: Member) -> None:
        """Count one connection less of the user on the topic."""
        self._connections[member] -= 1
        if not self._connections[member]:
            del self._connections[member]
        self._changed.add(member)

    def changes(self) -> tuple[list[Member], list[Member]]:
        """Return the members that joined and the members that left since the last call.

        The caller reports them to the store, and calls `schedule_full_sync` if that fails or its
        outcome is unknown.
        """
        changed, self._changed = self._changed, set[Member]()
        uncertain, self._uncertain = self._uncertain, set[Member]()
        here, reported = self._connections, self._reported
        joined = [each for each in changed if each in here and each not in reported]
        left = [
            each for each in changed if each not in here and (each in reported or each in uncertain)
        ]
        reported.update(joined)
        reported.difference_update(left)
        self._reported_left = set(left)
        return joined, left

    def schedule_full_sync(self) -> None:
        """Schedule a report of everything, because the content of the store is uncertain.

        The next `changes()` reports all present members as joined, and all members that the store
        may still have as left.
        """
        self._uncertain |= self._reported | self._reported_left
        self._reported.clear()
        self._changed = self._uncertain.union(self._connections)


@dataclass(frozen=True, slots=True)
class PresenceDelta:
    """A change over all nodes, as a store answers a report.

    Attributes:
        is_known: False if the store does not have all earlier reports of the node, because the
            node is new, its lease ended, or the store lost data. The node then reports everything.
        joined: Members that no node had before.
        left: Members that no node has any more.
    """

    is_known: bool
    joined: tuple[Member, ...] = ()
    left: tuple[Member, ...] = ()


@dataclass(slots=True)
class _NodeMembers:
    lease_until: float
    members: set[Member] = field(default_factory=set[Member])


class PresenceTable:
    """The members of all nodes. The members of a node leave when its lease ends.

    Invariant (tests/core/test_presence.py): a member is in the table while at least one node with
    a lease has it; each join and each leave over all nodes is returned once, to one node.
    """

    def __init__(self) -> None:
        self._nodes: dict[NodeId, _NodeMembers] = {}
        self._node_count: Counter[Member] = Counter()  # member → number of nodes that have it

    def update(
        self,
        node: NodeId,
        joined: Iterable[Member],
        left: Iterable[Member],
        *,
        now: float,
        until: float,
    ) -> PresenceDelta:
        """Apply the report of one node, and remove the nodes whose lease has ended.

        If the leases of all nodes have ended, the table itself could not be reached. All leases
        are then renewed, because no node had a chance to report.

        Args:
            node: The node that reports; a node without an entry is added.
            joined: Members that joined on that node. A member that it already has is ignored.
            left: Members that left on that node. A member that it does not have is ignored.
            now: The time, in seconds.
            until: The end of the node's new lease.
        """
        ended = [each for each, entry in self._nodes.items() if entry.lease_until <= now]
        if len(ended) == len(self._nodes):
            ended = []
            for entry in self._nodes.values():
                entry.lease_until = until
        left_everywhere = [member for each in ended for member in self.remove(each)]
        joined_first: list[Member] = []
        is_known = node in self._nodes
        entry = self._nodes.setdefault(node, _NodeMembers(until))
        entry.lease_until = until
        for member in joined:
            if member not in entry.members:
                entry.members.add(member)
                self._node_count[member] += 1
                if self._node_count[member] == 1:
                    joined_first.append(member)
        left_everywhere += [member for member in left if self._remove_member(entry, member)]
        return PresenceDelta(is_known, tuple(joined_first), tuple(left_everywhere))

    def remove(self, node: NodeId) -> list[Member]:
        """Remove a node, and return its members that no other node has."""
        entry = self._nodes.pop(node, _NodeMembers(0.0))
        return [member for member in list(entry.members) if self._remove_member(entry, member)]

    def users(self, topic: str) -> Iterator[UserId]:
        """Yield the users on a topic or pattern; walks over all members."""
        return (user for name, user in self._node_count if name == topic)

    def _remove_member(self, entry: _NodeMembers, member: Member) -> bool:
        """Remove a member from one node; return True if no other node has it."""
        if member not in entry.members:
            return False
        entry.members.remove(member)
        self._node_count[member] -= 1
        if self._node_count[member]:
            return False
        del self._node_count[member]
        return True
