"""Keys are deleted, evicted by Redis, or overwritten: the loss is always reported."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from holdfast import Broadcaster, Retention
from tests.faults.redis_log import NumberedMessages, RoamingClient, deliver_last, nodes, running
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

KINDS = {
    "log": "*:log", "feed": "*:feed", "at": "*:at:*", "messages": "*:m:*", "trimmed": "*:x:*",
    "last": "*:last", "used": "*:used", "size": "*:size:*", "once": "*:once:*",
    "settings": "*:settings", "sessions": "*:s:*", "tokens": "*:t:*", "users": "*:u:*",
    "detached": "*:detached:*", "answers": "*:answered:*",
}  # fmt: skip
NO_LOSS = {"feed", "used", "size", "once", "settings", "users", "detached", "answers"}
ANY = ("fresh", "resumed", "restart", "unknown", "trimmed")


async def delete(client: Redis, pattern: str) -> int:
    """Delete all keys of one kind."""
    keys = await client.keys(pattern)
    return int(await client.delete(*keys)) if keys else 0


async def test_flushall_is_a_reset_for_every_client() -> None:
    """After FLUSHALL between publishes, each client gets `restart`, and everything from then on."""
    with RedisServer() as server:
        async with Redis.from_url(server.url) as client, nodes(server.url, 2) as hub:
            log = NumberedMessages()
            clients = [RoamingClient(hub, at) for at in range(4)]
            async with running(*clients):
                for _ in range(2):
                    await log.publish_many(hub, 20)
                    for each in clients:
                        await each.wait_until(lambda each: log.published[-1] in each.received)
                    before = [len(each.reset_times) for each in clients]
                    await client.flushall()
                    for each, count in zip(clients, before, strict=True):
                        await each.wait_until(partial(has_more_resets, count=count))
                await deliver_last(log, clients, hub[0])
            for each in clients:
                each.check(log, sessions=ANY)
                assert "restart" in each.sessions


async def test_flushall_under_load_loses_nothing_silently() -> None:
    """FLUSHALL is called five times under load: no client misses a message without a report."""
    with RedisServer() as server:
        async with Redis.from_url(server.url) as client, nodes(server.url, 2) as hub:
            log = NumberedMessages()
            clients = [RoamingClient(hub, at) for at in range(4)]
            async with running(*clients):
                async with log.busy(hub):
                    for turn in range(5):
                        await asyncio.sleep(0.25)
                        await client.flushall()
                        clients[turn % 4].cut()
                await deliver_last(log, clients, hub[0])
            for each in clients:
                each.check(log, sessions=ANY)
                assert each.reset_times


@pytest.mark.parametrize("kind", KINDS)
async def test_deleted_keys_are_reported(kind: str) -> None:
    """Keys of one kind are deleted under load, with some clients away: no loss is silent.

    No loss is reported where none happened.
    """
    with RedisServer() as server:
        keep = Retention(limit=40)
        async with (
            Redis.from_url(server.url) as client,
            nodes(server.url, 3, retention=keep) as hub,
        ):
            log = NumberedMessages()
            stays, away, late = (
                RoamingClient(hub[:1]),
                RoamingClient(hub[:2]),
                RoamingClient(hub[2:]),
            )
            async with running(stays, away, late):
                await log.publish_many(hub[:2], 6)
                for each in (stays, away, late):
                    await each.wait_until(lambda each: len(each.received) == 6)
            async with running(stays):
                async with log.busy(hub[:2]):
                    for _ in range(3):
                        await asyncio.sleep(0.1)
                        await delete(client, KINDS[kind])
                await delete(client, KINDS["feed"])
                # A node that has followed nothing has to read everything from Redis.
                async with nodes(server.url, 1, namespace=hub_name(hub), retention=keep) as (
                    fresh,
                ):
                    late.nodes = [fresh]
                    async with running(away, late):
                        await deliver_last(log, [stays, away, late], hub[0])
            sessions = ("fresh", "resumed", "trimmed") if kind in NO_LOSS else ANY
            for each in (stays, away, late):
                each.check(log, sessions=sessions)


def has_more_resets(client: RoamingClient, count: int) -> bool:
    """Return whether the client got a further reset."""
    return len(client.reset_times) > count


def hub_name(hub: list[Broadcaster]) -> str:
    """Return the name of the log that these nodes share."""
    broker: Any = hub[0]._broker
    prefix: str = broker._scripts._prefix
    return prefix.partition("{")[2].rstrip("}")


async def test_evicted_keys_are_reported() -> None:
    """A full server evicts any key under load: no loss is silent.

    At most as many epochs and gaps occur as evictions.
    """
    with RedisServer("--maxmemory-policy", "allkeys-random") as server:
        async with Redis.from_url(server.url) as client, nodes(server.url, 2) as hub:
            log = NumberedMessages()
            clients = [RoamingClient(hub, at) for at in range(4)]
            async with running(*clients):
                async with log.busy(hub):
                    for turn in range(6):
                        await asyncio.sleep(0.2)
                        used = (await client.info("memory"))["used_memory"]
                        await client.config_set("maxmemory", int(used) - 20_000)
                        await asyncio.sleep(0.1)
                        await client.config_set("maxmemory", 0)
                        clients[turn % 4].cut()
                assert (await client.info("stats"))["evicted_keys"] > 0
                await deliver_last(log, clients, hub[0])
            for each in clients:
                each.check(log, sessions=ANY)
