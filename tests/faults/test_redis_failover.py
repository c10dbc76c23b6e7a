"""A replica takes over, with everything that was acknowledged or without its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.faults.redis_log import (
    PATIENCE,
    NumberedMessages,
    RoamingClient,
    deliver_last,
    nodes,
    running,
)
from tests.support.processes import HOST
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.real_time, pytest.mark.slow]


@dataclass
class PrimaryAndReplica:
    """A primary and its replica. A connection to `address` reaches the active one."""

    primary: RedisServer
    replica: RedisServer
    address: Proxy

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.address.port}"

    async def cut_off(self) -> None:
        """Stop the replication: the replica receives nothing more from the primary."""
        await self._to_replica("REPLICAOF", HOST, "1")

    async def fail_over(self) -> None:
        """End the primary, and promote the replica."""
        await asyncio.to_thread(self.primary.kill)
        await self._to_replica("REPLICAOF", "NO", "ONE")
        self.address.target = self.replica.port
        self.address.cut()

    async def wait_replicated(self) -> None:
        """Wait until the replica has everything that the primary has."""
        async with asyncio.timeout(PATIENCE):
            while await offset(self.replica) < await offset(self.primary):  # noqa: ASYNC110 - asks
                await asyncio.sleep(0.05)

    async def begin_streaming(self) -> None:
        """Wait until the replica streams, which begins with its first acknowledgement."""
        await asyncio.to_thread(self.primary.command, "SET", "begin", "")
        await self.wait_replicated()

    async def _to_replica(self, *words: str) -> None:
        await asyncio.to_thread(self.replica.command, *words)


async def offset(server: RedisServer) -> int:
    """Return the bytes of changes; WAIT covers only those of its own connection."""
    info = await asyncio.to_thread(server.command, "INFO", "replication")
    return int(info.partition("master_repl_offset:")[2].split()[0])


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[PrimaryAndReplica]:
    """Start a primary with a replica that is in step."""
    with RedisServer() as primary:
        follow = f"{HOST} {primary.port}"
        with RedisServer("--replicaof", follow) as replica:
            await asyncio.to_thread(replica.wait_for, "replication", "master_link_status:up")
            async with Proxy(primary.port) as address:
                servers = PrimaryAndReplica(primary, replica, address)
                await servers.begin_streaming()
                yield servers


async def test_failover_with_a_complete_replica_loses_nothing() -> None:
    """Each client resumes without a gap on any node, because the replica is complete."""
    async with pair() as servers, nodes(servers.url, 2) as hub:
        log = NumberedMessages()
        clients = [RoamingClient(hub, at) for at in range(4)]
        async with running(*clients):
            await log.publish_many(hub, 30)
            await servers.wait_replicated()
            await servers.fail_over()
            await log.publish_many(hub, 30)
            await deliver_last(log, clients, hub[0])
        for client in clients:
            client.check(log)
            assert "resumed" in client.sessions
            assert not client.gaps


async def test_failover_is_reported_to_clients_ahead_of_the_replica() -> None:
    """A client that saw the lost end gets `failover`; a client that did not resumes without a gap.

    The lost offsets are issued again with other messages, and every client gets those.
    """
    async with pair() as servers, nodes(servers.url, 2) as hub:
        log = NumberedMessages()
        saw, behind = RoamingClient(hub, 0), RoamingClient(hub, 1)
        async with running(saw, behind):
            await log.publish_many(hub, 20)
            for client in (saw, behind):
                await client.wait_until(lambda client: len(client.received) == 20)
        async with running(saw):
            await servers.wait_replicated()
            await servers.cut_off()
            await log.publish_many(hub, 10)
            await saw.wait_until(lambda _: len(saw.received) == 30)
            lost = frozenset(log.published[-10:])
            await servers.fail_over()
            await log.publish_many(hub, 30)
            async with running(behind):
                await deliver_last(log, [saw, behind], hub[0])
        saw.check(log, sessions=["fresh", "resumed", "failover"])
        behind.check(log, lost=lost)
        assert saw.sessions.count("failover") == 1
        assert not saw.gaps
        assert not behind.gaps
        assert not lost & set(behind.received)
        assert set(log.published) - lost <= set(behind.received)
        assert set(log.published) <= set(saw.received)


async def test_failover_is_reported_once_to_a_client_that_was_away() -> None:
    """A client that saw the lost end and reconnects much later gets `failover` once."""
    async with pair() as servers, nodes(servers.url, 2) as hub:
        log = NumberedMessages()
        client = RoamingClient(hub)
        async with running(client):
            await log.publish_many(hub, 5)
            await servers.wait_replicated()
            await servers.cut_off()
            await log.publish_many(hub, 5)
            await client.wait_until(lambda _: len(client.received) == 10)
        await servers.fail_over()
        await log.publish_many(hub, 50)
        async with running(client):
            await deliver_last(log, [client], hub[0])
            client.cut()
            await client.wait_until(lambda _: len(client.sessions) == 3)
        assert client.sessions == ["fresh", "failover", "resumed"]
        client.check(log, sessions=client.sessions)
        assert set(log.published) <= set(client.received)


async def test_repeated_failovers_under_load_lose_nothing_silently() -> None:
    """After three failovers under load, only messages that Redis itself lost are missing.

    Redis replicates asynchronously, so the last moments may be lost. Clients that saw them get
    `failover`.
    """
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(pair())
        hub = await stack.enter_async_context(nodes(servers.url, 2))
        log = NumberedMessages()
        clients = [RoamingClient(hub, at) for at in range(4)]
        async with running(*clients):
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
            await deliver_last(log, clients, hub[0])
        kept = await in_log(servers.primary)
        for client in clients:
            lost = frozenset(log.published) - kept
            client.check(log, sessions=["fresh", "resumed", "failover"], lost=lost)
            assert not client.gaps


async def in_log(server: RedisServer) -> set[int]:
    """Return the numbers of all messages in the log."""
    found: set[int] = set()
    for key in (await asyncio.to_thread(server.command, "KEYS", "*:m:*")).split():
        text = await asyncio.to_thread(server.command, "XRANGE", key, "-", "+")
        for line in text.splitlines():
            if '"data":' in line:
                found.add(int(line.partition('"data":')[2].partition(",")[0]))
    return found
