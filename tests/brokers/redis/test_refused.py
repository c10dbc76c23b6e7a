"""A publish that Redis refuses in the middle of a run."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from redis.asyncio import Redis

from holdfast import Priority
from holdfast.brokers.redis import RedisBroker, keys
from holdfast.errors import BrokerUnavailable
from holdfast.runtime.broker import Draft, Head
from tests.support.redis_server import shared_server


def draft(topic: str) -> Draft:
    """A message of its topic's name."""
    return Draft(topic=topic, priority=Priority.NORMAL, body=topic.encode(), timestamp=0.0)


async def test_publish_that_fails_hides_no_other_message() -> None:
    """Its offset is a hole that readers pass; what is published next has another one."""
    hub = secrets.token_hex(8)
    async with Redis.from_url(shared_server().url) as client:
        broker = RedisBroker(client, hub=hub)
        await broker.start()
        first = await broker.publish(draft("first"))
        space = await client.hget(f"{keys.prefix(hub)}:log", "space")
        assert space is not None
        # Somebody else's key stands where the log of this topic would be.
        await client.set(f"{keys.prefix(hub)}:{space.decode()}:m:1:-:taken", "not a stream")
        with pytest.raises(BrokerUnavailable):
            await broker.publish(draft("taken"))
        async with asyncio.timeout(10):  # until this node has passed over the hole
            while broker._reader.replica.head == first.offset:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        second = await broker.publish(draft("second"))
        at, seen = Head(first.epoch, first.offset), list[str]()
        async with asyncio.timeout(10):
            while at.offset < second.offset:
                batch = await broker.follow(at)
                at, seen = batch.head, [*seen, *(message.topic for message in batch.messages)]
        assert seen == ["second"]
        await broker.close()
