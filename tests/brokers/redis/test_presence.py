"""Presence in a real Redis that loses keys, or its last seconds, or does not reply."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from holdfast import MemoryBroker
from holdfast.brokers.protocol import PresenceStore
from holdfast.brokers.redis import RedisBroker, keys
from holdfast.core.message import UserId
from holdfast.core.presence import LocalPresence, Member, NodeId
from holdfast.errors import BrokerUnavailable, OutcomeUnknown
from tests.brokers.redis.conftest import Start
from tests.support.processes import HOST
from tests.support.redis_server import RedisServer, shared_server

A, B = NodeId("a"), NodeId("b")
ANN, BOB = ("t", UserId("ann")), ("t", UserId("bob"))
LEASE = 10.0


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """The presence of one namespace, its clock, and its keys."""

    def __init__(self, broker: RedisBroker, clock: Clock, client: Redis, namespace: str) -> None:
        self.presence, self.clock, self.client = broker.presence, clock, client
        self._prefix = keys.prefix(namespace)

    def key(self, name: str) -> str:
        """A key of the namespace."""
        return f"{self._prefix}:{name}"

    async def lose(self, name: str) -> None:
        """Delete a key that is there."""
        assert await self.client.delete(self.key(name)) == 1

    async def left(self) -> set[str]:
        """The names of the keys of presence."""
        found = [each.decode() async for each in self.client.scan_iter(f"{self._prefix}:*")]
        names = {each.removeprefix(f"{self._prefix}:") for each in found}
        return {name for name in names if name.startswith(("node", "on:"))}


@pytest.fixture
async def site(start: Start, client: Redis, namespace: str) -> Site:
    """A namespace without members."""
    clock = Clock()
    return Site(await start(clock=clock), clock, client, namespace)


class TestLostKeys:
    """Each key may be lost, by eviction or by a DEL of another program."""

    async def test_a_lost_node_is_noticed_and_sent_again(self, site: Site) -> None:
        """The next update reports the loss; after a full update, no user has joined or left."""
        await site.presence.update(A, [ANN, BOB], [], LEASE)
        assert (await site.presence.update(A, [], [], LEASE)).is_known
        await site.lose("node:a")
        moved = await site.presence.update(A, [], [BOB], LEASE)
        assert (moved.is_known, moved.joined, moved.left) == (False, (), (BOB,))
        moved = await site.presence.update(A, [ANN], [BOB], LEASE)
        assert (moved.is_known, moved.joined, moved.left) == (True, (), ())
        assert await site.presence.users("t") == {"ann"}
        assert (await site.presence.remove(A)).left == (ANN,)
        assert await site.left() == set()

    async def test_members_of_a_lost_node_do_not_count(self, site: Site) -> None:
        """A node that ends after its key was lost leaves no member behind."""
        await site.presence.update(A, [ANN], [], LEASE)
        await site.presence.update(B, [BOB], [], LEASE)
        await site.lose("node:a")
        await site.presence.remove(A)
        assert await site.presence.users("t") == {"bob"}
        assert await site.client.hkeys(site.key("on:t")) == [keys.format_user(BOB[1]).encode()]

    async def test_a_member_of_a_lost_node_joins_again(self, site: Site) -> None:
        """A lost node does not count beside the nodes that are alive."""
        await site.presence.update(A, [ANN], [], LEASE)
        await site.lose("node:a")
        await site.presence.remove(A)
        assert (await site.presence.update(B, [ANN], [], LEASE)).joined == (ANN,)
        assert (await site.presence.update(B, [], [ANN], LEASE)).left == (ANN,)
        assert await site.left() == {"nodes", "node:b"}

    async def test_a_lost_topic_is_restored_by_a_full_update(self, site: Site) -> None:
        """A member that is sent again is stored again."""
        await site.presence.update(A, [ANN], [], LEASE)
        await site.lose("on:t")
        assert await site.presence.users("t") == frozenset()
        await site.presence.update(A, [ANN], [], LEASE)
        assert await site.presence.users("t") == {"ann"}

    async def test_lost_leases_are_noticed(self, site: Site) -> None:
        """Each node learns of the loss with its next update, and counts from then on."""
        await site.presence.update(A, [ANN], [], LEASE)
        await site.presence.update(B, [ANN], [], LEASE)
        await site.lose("nodes")
        for node in (A, B):
            assert not (await site.presence.update(node, [], [], LEASE)).is_known
            assert (await site.presence.update(node, [ANN], [], LEASE)).is_known
        assert await site.presence.users("t") == {"ann"}
        assert (await site.presence.remove(A)).left == ()
        assert (await site.presence.remove(B)).left == (ANN,)

    async def test_every_key_expires(self, site: Site) -> None:
        """If all nodes die at once, each key expires; each update extends the keys of its node."""
        await site.presence.update(A, [ANN], [], LEASE)
        assert await site.left() == {"nodes", "node:a", "on:t"}
        for name in await site.left():
            assert 3000 < await site.client.ttl(site.key(name)) <= 7200
        await site.client.expire(site.key("node:a"), 5)
        await site.client.expire(site.key("nodes"), 5)
        await site.presence.update(A, [], [], LEASE)
        for name in ("nodes", "node:a"):
            assert await site.client.ttl(site.key(name)) > 3000


async def test_a_server_that_lacks_updates_is_noticed(site: Site) -> None:
    """Updates that a failover undoes are sent again, also those of users that left."""
    await site.presence.update(A, [ANN], [], LEASE)
    kept = {name: await site.client.dump(site.key(name)) for name in ("node:a", "on:t")}
    assert (await site.presence.update(A, [BOB], [ANN], LEASE)).left == (ANN,)
    for name, dump in kept.items():
        assert dump is not None
        await site.client.restore(site.key(name), 0, dump, replace=True)
    assert await site.presence.users("t") == {"ann"}
    assert not (await site.presence.update(A, [], [], LEASE)).is_known
    assert (await site.presence.update(A, [BOB], [], LEASE)).is_known
    assert await site.presence.users("t") == {"bob"}


@pytest.mark.parametrize("keeps", ["yes", "no"])
async def test_a_user_that_left_during_an_outage_is_reported_afterwards(keeps: str) -> None:
    """After an outage of Redis, with or without loss of its keys, no absent user stays listed."""
    with RedisServer("--appendonly", keeps, "--appendfsync", "always") as server:
        async with Redis(host=HOST, port=server.port) as client:
            broker = RedisBroker(client, timeout=5.0)
            changed: asyncio.Queue[bool] = asyncio.Queue()
            broker.on_availability(changed.put_nowait)
            await broker.start()
            attendance = LocalPresence()
            attendance.enter(ANN)
            attendance.enter(BOB)
            await broker.presence.update(A, *attendance.changes(), LEASE)
            attendance.leave(ANN)
            server.kill()
            for _ in range(2):
                with pytest.raises((BrokerUnavailable, OutcomeUnknown)):
                    await broker.presence.update(A, *attendance.changes(), LEASE)
                attendance.schedule_full_sync()
            server.start()
            async with asyncio.timeout(15):
                while not await changed.get():
                    pass
            moved = await broker.presence.update(A, *attendance.changes(), LEASE)
            assert (moved.is_known, moved.joined, moved.left) == (
                (True, (), (ANN,)) if keeps == "yes" else (False, (BOB,), ())
            )
            assert await broker.presence.users("t") == {"bob"}
            await broker.close()


MEMBERS: list[Member] = [(topic, UserId(user)) for topic in "tu" for user in ("ann", "bob")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["come", "come", "go", "end", "wait", "outage"]),
            st.sampled_from([A, B, NodeId("c")]),
            st.sampled_from(MEMBERS),
        ),
        max_size=30,
    )
)
def test_same_as_in_memory(script: list[tuple[str, NodeId, Member]]) -> None:
    """Both stores return the same, for each sequence of updates, ends and deaths of nodes."""

    async def both() -> None:
        clock = Clock()
        async with Redis.from_url(shared_server().url) as client:
            broker = RedisBroker(client, namespace=secrets.token_hex(8), clock=clock)
            stores: list[PresenceStore] = [broker.presence, MemoryBroker(clock=clock).presence]
            for step, node, member in script:
                clock.now += {"wait": 0.6 * LEASE, "outage": 1.1 * LEASE}.get(step, 0.0)
                answers = list[object]()
                for store in stores:
                    if step == "end":
                        moved = await store.remove(node)
                    else:
                        joined, left = [member] * (step == "come"), [member] * (step == "go")
                        moved = await store.update(node, joined, left, LEASE)
                    users = [await store.users(topic) for topic in "tu"]
                    answers.append((moved.is_known, set(moved.joined), sorted(moved.left), users))
                assert answers[0] == answers[1]
            await broker.close()

    asyncio.run(both())
