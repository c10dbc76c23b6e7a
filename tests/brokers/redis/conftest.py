"""A Redis client, and brokers that are closed again."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from holdfast.brokers.redis import RedisBroker
from tests.support.redis_server import shared_server

Start = Callable[..., Awaitable[RedisBroker]]


@pytest.fixture
async def client() -> AsyncIterator[Redis]:
    """A client of the server that is shared by all tests."""
    async with Redis.from_url(shared_server().url) as made:
        yield made


@pytest.fixture
def namespace() -> str:
    """A namespace of the test's own."""
    return secrets.token_hex(8)


@pytest.fixture
async def start(client: Redis, namespace: str) -> AsyncIterator[Start]:
    """Makes and starts a broker of the namespace."""
    made: list[RedisBroker] = []

    async def make(**options: Any) -> RedisBroker:
        made.append(RedisBroker(options.pop("client", client), namespace=namespace, **options))
        await made[-1].start()
        return made[-1]

    yield make
    for broker in made:
        await broker.close()
