"""The implementations of Broker. A new one adds its factory to `FACTORIES`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from redis._parsers import _AsyncRESP2Parser
from redis.asyncio import ConnectionPool, Redis, RedisCluster

from holdfast import MemoryBroker
from holdfast.brokers.protocol import Broker
from holdfast.brokers.redis import RedisBroker
from tests.support.processes import HOST
from tests.support.redis_server import shared_cluster, shared_server


class Clock:
    """Seconds since the Unix epoch, which can be moved forward."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def __call__(self) -> float:
        return time.time() + self._skipped

    def skip(self, seconds: float) -> None:
        """Move the clock forward."""
        self._skipped += seconds


CLOCK = Clock()


Make = Callable[..., Broker]
"""Makes a broker with an empty log, from `retention` and `tokens`."""


@asynccontextmanager
async def memory() -> AsyncIterator[Make]:
    """Yield a factory of memory brokers."""
    yield lambda **limits: MemoryBroker(clock=CLOCK, **limits)


@asynccontextmanager
async def redis(connect: Callable[[], Redis | RedisCluster]) -> AsyncIterator[Make]:
    """Yield a factory of Redis brokers, each with its own namespace."""
    brokers: list[RedisBroker] = []
    async with connect() as client:

        def make(**limits: Any) -> Broker:
            # The timeout is generous because a loaded machine may be late by seconds.
            broker = RedisBroker(
                client, namespace=secrets.token_hex(8), clock=CLOCK, timeout=20.0, **limits
            )
            brokers.append(broker)
            return brokers[-1]

        yield make
        for broker in brokers:
            await broker.close()


def standalone(**options: Any) -> Redis:
    """Return a client of one server."""
    return Redis.from_url(shared_server().url, **options)


def without_hiredis() -> Redis:
    """Return a client with the parser that is written in Python."""
    pool = ConnectionPool.from_url(shared_server().url, parser_class=_AsyncRESP2Parser, protocol=2)
    return Redis.from_pool(pool)


def cluster() -> RedisCluster:
    """Return a client of a Redis Cluster."""
    return RedisCluster(HOST, shared_cluster().port)


FACTORIES: dict[str, Callable[[], AbstractAsyncContextManager[Make]]] = {
    "memory": memory,
    "redis": lambda: redis(lambda: standalone(protocol=2)),
    "redis, RESP3": lambda: redis(lambda: standalone(protocol=3)),
    "redis, without hiredis": lambda: redis(without_hiredis),
    "redis, cluster": lambda: redis(cluster),
}
