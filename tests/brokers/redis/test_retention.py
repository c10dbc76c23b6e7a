"""The retention of Redis, compared with the default broker."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from holdfast import MemoryBroker, Priority, Retention
from holdfast.brokers.protocol import Broker
from holdfast.brokers.redis import RedisBroker, keys
from holdfast.core.cursor import Cursor
from holdfast.core.log.pages import PageRequest
from holdfast.core.message import Draft, Gap, Message, Offset, UserId
from tests.support.redis_server import shared_server

ANN = UserId("ann")
TOPICS = ("a.b", "a.c", "d")
READ = (
    {"a.b": 0}, {"d": 0}, {"a.*": 0}, {"**": 0}, {"a.b": 0, "a.c": 3, "d": 0}, {"a.b": 2, "**": 5},
)  # fmt: skip


@dataclass
class Clock:
    """Seconds since the Unix epoch, moved by hand."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, kw_only=True)
class Publish:
    """One message."""

    topic: str
    lane: Priority
    key: str | None
    size: int
    user: UserId | None
    ttl: float | None

    def is_superseded_by(self, other: Publish) -> bool:
        """Return True if `other`, which came later, has a newer value of the same key."""
        return self.key is not None and (self.topic, self.user, self.key) == (
            other.topic, other.user, other.key
        )  # fmt: skip


@dataclass
class Both:
    """The two brokers, and one clock for both."""

    client: Redis
    retention: Retention
    clock: Clock = field(default_factory=Clock)
    namespace: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        self.memory = MemoryBroker(retention=self.retention, clock=self.clock)
        self.redis = self.node()

    def node(self) -> RedisBroker:
        """One more node, which has followed nothing."""
        return RedisBroker(
            self.client, namespace=self.namespace, retention=self.retention, clock=self.clock
        )

    async def publish(self, step: Publish) -> None:
        self.clock.now += 0.25
        draft = Draft(
            topic=step.topic, priority=step.lane, body=b"x" * step.size, timestamp=self.clock.now,
            key=step.key, to_user=step.user,
            expires_at=None if step.ttl is None else self.clock.now + step.ttl,
        )  # fmt: skip
        heads = [await broker.publish(draft) for broker in (self.memory, self.redis)]
        assert heads[0].offset == heads[1].offset

    async def trim_feed(self, share: float) -> None:
        """Drop the older part of the feed, as if more had been published than it holds."""
        (name,) = await self.client.keys(f"{keys.prefix(self.namespace)}:*:feed") or [b""]
        if name:
            await self.client.xtrim(
                name, int(share * await self.client.xlen(name)), approximate=False
            )


async def look(broker: Broker, after: int, limit: int) -> list[Any]:
    """Everything that readers of many kinds get from a position on."""
    head = await broker.head()
    found: list[Any] = []
    for topics in READ:
        since = {topic: Offset(at) for topic, at in topics.items()}
        for user in (None, ANN):
            summary = await broker.summarize(head.epoch, Cursor.at(after), since, user)
            assert summary is not None
            found += [summary.replay, summary.gap]
            for lane in Priority:
                begin = Offset(after)
                while True:
                    request = PageRequest(lane, begin, head.offset, limit, 60)
                    page = await broker.read(head.epoch, request, since, user)
                    assert page is not None
                    if lane in summary.empty_lanes and summary.empty_up_to >= head.offset:
                        assert page.entries == ()
                    found += [topics, lane, user, page.up_to, page.complete]
                    found += [
                        e if isinstance(e, Gap) else dataclasses.astuple(e) for e in page.entries
                    ]
                    begin = page.up_to
                    if page.complete:
                        break
    return found


publishes = st.builds(
    Publish,
    topic=st.sampled_from(TOPICS),
    lane=st.sampled_from(Priority),
    key=st.sampled_from([None, None, "k", "l"]),
    size=st.integers(1, 30),
    user=st.sampled_from([None, None, ANN]),
    ttl=st.sampled_from([None, None, None, 2.0]),
)


def retentions(max_logs: st.SearchStrategy[int]) -> st.SearchStrategy[Retention]:
    """Small limits of every kind except `total_bytes`, which each broker keeps in its own way."""
    return st.builds(
        Retention,
        limit=st.integers(0, 6),
        age=st.sampled_from([None, 3.0, 1000.0]),
        max_bytes=st.sampled_from([50, 10_000]),
        max_logs=max_logs,
    )


@asynccontextmanager
async def both_with(
    retention: Retention, steps: list[Publish], share: float
) -> AsyncIterator[tuple[Both, RedisBroker]]:
    """The two after these steps, and a late node that found this `share` of the feed."""
    async with Redis.from_url(shared_server().url) as client:
        both = Both(client, retention)
        await both.memory.start()
        await both.redis.start()
        late = both.node()
        try:
            for step in steps:
                await both.publish(step)
            await both.trim_feed(share)
            await late.start()
            yield both, late
        finally:
            await late.close()
            await both.redis.close()


@settings(max_examples=50)
@given(
    retention=retentions(st.just(100)),
    steps=st.lists(publishes, max_size=25),
    later=st.lists(publishes, max_size=6),
    look_from=st.tuples(st.integers(0, 25), st.integers(1, 5)),
    share=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
)
def test_same_as_in_memory(
    retention: Retention,
    steps: list[Publish],
    later: list[Publish],
    look_from: tuple[int, int],
    share: float,
) -> None:
    """Pages, gaps with their counts and summaries are those of the default broker.

    A node that followed the log returns them, and so does a late node that reads all from Redis,
    before and after more is published.
    """

    async def script() -> None:
        async with both_with(retention, steps, share) as (both, late):
            for more in ([], later):
                for step in more:
                    await both.publish(step)
                for broker in (both.memory, both.redis, late):
                    await broker.sweep()
                want = await look(both.memory, *look_from)
                assert await look(both.redis, *look_from) == want
                assert await look(late, *look_from) == want

    asyncio.run(script())


@settings(max_examples=30)
@given(
    retention=retentions(st.sampled_from([1, 2, 3])),
    steps=st.lists(publishes, max_size=25),
    after=st.integers(0, 25),
)
def test_same_as_in_memory_with_few_logs(
    retention: Retention, steps: list[Publish], after: int
) -> None:
    """Redis declares a dropped address as the default broker does.

    Only the late node is compared: a node that followed the log may still have the messages.
    """

    async def script() -> None:
        async with both_with(retention, steps, 0.0) as (both, late):
            for broker in (both.memory, both.redis, late):
                await broker.sweep()
            assert await look(late, after, 3) == await look(both.memory, after, 3)

    asyncio.run(script())


@settings(max_examples=30)
@given(steps=st.lists(publishes, min_size=5, max_size=40), total=st.integers(20, 200))
def test_total_bytes_bound_what_is_held_and_the_rest_is_declared(
    steps: list[Publish], total: int
) -> None:
    """The total stays within its bound; each message that was dropped for it is in a gap."""

    async def script() -> None:
        async with both_with(Retention(total_bytes=total), steps, 0.0) as (_, late):
            head, size = await late.head(), 0
            for lane in Priority:
                request = PageRequest(lane, Offset(0), head.offset, 1000, 10**6)
                since = {topic: Offset(0) for topic in TOPICS}
                page = await late.read(head.epoch, request, since, ANN)
                assert page is not None
                messages = [entry for entry in page.entries if isinstance(entry, Message)]
                gaps = [entry for entry in page.entries if isinstance(entry, Gap)]
                size += sum(message.size for message in messages)
                here = {message.offset for message in messages}
                for offset, step in enumerate(steps, 1):
                    age = 0.25 * (len(steps) - offset)
                    void = step.ttl is not None and step.ttl <= age
                    void = void or any(step.is_superseded_by(other) for other in steps[offset:])
                    if step.lane is lane and offset not in here and not void:
                        assert any(g.first <= offset <= g.last for g in gaps), offset
            assert size <= total

    asyncio.run(script())


async def test_total_bytes_take_from_the_lowest_lane() -> None:
    """A flood of LOW messages leaves CRITICAL ones alone, also of other topics."""
    low = Publish(topic="d", lane=Priority.LOW, key=None, size=20, user=None, ttl=None)
    steps = [dataclasses.replace(low, topic=t, lane=Priority.CRITICAL) for t in TOPICS] + [low] * 40
    async with both_with(Retention(total_bytes=200), steps, 0.0) as (_, late):
        head = await late.head()
        counts = dict[Priority, int]()
        for lane in (Priority.CRITICAL, Priority.LOW):
            request = PageRequest(lane, Offset(0), head.offset, 1000, 10**6)
            page = await late.read(head.epoch, request, {"**": Offset(0)}, None)
            assert page is not None
            counts[lane] = sum(isinstance(entry, Message) for entry in page.entries)
        assert counts[Priority.CRITICAL] == 3
        assert 0 < counts[Priority.LOW] <= 7


async def test_a_superseded_value_is_not_lost_for_a_late_node() -> None:
    """A late node does not count a value as lost by age that had a newer value by that time."""
    value = Publish(topic="d", lane=Priority.LOW, key="k", size=5, user=None, ttl=None)
    other = dataclasses.replace(value, topic="a.b", key=None)
    brief = dataclasses.replace(other, topic="a.c", ttl=0.1)
    steps = [value, brief, value, *[other] * 10, value]
    async with both_with(Retention(age=2.9), steps, 1.0) as (both, late):
        for broker in (both.memory, both.redis, late):
            await broker.sweep()
        want = await look(both.memory, 0, 5)
        assert await look(late, 0, 5) == want
        head = await late.head()
        found = await late.summarize(head.epoch, Cursor.at(0), {"d": Offset(0)}, None)
        assert found is not None
        assert found.gap is None
