"""Redis away, for a while or for good: nobody is told anything untrue, and all goes on after it."""

from __future__ import annotations

import asyncio
import time

import pytest

from holdfast import Refused
from holdfast.errors import BrokerUnavailable, OutcomeUnknown
from tests.faults.hub import Hopper, Log, hopping, nodes, settle
from tests.support.redis_server import RedisServer


async def test_a_stopped_server_is_told_and_all_goes_on_after_it() -> None:
    """SIGSTOP: publishers fail soon, then at once; clients stay, hear it, and lose nothing.

    Who comes meanwhile is refused with 503. After SIGCONT nobody has to come back.
    """
    with RedisServer() as server:
        async with nodes(server.url, 2) as hub:
            log = Log()
            clients = [Hopper(hub, at) for at in range(4)]
            async with hopping(*clients):
                await log.publish_many(hub, 20)
                server.pause()
                began = time.monotonic()
                assert not await log.publish(hub[0])
                assert log.seconds[0] < 2.5
                began = time.monotonic()
                for _ in range(5):
                    assert not await log.publish(hub[0])
                assert time.monotonic() - began < 0.5
                for client in clients:
                    await client.until(lambda client: "degraded" in client.controls)
                with pytest.raises(Refused) as refused:
                    await hub[0].connect(topics=["t.a"]).__aenter__()
                assert refused.value.reason.status == 503
                server.go_on()
                for client in clients:
                    await client.until(lambda client: "recovered" in client.controls)
                await log.publish_many(hub, 20)
                await settle(log, clients, hub[1])
            for client in clients:
                assert client.sessions == ["fresh"]
                assert client.controls == ["degraded", "recovered"]
                client.check(log, sessions=["fresh"])


async def test_waiting_publishers_fail_together() -> None:
    """Many publishers that wait for a stopped server all hear of it within its timeout."""
    with RedisServer() as server:
        async with nodes(server.url, 1) as (node,):
            log = Log()
            await log.publish_many([node], 3)
            server.pause()
            began = time.monotonic()
            failures = await asyncio.gather(
                *(node.publish("t.a", n) for n in range(500)), return_exceptions=True
            )
            assert time.monotonic() - began < 2.6
            kinds = [type(failure) for failure in failures]
            assert set(kinds) == {BrokerUnavailable, OutcomeUnknown}
            assert kinds.count(OutcomeUnknown) <= 128  # the others were never sent
            server.go_on()
            await log.publish_many([node], 3)


async def test_a_server_that_comes_back_with_its_data_has_cost_nothing() -> None:
    """Kill -9 with an append-only file that is always written: everybody resumes without a gap."""
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        async with nodes(server.url, 2) as hub:
            log = Log()
            clients = [Hopper(hub, at) for at in range(4)]
            async with hopping(*clients):
                async with log.busy(hub):
                    for _ in range(2):
                        await asyncio.sleep(0.5)
                        await asyncio.to_thread(server.kill)
                        await asyncio.sleep(0.3)
                        await asyncio.to_thread(server.start)
                        await log.publish_many(hub, 10)
                await settle(log, clients, hub[1])
            for client in clients:
                client.check(log)
                assert "resumed" in client.sessions
                assert not client.gaps


async def test_a_server_that_comes_back_empty_is_a_reset() -> None:
    """Kill -9 without any file: each client is told `restart`, and has all from then on."""
    with RedisServer() as server:
        async with nodes(server.url, 2) as hub:
            log = Log()
            clients = [Hopper(hub, at) for at in range(4)]
            async with hopping(*clients):
                await log.publish_many(hub, 20)
                async with log.busy(hub):
                    await asyncio.to_thread(server.kill)
                    await asyncio.sleep(0.3)
                    await asyncio.to_thread(server.start)
                    for client in clients:
                        await client.until(lambda client: client.resets)
                await settle(log, clients, hub[1])
            for client in clients:
                client.check(log, sessions=["fresh", "restart", "unknown", "resumed"])
                assert client.resets
                assert set(client.controls) >= {"degraded"}


async def test_nothing_is_done_while_the_server_is_away() -> None:
    """A publisher that is refused at once is told that nothing was done, and that is so."""
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        async with nodes(server.url, 1) as (node,):
            log = Log()
            await log.publish_many([node], 3)
            await asyncio.to_thread(server.kill)
            kinds = []
            for n in range(10):
                with pytest.raises((BrokerUnavailable, OutcomeUnknown)) as failed:
                    await node.publish("t.a", f"never {n}")
                kinds.append(failed.type)
                await asyncio.sleep(0.1)
            assert kinds[1:] == [BrokerUnavailable] * 9
            await asyncio.to_thread(server.start)
            await log.publish_many([node], 1)
            async with node.connect(topics=["t.a"]):
                pass
            keys = server.command("KEYS", "*:m:*")
            texts = [server.command("XRANGE", key, "-", "+") for key in keys.split()]
            assert sum(text.count("never") for text in texts) <= kinds.count(OutcomeUnknown)
