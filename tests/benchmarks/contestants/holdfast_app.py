"""holdfast as an application would use it, for both transports."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

from holdfast import Broadcaster, BroadcasterState
from holdfast.asgi import LiveApp
from holdfast.auth import anonymous
from holdfast.core.cursor import EventId
from tests.support.node import node_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.brokers.protocol import Broker

__all__ = ["app"]

TOPIC = "t"
ENVELOPE = 91
"""Bytes around the data: type, topic, priority, time stamp."""

REDIS = "HOLDFAST_BENCHMARK_REDIS"
"""An environment variable: the Redis that keeps the log, instead of memory."""


def _broker() -> Broker | None:
    if REDIS not in os.environ:
        return None
    from redis.asyncio import Redis

    from holdfast.brokers.redis import RedisBroker

    return RedisBroker(Redis.from_url(os.environ[REDIS]))


broadcaster = Broadcaster(broker=_broker())
app = LiveApp(broadcaster, authenticate=anonymous)


_publishing = set[asyncio.Task[None]]()


async def publish(message: dict[str, Any], topic: str = TOPIC) -> None:
    await broadcaster.publish(topic, message)


def publish_soon(message: dict[str, Any]) -> None:
    """Publish concurrently, so that no message waits for the round trip of another to Redis."""
    task = asyncio.create_task(publish(message))
    _publishing.add(task)
    task.add_done_callback(_publishing.discard)


def subscribers() -> int:
    if broadcaster.state is BroadcasterState.NEW:
        return 0
    return len(node_of(broadcaster).registry)  # statistics() would look at every connection


def numbers(frames: Iterable[tuple[str, str]]) -> list[int]:
    """The numbers of the messages among (frame, event id); every id is one, and none goes back."""
    found, before = [], None
    for text, id in frames:
        parsed = EventId.parse(id)
        if parsed is None or (before is not None and not before.cursor <= parsed.cursor):
            raise ValueError(f"the id {id!r} after {before}")
        before = parsed
        frame = json.loads(text)
        if frame["type"] == "message":
            found.append(frame["data"]["i"])
    return found
