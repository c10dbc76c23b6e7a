"""Clients that move between nodes: all at once, from one that is ahead, by Sentinel's address."""

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
from tests.faults.hub import PATIENCE, TOPICS, Hopper, Log, feed_links, hopping, nodes, settle
from tests.support.processes import HOST, free_port
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer

RANGES = ("xrange", "xrevrange", "lrange", "zrangebyscore", "zrange")


async def resume(node: Broadcaster, id: str | None, last: int | None) -> str:
    """Connect, read until ``last`` has come, and leave; the last event id."""
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
async def test_a_storm_reads_no_more_than_a_single_client(fetches: bool) -> None:
    """1,000 clients resume at once: Redis sees as many range reads as for ten, and few calls.

    ``fetched``: the node has just started and the feed is gone, so everything has to be asked for.
    """
    ranges, calls = dict[int, int](), dict[int, int]()
    with RedisServer() as server:
        for count in (10, 1000):
            hub = secrets.token_hex(8)
            log = Log()
            async with Redis.from_url(server.url) as client:
                async with nodes(server.url, 1, hub=hub) as (first,):
                    ids = await asyncio.gather(*(resume(first, None, None) for _ in range(count)))
                    await log.publish_many([first], 100)
                    if not fetches:
                        await client.config_resetstat()
                        await resume_all(first, ids, log.published[-1])
                if fetches:
                    await client.delete(*await client.keys(f"*{hub}*:feed"))
                    async with nodes(server.url, 1, hub=hub) as (late,):
                        await client.config_resetstat()
                        await resume_all(late, ids, log.published[-1])
                stats = await client.info("commandstats")
            called = {name.removeprefix("cmdstat_"): s["calls"] for name, s in stats.items()}
            ranges[count] = sum(called.get(name, 0) for name in RANGES)
            calls[count] = called["evalsha"]
    # Those who ask for the same at the same moment share the answer; a thousand are some moments.
    assert ranges[1000] <= ranges[10] + 40, (ranges, calls)
    # Redeem, record, and detach go together: at most 128 operations to a call.
    assert calls[1000] <= 1000, (ranges, calls)


async def resume_all(node: Broadcaster, ids: list[str], last: int) -> None:
    """All at once."""
    await asyncio.gather(*(resume(node, id, last) for id in ids))


async def test_from_a_node_that_is_ahead_to_one_that_lags() -> None:
    """The other node hears late of what the client has seen: nothing twice, nothing lost."""
    hub = secrets.token_hex(8)
    with RedisServer() as server:
        async with contextlib.AsyncExitStack() as stack:
            (ahead,) = await stack.enter_async_context(nodes(server.url, 1, hub=hub))
            proxy = await stack.enter_async_context(Proxy(server.port))
            client_of_redis = await stack.enter_async_context(Redis.from_url(server.url))
            url = f"redis://{HOST}:{proxy.port}"
            (lags,) = await stack.enter_async_context(nodes(url, 1, hub=hub))
            log = Log()
            client = Hopper([ahead, lags])
            marks, stalls = list[int](), 0
            async with hopping(client):
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
                    await client.until(lambda _: log.published[-1] in client.got)
                    marks.append(highest(client.last_id))
                await settle(log, [client], ahead)
            client.check(log)
            assert not client.gaps
            assert marks == sorted(marks)
            assert stalls > 3


def highest(id: str | None) -> int:
    """The highest mark of an event id."""
    assert id is not None
    return max(int(mark) for mark in id.split("~")[1].split("."))


async def serve(url: str, hub: str, up: list[Broadcaster], ending: asyncio.Event) -> None:
    """One node in a task of its own, which is not told of to clients from when it begins to end."""
    async with nodes(url, 1, hub=hub) as (node,):
        up.append(node)
        await ending.wait()
        up.remove(node)
        assert await node.drain(5.0)


async def test_rolling_restart_of_all_nodes() -> None:
    """One node after the other drains and starts anew: no reset, no gap, and nobody is refused."""
    hub = secrets.token_hex(8)
    with RedisServer() as server:
        log, up = Log(), list[Broadcaster]()
        async with asyncio.TaskGroup() as group:
            running = list[tuple[asyncio.Task[None], asyncio.Event]]()

            def begin() -> None:
                ending = asyncio.Event()
                running.append((group.create_task(serve(server.url, hub, up, ending)), ending))

            for _ in range(3):
                begin()
            await until(lambda: len(up) == 3)
            clients = [Hopper(up, at) for at in range(6)]
            async with hopping(*clients):
                for _ in range(6):
                    await log.publish_many(up[1:], 5)
                    task, ending = running.pop(0)
                    async with log.busy([up[-1]]):
                        ending.set()
                        await asyncio.wait([task])
                        begin()
                        await until(lambda: len(up) == 3)
                await settle(log, clients, up[0])
            for _, ending in running:
                ending.set()
        for client in clients:
            client.check(log)
            assert not client.gaps
            assert not client.refusals


async def test_sentinel_finds_the_new_primary() -> None:
    """redis-py's Sentinel client: the nodes go on with the replica that Sentinel promoted."""
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
                log = Log()
                clients = [Hopper(hub, at) for at in range(2)]
                async with hopping(*clients):
                    await log.publish_many(hub, 20)
                    await asyncio.sleep(1.5)  # a replica streams from its first acknowledgement
                    await asyncio.to_thread(primary.kill)
                    await log.publish_many(hub, 20)
                    await settle(log, clients, hub[0])
                for each in clients:
                    each.check(log)
                    assert not each.gaps


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - it asks a process
            await asyncio.sleep(0.1)
