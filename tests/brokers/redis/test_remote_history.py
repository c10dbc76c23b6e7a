"""Reads from Redis of history that a node has not followed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from holdfast import Priority, Retention
from holdfast.brokers.redis import RedisBroker, keys
from holdfast.core.cursor import Cursor, Head
from holdfast.core.log.pages import PageRequest
from holdfast.core.message import Draft, Gap, Message, Offset, UserId
from tests.brokers.redis.conftest import Start
from tests.brokers.redis.test_feed_reader import key_of


async def publish(broker: RedisBroker, *topics: str) -> None:
    """One message to each."""
    for topic in topics:
        draft = Draft(topic=topic, priority=Priority.HIGH, body=b"1", timestamp=time.time())
        await broker.publish(draft)


async def summarize(broker: RedisBroker, begin: Head, topic: str) -> tuple[int, bool]:
    """The number of messages that follow, and True if any is lost."""
    cursor, since = Cursor.at(begin.offset), {topic: Offset(0)}
    found = await broker.summarize((await broker.head()).epoch, cursor, since, None)
    assert found is not None
    return found.replay, found.gap is not None


async def test_a_lost_list_of_topics_is_noticed(
    client: Redis, namespace: str, start: Start
) -> None:
    """Without it a pattern cannot be resolved: a new log begins, or no message is missing."""
    broker = await start()
    begin = await broker.head()
    await publish(broker, "a.busy", "a.quiet")
    for kind in ("last", "feed"):
        await client.delete(await key_of(client, namespace, kind))
    await publish(broker, "a.busy")
    late = await start()
    is_another = (await late.head()).epoch != begin.epoch
    assert is_another or await summarize(late, begin, "a.*") == (3, False)


async def test_history_from_redis_goes_on_with_the_feed(
    client: Redis, namespace: str, start: Start
) -> None:
    """Topics that a node read from Redis, and topics that begin later, are read without a gap."""
    broker = await start()
    begin = await broker.head()
    await publish(broker, "a.1", "a.2")
    await client.delete(await key_of(client, namespace, "feed"))
    late = await start()
    for topics, count in (("a.*", 2), ("a.1", 1), ("**", 2)):
        assert await summarize(late, begin, topics) == (count, False)
    await publish(broker, "a.1", "a.3", "b")
    for topics, count in (("a.*", 4), ("a.1", 2), ("a.3", 1), ("**", 5)):
        assert await summarize(late, begin, topics) == (count, False)


async def test_a_lost_address_gives_its_bytes_back(
    client: Redis, namespace: str, start: Start
) -> None:
    """A deleted account does not count for the total any more; otherwise all would be trimmed."""
    broker = await start(retention=Retention(total_bytes=20))
    for _ in range(30):
        await publish(broker, "a", "b")
        await client.delete(await key_of(client, namespace, "at:-:a"))
    begin = Head((await broker.head()).epoch, Offset((await broker.head()).offset - 10))
    await client.delete(await key_of(client, namespace, "feed"))
    assert (await summarize(await start(retention=Retention(total_bytes=20)), begin, "b"))[0] >= 4


async def test_a_pattern_may_cover_thousands_of_topics(
    client: Redis, namespace: str, start: Start
) -> None:
    """All their messages are read, page by page, though the topics exceed one call."""
    broker = await start(timeout=20.0)  # one of these calls takes 0.15 s on an idle machine
    begin = await broker.head()
    names = [f"a.{n}" for n in range(3500)]
    await asyncio.gather(*(publish(broker, name) for name in names))
    await client.delete(await key_of(client, namespace, "feed"))
    late = await start(timeout=20.0)
    head = await late.head()
    assert await summarize(late, begin, "a.*") == (len(names), False)
    found, after, complete = list[str](), begin.offset, False
    while not complete:
        request = PageRequest(Priority.HIGH, after, head.offset, 1000, 10**6)
        page = await late.read(head.epoch, request, {"a.*": Offset(0)}, UserId("ann"))
        assert page is not None
        found += [entry.topic for entry in page.entries if isinstance(entry, Message)]
        assert not any(isinstance(entry, Gap) for entry in page.entries)
        after, complete = page.up_to, page.complete
    assert sorted(found) == sorted(names)


@pytest.mark.parametrize("count", [20, 2500])
async def test_expired_messages_hide_nothing_behind_them(
    count: int, client: Redis, namespace: str, start: Start
) -> None:
    """A page ends after 2,048 expired messages; the next pages reach those that are wanted."""
    broker = await start(retention=Retention(limit=count))
    begin = await broker.head()
    long_ago, last = time.time() - 60.0, count - 1
    drafts = [
        Draft(
            topic="t",
            priority=Priority.HIGH,
            body=b"%d" % n,
            timestamp=time.time(),
            expires_at=None if n in (10, last) else long_ago,
        )
        for n in range(count)
    ]
    await asyncio.gather(*map(broker.publish, drafts))
    await client.delete(await key_of(client, namespace, "feed"))
    late = await start(retention=Retention(limit=count))
    head = await late.head()
    found, after, complete = list[bytes](), begin.offset, False
    while not complete:
        request = PageRequest(Priority.HIGH, after, head.offset, 1, 10**6)
        page = await late.read(head.epoch, request, {"t": Offset(0)}, None)
        assert page is not None
        found += [entry.body for entry in page.entries if isinstance(entry, Message)]
        after, complete = page.up_to, page.complete
    assert found == [b"10", b"%d" % last]


MANY = 1000
"""Entries that a range read without a bound may get."""


@asynccontextmanager
async def runs_of(client: Redis, namespace: str) -> AsyncIterator[list[int]]:
    """For each call meanwhile, the number of entries that its range reads may return."""
    runs: list[int] = []
    async with client.monitor() as monitor:

        async def listen() -> None:
            async for each in monitor.listen():
                command = str(each["command"])
                if command.startswith("PING end"):
                    return
                if command.startswith("EVALSHA") and namespace in command:
                    runs.append(0)
                elif command.startswith("XRANGE") and namespace in command:
                    count = re.search(r" COUNT (\d+)$", command)
                    runs[-1] += int(count[1]) if count else MANY

        listening = asyncio.create_task(listen())
        yield runs
        await client.execute_command("PING", "end")
        await asyncio.wait_for(listening, 10)


async def test_a_page_of_many_topics_reads_little_more_than_it_answers(
    client: Redis, namespace: str, start: Start
) -> None:
    """Three hundred topics of ten messages: a page of 50 does not read all of them."""
    broker = await start()
    begin = await broker.head()
    topics = [f"a.{n}" for n in range(300)] * 10
    await asyncio.gather(*(publish(broker, topic) for topic in topics))
    await client.delete(await key_of(client, namespace, "feed"))
    late = await start()
    head = await late.head()
    found, after = list[Offset](), begin.offset
    async with runs_of(client, namespace) as runs:
        while after < head.offset:
            request = PageRequest(Priority.HIGH, after, head.offset, 50, 10**6)
            page = await late.read(head.epoch, request, {"a.*": Offset(0)}, None)
            assert page is not None
            found += [entry.offset for entry in page.entries if isinstance(entry, Message)]
            after = page.up_to
    assert found == list(range(begin.offset + 1, head.offset + 1))
    assert max(runs) < 300 + 10 * 50


async def test_many_summaries_do_not_make_others_wait(
    client: Redis, namespace: str, start: Start
) -> None:
    """Summaries in one call share the number of messages that a call may count."""
    broker = await start()
    begin = await broker.head()
    await asyncio.gather(*(publish(broker, *["t"] * 100) for _ in range(10)))
    await client.delete(await key_of(client, namespace, "feed"))
    late = await start()
    head = await late.head()
    async with runs_of(client, namespace) as runs:
        surveys = await asyncio.gather(
            *(
                late.summarize(head.epoch, Cursor.at(begin.offset + n), {"t": Offset(0)}, None)
                for n in range(60)
            )
        )
    assert [found.replay for found in surveys if found] == [1000 - n for n in range(60)]
    assert max(runs) < 20_000


async def test_a_lost_log_gives_its_bytes_back_once(
    client: Redis, namespace: str, start: Start
) -> None:
    """The total is reduced once, however often the log is read before the next publish."""
    broker = await start()
    await publish(broker, "a", "a", "a")
    for kind in ("feed", "m:2:-:a"):
        await client.delete(await key_of(client, namespace, kind))
    late = await start()
    epoch = (await late.head()).epoch
    for _ in range(3):
        await asyncio.gather(
            publish(late, "b"), late.summarize(epoch, Cursor.at(0), {"a": Offset(0)}, None)
        )
    assert await client.hget(f"{keys.prefix(namespace)}:log", "bytes") == b"3"


async def test_a_publisher_whose_clock_lags_keeps_its_topic(
    client: Redis, namespace: str, start: Start
) -> None:
    """Beyond `max_logs`, the topic written to longest ago is dropped, not one with an old time."""
    few = Retention(max_logs=2)
    broker = await start(retention=few)
    begin = await broker.head()
    for topic, late_by in (("a", 0.0), ("b", 0.0), ("c", 60.0)):
        at = time.time() - late_by
        await broker.publish(Draft(topic=topic, priority=Priority.HIGH, body=b"1", timestamp=at))
    await client.delete(await key_of(client, namespace, "feed"))
    late = await start(retention=few)
    assert await summarize(late, begin, "c") == (1, False)
    assert await summarize(late, begin, "a") == (0, True)


async def test_a_dropped_topic_of_expired_messages_is_no_loss(
    client: Redis, namespace: str, start: Start
) -> None:
    """A reader of a dropped topic gets no gap if all its messages had expired."""
    few = Retention(max_logs=1)
    broker = await start(retention=few)
    begin = await broker.head()
    now = time.time()
    for n in range(40):
        expired = Draft(
            topic="a", priority=Priority.HIGH, body=b"1", timestamp=now, expires_at=now - n
        )
        await broker.publish(expired)
    await publish(broker, "b")
    await client.delete(await key_of(client, namespace, "feed"))
    late = await start(retention=few)
    assert await summarize(late, begin, "a") == (0, False)
    assert await summarize(late, begin, "**") == (1, False)


async def test_a_sweep_drops_what_is_past_its_age(
    client: Redis, namespace: str, start: Start
) -> None:
    """Messages of unused topics are dropped as well: they must not count for the total any more."""
    brief, now = Retention(age=60.0), time.time()
    broker = await start(retention=brief, clock=lambda: now)
    begin = await broker.head()
    for n in range(250):
        old = Draft(topic=f"a.{n}", priority=Priority.HIGH, body=b"1", timestamp=now)
        await broker.publish(old)
    now += 61.0
    await broker.publish(Draft(topic="b", priority=Priority.HIGH, body=b"1", timestamp=now))
    await broker.sweep()
    held = [
        await client.xlen(key) for key in await client.keys(f"{keys.prefix(namespace)}:*:m:2:*")
    ]
    assert sum(held) == 1
    assert await client.hget(f"{keys.prefix(namespace)}:log", "bytes") == b"1"
    await client.delete(await key_of(client, namespace, "feed"))
    late = await start(retention=brief, clock=lambda: now)
    found = await late.summarize(begin.epoch, Cursor.at(begin.offset), {"**": Offset(0)}, None)
    assert found is not None
    assert found.gap is not None
    assert (found.replay, found.gap.count) == (1, 250)
