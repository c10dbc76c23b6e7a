"""The contract of every Broker: count the users that are present."""

from __future__ import annotations

from holdfast.brokers.protocol import Broker
from holdfast.core.message import UserId
from holdfast.core.presence import NodeId
from tests.contract.implementations import CLOCK

A, B = NodeId("a"), NodeId("b")
ANN_ON_T, BOB_ON_T = ("t", UserId("ann")), ("t", UserId("bob: +%é"))


class TestPresence:
    """The users of each topic, over all nodes."""

    async def test_counted_once_over_all_nodes(self, broker: Broker) -> None:
        """A user on two nodes joins with the first and leaves with the last."""
        store = broker.presence
        first = await store.update(A, [ANN_ON_T, BOB_ON_T], [], 10.0)
        assert (set(first.joined), first.left) == ({ANN_ON_T, BOB_ON_T}, ())
        repeated = await store.update(B, [ANN_ON_T], [], 10.0)
        assert (repeated.joined, repeated.left) == ((), ())
        assert await store.users("t") == {ANN_ON_T[1], BOB_ON_T[1]}
        assert (await store.update(A, [], [ANN_ON_T, BOB_ON_T], 10.0)).left == (BOB_ON_T,)
        assert await store.users("t") == {"ann"}
        assert (await store.update(B, [], [ANN_ON_T], 10.0)).left == (ANN_ON_T,)
        assert await store.users("t") == frozenset()

    async def test_topics_are_counted_separately(self, broker: Broker) -> None:
        """A user on one topic is not on another."""
        names = ["t", "t.u", "*", "$user", "t:u", "u"]
        for name in names:
            await broker.presence.update(A, [(name, UserId(f"of {name}"))], [], 10.0)
        for name in names:
            assert await broker.presence.users(name) == {f"of {name}"}

    async def test_repeated_update_changes_nothing(self, broker: Broker) -> None:
        """A repeated join or leave is reported and counted once."""
        for n in range(2):
            moved = await broker.presence.update(A, [ANN_ON_T], [], 10.0)
            assert moved.joined == ((ANN_ON_T,) if n == 0 else ())
        for n in range(2):
            moved = await broker.presence.update(A, [], [ANN_ON_T], 10.0)
            assert moved.left == ((ANN_ON_T,) if n == 0 else ())
        assert await broker.presence.users("t") == frozenset()

    async def test_members_of_a_dead_node_leave(self, broker: Broker) -> None:
        """The next update after the lease of a node reports its members as left."""
        await broker.presence.update(A, [ANN_ON_T, BOB_ON_T], [], 10.0)
        await broker.presence.update(B, [BOB_ON_T], [], 100.0)
        CLOCK.skip(11.0)
        moved = await broker.presence.update(B, [], [], 100.0)
        assert (moved.is_known, moved.left) == (True, (ANN_ON_T,))
        assert await broker.presence.users("t") == {BOB_ON_T[1]}
        assert (await broker.presence.update(B, [], [], 100.0)).left == ()

    async def test_node_whose_lease_ended_is_notified(self, broker: Broker) -> None:
        """A node that updates after its lease gets the report that its members were dropped."""
        await broker.presence.update(A, [ANN_ON_T], [], 10.0)
        await broker.presence.update(B, [], [], 100.0)
        CLOCK.skip(11.0)
        moved = await broker.presence.update(A, [], [], 10.0)
        assert (moved.is_known, moved.left) == (False, (ANN_ON_T,))
        assert (await broker.presence.update(A, [], [], 10.0)).is_known

    async def test_outage_drops_no_node(self, broker: Broker) -> None:
        """If no node sent an update for a lease, all get another lease."""
        await broker.presence.update(A, [ANN_ON_T], [], 10.0)
        await broker.presence.update(B, [BOB_ON_T], [], 10.0)
        CLOCK.skip(60.0)
        moved = await broker.presence.update(B, [], [], 10.0)
        assert (moved.is_known, moved.left) == (True, ())
        CLOCK.skip(9.0)
        assert (await broker.presence.update(B, [], [], 10.0)).left == ()
        assert await broker.presence.users("t") == {ANN_ON_T[1], BOB_ON_T[1]}
        CLOCK.skip(2.0)
        assert (await broker.presence.update(B, [], [], 10.0)).left == (ANN_ON_T,)
        assert await broker.presence.users("t") == {BOB_ON_T[1]}

    async def test_nodes_that_die_together_are_dropped_together(self, broker: Broker) -> None:
        """A user who was on two of them leaves once."""
        await broker.presence.update(A, [ANN_ON_T], [], 10.0)
        await broker.presence.update(B, [ANN_ON_T], [], 10.0)
        await broker.presence.update(NodeId("c"), [], [], 100.0)
        CLOCK.skip(11.0)
        moved = await broker.presence.update(NodeId("c"), [], [], 100.0)
        assert (moved.joined, moved.left) == ((), (ANN_ON_T,))
        assert await broker.presence.users("t") == frozenset()

    async def test_members_of_a_node_that_stops_leave(self, broker: Broker) -> None:
        """A user that was on no other node is reported as left at once."""
        await broker.presence.update(A, [ANN_ON_T, BOB_ON_T], [], 10.0)
        await broker.presence.update(B, [BOB_ON_T], [], 10.0)
        assert (await broker.presence.remove(A)).left == (ANN_ON_T,)
        assert (await broker.presence.remove(A)).left == ()

    async def test_many_members_at_once(self, broker: Broker) -> None:
        """Thousands join and leave in one update."""
        many = [("t", UserId(f"u{n}")) for n in range(2500)]
        assert set((await broker.presence.update(A, many, [], 10.0)).joined) == set(many)
        moved = await broker.presence.update(A, many[:100], many[100:], 10.0)
        assert (moved.joined, set(moved.left)) == ((), set(many[100:]))
        assert len(await broker.presence.users("t")) == 100
