"""A client that outlives its event loop: the error precedes any message, and says what to do."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from holdfast import WrongThread
from holdfast.brokers.redis import Publisher, RedisBroker, keys
from tests.support.redis_server import shared_server

if TYPE_CHECKING:
    from collections.abc import Iterator

ADVICE = "make a new client"


@pytest.fixture
def module_client() -> Iterator[Redis]:
    """A client as a module makes it when it is imported; it is never closed."""
    client = Redis.from_url(shared_server().url)
    yield client
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its connections are collected after their event loop
        client.connection_pool.reset()
        del client
        gc.collect()


async def run_broker(broker: RedisBroker) -> None:
    """Start a broker, use both of its connections, and close it."""
    await broker.start()
    await broker.head()
    await broker.close()


async def count_published(namespace: str) -> int:
    """The number of messages in the log, asked over a client of this loop."""
    async with Redis.from_url(shared_server().url) as client:
        return int(await client.hget(f"{keys.prefix(namespace)}:log", "head") or 0)


def test_a_broker_in_a_second_loop_is_a_clear_error(module_client: Redis, namespace: str) -> None:
    """`asyncio.run` twice with one RedisBroker: the second start raises, each time."""
    broker = RedisBroker(module_client, namespace=namespace)
    asyncio.run(run_broker(broker))
    for _ in range(2):
        with pytest.raises(WrongThread, match=ADVICE):
            asyncio.run(run_broker(broker))


def test_a_new_broker_with_an_old_client_is_a_clear_error(
    module_client: Redis, namespace: str
) -> None:
    """Making only the RedisBroker again does not help; the error says that the client is old."""
    asyncio.run(run_broker(RedisBroker(module_client, namespace=namespace)))
    with pytest.raises(WrongThread, match=ADVICE):
        asyncio.run(run_broker(RedisBroker(module_client, namespace=namespace)))


def test_a_publisher_in_a_second_loop_is_a_clear_error_and_publishes_nothing(
    module_client: Redis, namespace: str
) -> None:
    """A Publisher of a module, used by `async_to_sync` or `asyncio.run` call by call."""
    publisher = Publisher(module_client, namespace=namespace)
    assert asyncio.run(publisher.publish("t", 1)) == 1
    for _ in range(2):
        with pytest.raises(WrongThread, match=ADVICE):
            asyncio.run(publisher.publish("t", 2))
    assert asyncio.run(count_published(namespace)) == 1


def test_a_new_publisher_with_an_old_client_publishes_nothing(
    module_client: Redis, namespace: str
) -> None:
    """Making only the Publisher again does not help."""
    assert asyncio.run(Publisher(module_client, namespace=namespace).publish("t", 1)) == 1
    with pytest.raises(WrongThread, match=ADVICE):
        asyncio.run(Publisher(module_client, namespace=namespace).publish("t", 2))
    assert asyncio.run(count_published(namespace)) == 1


def test_a_client_that_the_application_used_in_another_loop_publishes_nothing(
    module_client: Redis, namespace: str
) -> None:
    """A PING fails on its connection before the message is sent."""

    async def ping() -> None:
        await module_client.execute_command("PING")

    asyncio.run(ping())
    with pytest.raises(WrongThread, match=ADVICE):
        asyncio.run(Publisher(module_client, namespace=namespace).publish("t", 1))
    assert asyncio.run(count_published(namespace)) == 0


def test_a_client_of_its_own_in_each_loop_works(namespace: str) -> None:
    """The advice of the error helps: the second run goes on in the log of the first."""

    async def publish(number: int) -> int:
        async with Redis.from_url(shared_server().url) as client:
            broker = RedisBroker(client, namespace=namespace)
            await run_broker(broker)
            return await Publisher(client, namespace=namespace).publish("t", number)

    assert [asyncio.run(publish(number)) for number in (1, 2, 3)] == [1, 2, 3]
