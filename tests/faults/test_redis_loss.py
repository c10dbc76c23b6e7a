"""Keys that somebody deletes, Redis evicts, or writes nonsense to: declared, never silent."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from holdfast import Broadcaster, Retention
from tests.faults.hub import Hopper, Log, hopping, nodes, settle
from tests.support.redis_server import RedisServer

KINDS = {
    "log": "*:log", "feed": "*:feed", "at": "*:at:*", "messages": "*:m:*", "trimmed": "*:x:*",
    "last": "*:last", "used": "*:used", "size": "*:size:*", "once": "*:once:*",
    "settings": "*:settings", "sessions": "*:s:*", "tokens": "*:t:*", "users": "*:u:*",
    "detached": "*:detached:*", "answers": "*:answered:*",
}  # fmt: skip
NO_LOSS = {"feed", "used", "size", "once", "settings", "users", "detached", "answers"}
ANY = ("fresh", "resumed", "restart", "unknown", "trimmed")


async def delete(client: Redis, pattern: str) -> int:
    """Delete every key of a kind at once."""
    keys = await client.keys(pattern)
    return int(await client.delete(*keys)) if keys else 0


async def test_flushall_is_a_reset_for_everybody() -> None:
    """FLUSHALL between publishes: each client is told `restart` and has all from then on."""
    with RedisServer() as server:
        async with Redis.from_url(server.url) as client, nodes(server.url, 2) as hub:
            log = Log()
            clients = [Hopper(hub, at) for at in range(4)]
            async with hopping(*clients):
                for _ in range(2):
                    await log.publish_many(hub, 20)
                    for each in clients:
                        await each.until(lambda each: log.published[-1] in each.got)
                    before = [len(each.resets) for each in clients]
                    await client.flushall()
                    for each, count in zip(clients, before, strict=True):
                        await each.until(partial(has_more_resets, count=count))
                await settle(log, clients, hub[0])
            for each in clients:
                each.check(log, sessions=ANY)
                assert "restart" in each.sessions


async def test_flushall_while_nodes_are_busy() -> None:
    """FLUSHALL five times under load: nobody misses anything without having been told."""
    with RedisServer() as server:
        async with Redis.from_url(server.url) as client, nodes(server.url, 2) as hub:
            log = Log()
            clients = [Hopper(hub, at) for at in range(4)]
            async with hopping(*clients):
                async with log.busy(hub):
                    for turn in range(5):
                        await asyncio.sleep(0.25)
                        await client.flushall()
                        clients[turn % 4].cut()
                await settle(log, clients, hub[0])
            for each in clients:
                each.check(log, sessions=ANY)
                assert each.resets


@pytest.mark.parametrize("kind", KINDS)
async def test_deleted_keys_are_declared(kind: str) -> None:
    """Keys of one kind are deleted under load, some clients away: nothing is lost silently.

    Where nothing was lost by it, nobody is told that there was.
    """
    with RedisServer() as server:
        keep = Retention(limit=40)
        async with (
            Redis.from_url(server.url) as client,
            nodes(server.url, 3, retention=keep) as hub,
        ):
            log = Log()
            stays, away, late = Hopper(hub[:1]), Hopper(hub[:2]), Hopper(hub[2:])
            async with hopping(stays, away, late):
                await log.publish_many(hub[:2], 6)
                for each in (stays, away, late):
                    await each.until(lambda each: len(each.got) == 6)
            async with hopping(stays):
                async with log.busy(hub[:2]):
                    for _ in range(3):
                        await asyncio.sleep(0.1)
                        await delete(client, KINDS[kind])
                await delete(client, KINDS["feed"])
                # A node that has followed nothing has to ask Redis for all of it.
                async with nodes(server.url, 1, hub=hub_name(hub), retention=keep) as (fresh,):
                    late.nodes = [fresh]
                    async with hopping(away, late):
                        await settle(log, [stays, away, late], hub[0])
            sessions = ("fresh", "resumed", "trimmed") if kind in NO_LOSS else ANY
            for each in (stays, away, late):
                each.check(log, sessions=sessions)


def has_more_resets(client: Hopper, count: int) -> bool:
    """Whether it was told that it begins anew, once more."""
    return len(client.resets) > count


def hub_name(hub: list[Broadcaster]) -> str:
    """The hub of these nodes."""
    broker: Any = hub[0]._broker
    prefix: str = broker._line._prefix
    return prefix.partition("{")[2].rstrip("}")


async def test_evicted_keys_are_declared() -> None:
    """A full server that evicts whatever it likes, under load: nothing is lost silently.

    New epochs and gaps there may be as many as there are evictions.
    """
    with RedisServer("--maxmemory-policy", "allkeys-random") as server:
        async with Redis.from_url(server.url) as client, nodes(server.url, 2) as hub:
            log = Log()
            clients = [Hopper(hub, at) for at in range(4)]
            async with hopping(*clients):
                async with log.busy(hub):
                    for turn in range(6):
                        await asyncio.sleep(0.2)
                        used = (await client.info("memory"))["used_memory"]
                        await client.config_set("maxmemory", int(used) - 20_000)
                        await asyncio.sleep(0.1)
                        await client.config_set("maxmemory", 0)
                        clients[turn % 4].cut()
                assert (await client.info("stats"))["evicted_keys"] > 0
                await settle(log, clients, hub[0])
            for each in clients:
                each.check(log, sessions=ANY)
