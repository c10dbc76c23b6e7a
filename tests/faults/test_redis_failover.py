"""A replica takes over, with all that was acknowledged or without its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.faults.hub import PATIENCE, Hopper, Log, hopping, nodes, settle
from tests.support.processes import HOST
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer


@dataclass
class Pair:
    """A primary and its replica; whoever connects to `address` gets the one that is in charge."""

    primary: RedisServer
    replica: RedisServer
    address: Proxy

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.address.port}"

    async def cut_off(self) -> None:
        """From now on the replica hears nothing from the primary."""
        await self._to_replica("REPLICAOF", HOST, "1")

    async def fail_over(self) -> None:
        """The primary dies, and the replica takes its place."""
        await asyncio.to_thread(self.primary.kill)
        await self._to_replica("REPLICAOF", "NO", "ONE")
        self.address.target = self.replica.port
        self.address.cut()

    async def wait_replicated(self) -> None:
        """Until the replica has all that the primary has."""
        async with asyncio.timeout(PATIENCE):
            while await offset(self.replica) < await offset(self.primary):  # noqa: ASYNC110 - asks
                await asyncio.sleep(0.05)

    async def begin_streaming(self) -> None:
        """A replica that is up hears of changes only after its first acknowledgement."""
        await asyncio.to_thread(self.primary.command, "SET", "begin", "")
        await self.wait_replicated()

    async def _to_replica(self, *words: str) -> None:
        await asyncio.to_thread(self.replica.command, *words)


async def offset(server: RedisServer) -> int:
    """How many bytes of changes it has seen; WAIT knows only of those of its own connection."""
    info = await asyncio.to_thread(server.command, "INFO", "replication")
    return int(info.partition("master_repl_offset:")[2].split()[0])


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """A replica that is in step with its primary."""
    with RedisServer() as primary:
        follow = f"{HOST} {primary.port}"
        with RedisServer("--replicaof", follow) as replica:
            await asyncio.to_thread(replica.wait_for, "replication", "master_link_status:up")
            async with Proxy(primary.port) as address:
                servers = Pair(primary, replica, address)
                await servers.begin_streaming()
                yield servers


async def test_a_clean_failover_costs_nothing() -> None:
    """With everything replicated, each client resumes without a gap, from whatever node."""
    async with pair() as servers, nodes(servers.url, 2) as hub:
        log = Log()
        clients = [Hopper(hub, at) for at in range(4)]
        async with hopping(*clients):
            await log.publish_many(hub, 30)
            await servers.wait_replicated()
            await servers.fail_over()
            await log.publish_many(hub, 30)
            await settle(log, clients, hub[0])
        for client in clients:
            client.check(log)
            assert "resumed" in client.sessions
            assert not client.gaps


async def test_who_saw_the_end_that_was_lost_is_told() -> None:
    """The replica lacks the end: who saw it is told `failover`, who did not resumes without a gap.

    Its offsets are issued again, with other contents, and everybody gets those.
    """
    async with pair() as servers, nodes(servers.url, 2) as hub:
        log = Log()
        saw, behind = Hopper(hub, 0), Hopper(hub, 1)
        async with hopping(saw, behind):
            await log.publish_many(hub, 20)
            for client in (saw, behind):
                await client.until(lambda client: len(client.got) == 20)
        async with hopping(saw):
            await servers.wait_replicated()
            await servers.cut_off()
            await log.publish_many(hub, 10)
            await saw.until(lambda _: len(saw.got) == 30)
            lost = frozenset(log.published[-10:])
            await servers.fail_over()
            await log.publish_many(hub, 30)
            async with hopping(behind):
                await settle(log, [saw, behind], hub[0])
        saw.check(log, sessions=["fresh", "resumed", "failover"])
        behind.check(log, lost=lost)
        assert saw.sessions.count("failover") == 1
        assert not saw.gaps
        assert not behind.gaps
        assert not lost & set(behind.got)
        assert set(log.published) - lost <= set(behind.got)
        assert set(log.published) <= set(saw.got)


async def test_the_end_that_was_lost_is_told_to_who_was_away() -> None:
    """A client that saw the lost end, went, and comes back long after: it is told, once."""
    async with pair() as servers, nodes(servers.url, 2) as hub:
        log = Log()
        client = Hopper(hub)
        async with hopping(client):
            await log.publish_many(hub, 5)
            await servers.wait_replicated()
            await servers.cut_off()
            await log.publish_many(hub, 5)
            await client.until(lambda _: len(client.got) == 10)
        await servers.fail_over()
        await log.publish_many(hub, 50)
        async with hopping(client):
            await settle(log, [client], hub[0])
            client.cut()
            await client.until(lambda _: len(client.sessions) == 3)
        assert client.sessions == ["fresh", "failover", "resumed"]
        client.check(log, sessions=client.sessions)
        assert set(log.published) <= set(client.got)


async def test_failover_again_and_again_while_busy() -> None:
    """Three clean failovers under load, each onto a new replica: nothing lost but what Redis lost.

    Redis replicates without waiting, so the last moments may be gone; whoever saw them is told.
    """
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(pair())
        hub = await stack.enter_async_context(nodes(servers.url, 2))
        log = Log()
        clients = [Hopper(hub, at) for at in range(4)]
        async with hopping(*clients):
            for _ in range(3):
                async with log.busy(hub):
                    await asyncio.sleep(0.4)
                    await servers.fail_over()
                    await log.publish_many(hub, 5)
                promoted = servers.replica
                again = stack.enter_context(RedisServer("--replicaof", f"{HOST} {promoted.port}"))
                await asyncio.to_thread(again.wait_for, "replication", "master_link_status:up")
                servers.primary, servers.replica = promoted, again
                await servers.begin_streaming()
            await settle(log, clients, hub[0])
        kept = await in_log(servers.primary)
        for client in clients:
            lost = frozenset(log.published) - kept
            client.check(log, sessions=["fresh", "resumed", "failover"], lost=lost)
            assert not client.gaps


async def in_log(server: RedisServer) -> set[int]:
    """The numbers of all messages that the log holds."""
    found: set[int] = set()
    for key in (await asyncio.to_thread(server.command, "KEYS", "*:m:*")).split():
        text = await asyncio.to_thread(server.command, "XRANGE", key, "-", "+")
        for line in text.splitlines():
            if '"data":' in line:
                found.add(int(line.partition('"data":')[2].partition(",")[0]))
    return found
