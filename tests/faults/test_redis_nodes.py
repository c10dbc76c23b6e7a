"""Clients move between nodes: all at once, from a node that is ahead, and by Sentinel's address."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable

import pytest
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel

from holdfast import Broadcaster
from holdfast.brokers.redis import RedisBroker
from tests.faults.redis_log import (
    PATIENCE,
    TOPICS,
    NumberedMessages,
    RoamingClient,
    deliver_last,
    feed_links,
    nodes,
    running,
)
from tests.support.processes import HOST, free_port
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

RANGES = ("xrange", "xrevrange", "lrange", "zrangebyscore", "zrange")


async def resume(node: Broadcaster, id: str | None, last: int | None) -> str:
    """Connect, read until `last`, and disconnect. Returns the last event id."""
    async with asyncio.timeout(30), node.connect(topics=TOPICS, last_event_id=id) as connection:
        while True:
            frames = await connection.next_frames()
            assert frames is not None
            connection.mark_sent()
            for frame in frames:
                body = json.loads(frame.body)
                assert b'"gap"' not in frame.body
                done = body["type"] == "connection_established" and last is None
                if done or (body["type"] == "message" and body["data"] == last):
                    return frame.id


@pytest.mark.parametrize("fetches", [False, True], ids=["followed", "fetched"])
async def test_thousand_resumes_need_as_many_reads_as_ten(fetches: bool) -> None:
    """1,000 resumes at once cost Redis as many range reads as ten, and few calls.

    `fetched`: the node has just started and the feed is gone, so everything has to be read.
    """
    ranges, calls = dict[int, int](), dict[int, int]()
    with RedisServer() as server:
        for count in (10, 1000):
            hub = secrets.token_hex(8)
            log = NumberedMessages()
            async with Redis.from_url(server.url) as client:
                async with nodes(server.url, 1, namespace=hub) as (first,):
                    ids = await asyncio.gather(*(resume(first, None, None) for _ in range(count)))
                    await log.publish_many([first], 100)
                    if not fetches:
                        await client.config_resetstat()
                        await resume_all(first, ids, log.published[-1])
                if fetches:
                    await client.delete(*await client.keys(f"*{hub}*:feed"))
                    async with nodes(server.url, 1, namespace=hub) as (late,):
                        await client.config_resetstat()
                        await resume_all(late, ids, log.published[-1])
                stats = await client.info("commandstats")
            called = {name.removeprefix("cmdstat_"): s["calls"] for name, s in stats.items()}
            ranges[count] = sum(called.get(name, 0) for name in RANGES)
            calls[count] = called["evalsha"]
    # Clients that need the same page share the answer; a thousand clients span a few moments.
    assert ranges[1000] <= ranges[10] + 40, (ranges, calls)
    # Redeem, record and detach share calls: at most 128 operations per call.
    assert calls[1000] <= 1000, (ranges, calls)


async def resume_all(node: Broadcaster, ids: list[str], last: int) -> None:
    """Resume all clients at once."""
    await asyncio.gather(*(resume(node, id, last) for id in ids))


async def test_client_moves_to_a_node_that_lags_without_loss() -> None:
    """The other node reads late what the client has seen: no message is repeated or lost."""
    hub = secrets.token_hex(8)
    with RedisServer() as server:
        async with contextlib.AsyncExitStack() as stack:
            (ahead,) = await stack.enter_async_context(nodes(server.url, 1, namespace=hub))
            proxy = await stack.enter_async_context(Proxy(server.port))
            client_of_redis = await stack.enter_async_context(Redis.from_url(server.url))
            url = f"redis://{HOST}:{proxy.port}"
            (lags,) = await stack.enter_async_context(nodes(url, 1, namespace=hub))
            log = NumberedMessages()
            client = RoamingClient([ahead, lags])
            marks, stalls = list[int](), 0
            async with running(client):
                for _ in range(6):
                    held = await feed_links(client_of_redis, proxy)
                    for link in held:
                        link.stall()
                    await log.publish_many([ahead], 20)
                    await asyncio.sleep(0.05)
                    client.cut()
                    await asyncio.sleep(0.1)
                    marks.append(highest(client.last_id))
                    stalls += bool(held)
                    for link in held:
                        link.resume()
                    await log.publish_many([ahead], 5)
                    await client.wait_until(lambda _: log.published[-1] in client.received)
                    marks.append(highest(client.last_id))
                await deliver_last(log, [client], ahead)
            client.check(log)
            assert not client.gaps
            assert marks == sorted(marks)
            assert stalls > 3


def highest(id: str | None) -> int:
    """Return the highest mark of an event id."""
    assert id is not None
    return max(int(mark) for mark in id.split("~")[1].split("."))


async def serve(url: str, hub: str, up: list[Broadcaster], ending: asyncio.Event) -> None:
    """Run one node in its own task. Clients stop using it when it begins to end."""
    async with nodes(url, 1, namespace=hub) as (node,):
        up.append(node)
        await ending.wait()
        up.remove(node)
        assert await node.drain(5.0)


async def test_rolling_restart_of_all_nodes_resets_no_client() -> None:
    """Each node drains and starts again: no reset, no gap, no refused client."""
    hub = secrets.token_hex(8)
    with RedisServer() as server:
        log, up = NumberedMessages(), list[Broadcaster]()
        async with asyncio.TaskGroup() as group:
            serving = list[tuple[asyncio.Task[None], asyncio.Event]]()

            def begin() -> None:
                ending = asyncio.Event()
                serving.append((group.create_task(serve(server.url, hub, up, ending)), ending))

            for _ in range(3):
                begin()
            await until(lambda: len(up) == 3)
            clients = [RoamingClient(up, at) for at in range(6)]
            async with running(*clients):
                for _ in range(6):
                    await log.publish_many(up[1:], 5)
                    task, ending = serving.pop(0)
                    async with log.busy([up[-1]]):
                        ending.set()
                        await asyncio.wait([task])
                        begin()
                        await until(lambda: len(up) == 3)
                await deliver_last(log, clients, up[0])
            for _, ending in serving:
                ending.set()
        for client in clients:
            client.check(log)
            assert not client.gaps
            assert not client.refusals


async def test_nodes_follow_the_primary_that_sentinel_promotes() -> None:
    """Nodes that use redis-py's Sentinel client continue on the promoted replica."""
    with RedisServer() as primary, RedisServer("--replicaof", f"{HOST} {primary.port}") as replica:
        config = (
            f"sentinel monitor main {HOST} {primary.port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 3000\n"
        )
        await asyncio.to_thread(replica.wait_for, "replication", "master_link_status:up")
        with RedisServer(program="redis-sentinel", config=config, port=free_port()) as sentinel:
            async with contextlib.AsyncExitStack() as stack:
                watch = Sentinel([(HOST, sentinel.port)])
                for guard in watch.sentinels:
                    stack.push_async_callback(guard.aclose)
                hub = list[Broadcaster]()
                for _ in range(2):
                    master = await stack.enter_async_context(watch.master_for("main"))
                    broker = RedisBroker(master)
                    hub.append(await stack.enter_async_context(Broadcaster(broker=broker)))
                await until(lambda: "slaves=1" in sentinel.command("INFO", "sentinel"))
                log = NumberedMessages()
                clients = [RoamingClient(hub, at) for at in range(2)]
                async with running(*clients):
                    await log.publish_many(hub, 20)
                    await asyncio.sleep(1.5)  # a replica streams from its first acknowledgement
                    await asyncio.to_thread(primary.kill)
                    await log.publish_many(hub, 20)
                    await deliver_last(log, clients, hub[0])
                for each in clients:
                    each.check(log)
                    assert not each.gaps


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - asks another process
            await asyncio.sleep(0.1)
