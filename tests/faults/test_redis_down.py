"""Redis is unavailable for a while or for good: no report is wrong, and service continues."""

from __future__ import annotations

import asyncio
import time

import pytest

from holdfast import Refused
from holdfast.errors import BrokerUnavailable, OutcomeUnknown
from tests.faults.redis_log import NumberedMessages, RoamingClient, deliver_last, nodes, running
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.real_time, pytest.mark.slow]


async def test_stopped_redis_is_reported_and_clients_stay_connected() -> None:
    """During SIGSTOP, publishers fail soon, later at once; clients are notified and lose nothing.

    New connections are refused with 503. After SIGCONT no client has to reconnect.
    """
    with RedisServer() as server:
        async with nodes(server.url, 2) as hub:
            log = NumberedMessages()
            clients = [RoamingClient(hub, at) for at in range(4)]
            async with running(*clients):
                await log.publish_many(hub, 20)
                server.pause()
                began = time.monotonic()
                assert not await log.publish(hub[0])
                assert log.failure_times[0] < 2.5
                began = time.monotonic()
                for _ in range(5):
                    assert not await log.publish(hub[0])
                assert time.monotonic() - began < 0.5
                for client in clients:
                    await client.wait_until(lambda client: "degraded" in client.controls)
                with pytest.raises(Refused) as refused:
                    await hub[0].connect(topics=["t.a"]).__aenter__()
                assert refused.value.reason.status == 503
                server.resume()
                for client in clients:
                    await client.wait_until(lambda client: "recovered" in client.controls)
                await log.publish_many(hub, 20)
                await deliver_last(log, clients, hub[1])
            for client in clients:
                assert client.sessions == ["fresh"]
                assert client.controls == ["degraded", "recovered"]
                client.check(log, sessions=["fresh"])


async def test_waiting_publishers_fail_within_one_timeout() -> None:
    """All publishers that wait for a stopped server fail within its timeout."""
    with RedisServer() as server:
        async with nodes(server.url, 1) as (node,):
            log = NumberedMessages()
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
            server.resume()
            await log.publish_many([node], 3)


async def test_redis_restarted_with_its_data_loses_nothing() -> None:
    """After SIGKILL with an append-only file that is always written, every client resumes."""
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        async with nodes(server.url, 2) as hub:
            log = NumberedMessages()
            clients = [RoamingClient(hub, at) for at in range(4)]
            async with running(*clients):
                async with log.busy(hub):
                    for _ in range(2):
                        await asyncio.sleep(0.5)
                        await asyncio.to_thread(server.kill)
                        await asyncio.sleep(0.3)
                        await asyncio.to_thread(server.start)
                        await log.publish_many(hub, 10)
                await deliver_last(log, clients, hub[1])
            for client in clients:
                client.check(log)
                assert "resumed" in client.sessions
                assert not client.gaps


async def test_redis_restarted_empty_is_a_reset() -> None:
    """After SIGKILL without a file, each client gets `restart`, and everything from then on."""
    with RedisServer() as server:
        async with nodes(server.url, 2) as hub:
            log = NumberedMessages()
            clients = [RoamingClient(hub, at) for at in range(4)]
            async with running(*clients):
                await log.publish_many(hub, 20)
                async with log.busy(hub):
                    await asyncio.to_thread(server.kill)
                    await asyncio.sleep(0.3)
                    await asyncio.to_thread(server.start)
                    for client in clients:
                        await client.wait_until(lambda client: client.reset_times)
                await deliver_last(log, clients, hub[1])
            for client in clients:
                client.check(log, sessions=["fresh", "restart", "unknown", "resumed"])
                assert client.reset_times
                assert set(client.controls) >= {"degraded"}


async def test_refused_publish_was_not_carried_out() -> None:
    """A publisher that is refused at once can rely on it: the message was not published."""
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        async with nodes(server.url, 1) as (node,):
            log = NumberedMessages()
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
