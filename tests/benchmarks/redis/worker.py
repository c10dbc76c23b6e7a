"""A process that publishes in every way: those of holdfast, and those of redis-py alone.

The argument is a JSON object. Commands come over an inherited socket.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import redis
from redis.asyncio import Redis

from holdfast import Retention
from holdfast.brokers.redis import Publisher, RedisBroker, SyncPublisher
from holdfast.brokers.redis.timeouts import cancel_and_wait
from tests.benchmarks.contestants.holdfast_app import ENVELOPE
from tests.benchmarks.redis.channel import answer
from tests.benchmarks.wire import make_message, to_json

TASKS = 50
AT_ONCE = 1000
PIPELINE = 100
KEYS = 100

One = Callable[[int], Awaitable[Any]]


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the values are."""
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def each(one: One, number: int) -> None:
    """One caller that awaits each publish."""
    for place in range(number):
        await one(place)


async def tasks(one: One, number: int) -> None:
    """50 callers, each awaiting its own publish."""
    places = iter(range(number))

    async def run() -> None:
        for place in places:
            await one(place)

    async with asyncio.TaskGroup() as group:
        for _ in range(TASKS):
            group.create_task(run())


async def burst(one: One, number: int) -> None:
    """1,000 publishes at once, and the next 1,000 when all are done."""
    for start in range(0, number, AT_ONCE):
        await asyncio.gather(*map(one, range(start, min(number, start + AT_ONCE))))


WAYS = {"each": each, "tasks": tasks, "burst": burst}


class Worker:
    """The commands."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = Redis.from_url(url)
        self._sync = redis.Redis.from_url(url)
        self._publishers: dict[str, Publisher] = {}
        self._numbers = count(1)

    async def configure(self, namespace: str, **retention: Any) -> dict[str, Any]:
        """Give a log its limits."""
        broker = RedisBroker(self._client, namespace=namespace, retention=Retention(**retention))
        await broker.start()
        await broker.close()
        return {}

    async def publish(
        self,
        namespace: str,
        way: str,
        number: int,
        *,
        size: int = 200,
        topics: int = 1,
        name: str = "t",
        **options: Any,
    ) -> dict[str, Any]:
        """Publish with holdfast."""
        publisher = self._publishers.setdefault(
            namespace, Publisher(self._client, namespace=namespace)
        )
        keyed, once = options.get("keyed"), options.get("once")

        async def one(place: int) -> None:
            topic = name if topics == 1 else f"{name}.{place % topics}"
            if options.get("areas"):
                topic = f"area.{place % 100}.{place % 1000}"
            key = f"k{place % KEYS}" if keyed else None
            idempotency = f"{time.monotonic_ns()}" if once else None
            message = make_message(next(self._numbers), size - ENVELOPE)
            await publisher.publish(topic, message, key=key, idempotency_key=idempotency)

        return await self._timed(WAYS[way](one, number), number)

    async def sync(self, namespace: str, number: int, *, size: int = 200) -> dict[str, Any]:
        """Publish with `SyncPublisher`, with no other load."""
        publisher = SyncPublisher(self._sync, namespace=namespace)

        async def run() -> None:
            for place in range(number):
                publisher.publish("t", make_message(place, size - ENVELOPE))

        return await self._timed(run(), number)

    async def paced(self, namespace: str, number: int, rate: float, topic: str) -> dict[str, Any]:
        """Publish by the clock."""
        publisher = Publisher(self._client, namespace=namespace)
        start = time.monotonic()
        for place in range(1, number + 1):
            await publisher.publish(topic, make_message(next(self._numbers), 200 - ENVELOPE))
            await asyncio.sleep(max(0.0, start + place / rate - time.monotonic()))
        return {}

    async def start_live(self, namespace: str, rate: float, topic: str) -> dict[str, Any]:
        """Start publishing by the clock."""
        self._taken = list[float]()
        self._live = asyncio.create_task(self._publish_for_ever(namespace, rate, topic))
        return {}

    async def stop_live(self) -> dict[str, Any]:
        """Stop it. Returns the milliseconds from each publish until it could be read."""
        await cancel_and_wait(self._live)
        return {"p50": percentile(self._taken, 0.5), "p99": percentile(self._taken, 0.99)}

    async def _publish_for_ever(self, namespace: str, rate: float, topic: str) -> None:
        publisher = Publisher(self._client, namespace=namespace, timeout=30.0)
        start = time.monotonic()
        for place in count(1):
            began = time.monotonic()
            await publisher.publish(topic, make_message(next(self._numbers), 200 - ENVELOPE))
            self._taken.append((time.monotonic() - began) * 1e3)
            await asyncio.sleep(max(0.0, start + place / rate - time.monotonic()))

    async def xadd(self, key: str, way: str, number: int, *, size: int = 200) -> dict[str, Any]:
        """Publish with redis-py: the same bytes into one capped stream."""

        async def one(place: int) -> None:
            body = to_json(make_message(place, size))
            await self._client.xadd(key, {"b": body}, maxlen=1000, approximate=True)

        async def pipelined() -> None:
            for start in range(0, number, PIPELINE):
                pipe = self._client.pipeline(transaction=False)
                for place in range(start, start + PIPELINE):
                    body = to_json(make_message(place, size))
                    _ = pipe.xadd(key, {"b": body}, maxlen=1000, approximate=True)
                await pipe.execute()

        work = pipelined() if way == "pipeline" else WAYS[way](one, number)
        return await self._timed(work, number)

    async def pubsub(self, channel: str, way: str, number: int) -> dict[str, Any]:
        """`PUBLISH`; no message is kept."""

        async def one(place: int) -> None:
            await self._client.publish(channel, to_json(make_message(place, 200)))

        return await self._timed(WAYS[way](one, number), number)

    async def listen(self, channel: str, number: int) -> dict[str, Any]:
        """Subscribe, and take `number` messages that this process publishes meanwhile."""
        pubsub = self._client.pubsub()
        await pubsub.subscribe(channel)

        async def run() -> None:
            sending = asyncio.create_task(tasks(self._publish_to(channel), number))
            received = 0
            async for message in pubsub.listen():
                received += message["type"] == "message"
                if received == number:
                    break
            await sending

        return await self._timed(run(), number)

    def _publish_to(self, channel: str) -> One:
        async def one(place: int) -> None:
            await self._client.publish(channel, to_json(make_message(place, 200)))

        return one

    async def xread(self, key: str, number: int) -> dict[str, Any]:
        """Read a stream from its beginning with redis-py, 256 entries at a time."""

        async def run() -> None:
            last, left = "0-0", number
            while left > 0:
                answered: Any = await self._client.xread({key: last}, count=256)
                found = answered[0][1]
                last, left = found[-1][0], left - len(found)

        return await self._timed(run(), number)

    async def readers(self, key: str, number: int) -> dict[str, Any]:
        """Follow a stream over `number` connections, as nodes do, from now on."""
        self._readers = [asyncio.create_task(self._follow(key)) for _ in range(number)]
        await asyncio.sleep(0.5)
        return {}

    async def stop_readers(self) -> dict[str, Any]:
        """Stop following."""
        await asyncio.gather(*map(cancel_and_wait, self._readers))
        return {}

    async def _follow(self, key: str) -> None:
        async with Redis.from_url(self._url) as client:
            last: Any = "$"
            while True:
                answered: Any = await client.xread({key: last}, count=256, block=1000)
                if answered:
                    last = answered[0][1][-1][0]

    async def _timed(self, work: Awaitable[None], number: int) -> dict[str, Any]:
        start, used = time.monotonic(), time.process_time()
        await work
        taken, used = time.monotonic() - start, time.process_time() - used
        return {"seconds": taken, "rate": number / taken, "client_us": used / number * 1e6}


async def main() -> None:
    """Answer commands until the channel is closed."""
    spec = json.loads(sys.argv[1])
    made = Worker(spec["url"])
    names = "configure publish sync paced start_live stop_live readers stop_readers"
    names += " xadd pubsub listen xread"
    await answer(spec["channel"], {name: getattr(made, name) for name in names.split()}, {})


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
