"""Publishing from processes that serve no client, to nodes that do."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.asyncio import Redis

from holdfast import Broadcaster, ConfigurationError, InvalidPayload, MessageTooLarge, Priority
from holdfast.brokers.redis import Publisher, RedisBroker, SyncPublisher
from holdfast.errors import BrokerUnavailable, OutcomeUnknown
from tests.support.frame_reader import FrameReader
from tests.support.processes import free_port
from tests.support.redis_server import shared_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def broadcaster(client: Redis, namespace: str) -> AsyncIterator[Broadcaster]:
    """A node of the namespace."""
    async with Broadcaster(broker=RedisBroker(client, namespace=namespace)) as made:
        yield made


async def test_nodes_deliver_what_a_publisher_publishes(
    broadcaster: Broadcaster, client: Redis, namespace: str
) -> None:
    """Every option of publish reaches the client of a node, in the order of the calls."""
    publisher = Publisher(client, namespace=namespace)
    async with broadcaster.connect(user="ann", topics=["t"]) as connection:
        reader = FrameReader(connection)
        await reader.first_frame()
        offsets = await asyncio.gather(*(publisher.publish("t", n) for n in range(300)))
        assert offsets == list(range(1, 301))
        assert await reader.take(300) == list(range(300))
        await publisher.publish("t", "for bob", to_user="bob")
        await publisher.publish_to_user("ann", "for ann", priority=Priority.HIGH, ttl=60.0)
        assert await reader.take(1) == ["for ann"]


async def test_idempotency_key_holds_across_publishers(client: Redis, namespace: str) -> None:
    """A key is published once, whichever publisher repeats it."""
    first = await Publisher(client, namespace=namespace).publish("t", 1, idempotency_key="k")
    with redis.Redis.from_url(shared_server().url) as sync:
        again = await asyncio.to_thread(
            SyncPublisher(sync, namespace=namespace).publish, "t", 1, idempotency_key="k"
        )
    assert again == first == 1


async def test_synchronous_code_publishes_from_threads_and_forks(
    broadcaster: Broadcaster, namespace: str
) -> None:
    """One publisher, shared by threads and a forked child, loses and repeats nothing."""
    with redis.Redis.from_url(shared_server().url) as sync:
        publisher = SyncPublisher(sync, namespace=namespace)

        def work(name: str) -> None:
            for n in range(50):
                publisher.publish("t", f"{name}{n}")

        async with broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            work("before")
            child = await asyncio.to_thread(_forked, publisher)
            threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
            for thread in threads:
                thread.start()
            got = await reader.take(300)
            for thread in threads:
                await asyncio.to_thread(thread.join)
            assert child == 0
            names = ["before", "child", *"abcd"]
            assert sorted(map(str, got)) == sorted(
                f"{name}{n}" for name in names for n in range(50)
            )


def _forked(publisher: SyncPublisher) -> int:
    """Publish from a forked child; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        for n in range(50):
            publisher.publish("t", f"child{n}")
        status = 0
    finally:
        os._exit(status)


async def test_mistakes_raise_before_anything_is_sent(client: Redis, namespace: str) -> None:
    """An invalid message is refused as by `Broadcaster.publish`."""
    publisher = Publisher(client, namespace=namespace, max_message_bytes=1000)
    with pytest.raises(InvalidPayload):
        await publisher.publish("t", object())
    with pytest.raises(MessageTooLarge):
        await publisher.publish("t", "x" * 2000)
    assert await publisher.publish("t", 1) == 1


async def test_no_server_is_an_error_at_once(namespace: str) -> None:
    """Each call without a Redis raises at once; the asyncio one also says that nothing was done."""
    port = free_port()
    async with Redis(host="127.0.0.1", port=port) as client:
        publisher = Publisher(client, namespace=namespace, timeout=0.5)
        for _ in range(3):
            async with asyncio.timeout(2):
                with pytest.raises(BrokerUnavailable):
                    await publisher.publish("t", 1)
    with (
        redis.Redis.from_url(f"redis://127.0.0.1:{port}") as sync,
        pytest.raises(OutcomeUnknown),
    ):
        SyncPublisher(sync, namespace=namespace).publish("t", 1)


def test_client_that_decodes_is_refused(namespace: str) -> None:
    """Messages are bytes; the error says what to do."""
    with (
        redis.Redis(decode_responses=True) as sync,
        pytest.raises(ConfigurationError, match="decode_responses"),
    ):
        SyncPublisher(sync, namespace=namespace)


def any_of(kind: Any, *arguments: object, **options: object) -> object:
    """Construct an object with arguments of any type."""
    return kind(*arguments, **options)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (
            lambda: any_of(RedisBroker, "redis://u:secret@h"),
            "is a builtins.str: pass redis.asyncio",
        ),
        (
            lambda: any_of(RedisBroker, redis.Redis()),
            "redis.client.Redis: pass redis.asyncio",
        ),
        (lambda: any_of(RedisBroker, None), "client is a builtins.NoneType"),
        (lambda: any_of(RedisBroker, Redis), "pass redis.asyncio.Redis.from_url"),
        (lambda: any_of(RedisBroker, Redis(), namespaces="x"), "did you mean 'namespace'"),
        (lambda: any_of(RedisBroker, Redis(), namespace=5), "namespace=5: 1 to 64 characters"),
        (lambda: any_of(RedisBroker, Redis(), retention=5), r"retention=5: .*Retention\("),
        (lambda: any_of(RedisBroker, Redis(), tokens=5), r"tokens=5: .*TokenLimits\("),
        (lambda: RedisBroker(Redis(), timeout=0), "timeout=0: .* over 0"),
        (lambda: any_of(Publisher, redis.Redis()), "pass redis.asyncio.Redis.from_url"),
        (
            lambda: any_of(SyncPublisher, Redis()),
            "pass redis.Redis.from_url",
        ),
        (lambda: any_of(SyncPublisher, "redis://h"), "pass redis.Redis.from_url"),
    ],
)
def test_misuse(make: Callable[[], object], remedy: str) -> None:
    """A wrong argument is refused with the accepted form, and no URL with a password is shown."""
    with pytest.raises((TypeError, ConfigurationError), match=remedy) as refused:
        make()
    assert "secret" not in str(refused.value)
