"""What a node asks Redis for, because it has not followed it."""

from __future__ import annotations

import asyncio
import time

from redis.asyncio import Redis

from holdfast import Cursor, Priority, Retention
from holdfast.brokers.redis import RedisBroker
from holdfast.core.message import Gap, Message, Offset, UserId
from holdfast.core.reading import PageRequest
from holdfast.runtime.broker import Draft, Head
from tests.brokers.redis.conftest import Start
from tests.brokers.redis.test_reader import key_of


async def publish(broker: RedisBroker, *topics: str) -> None:
    """One message to each."""
    for topic in topics:
        draft = Draft(topic=topic, priority=Priority.HIGH, body=b"1", timestamp=time.time())
        await broker.publish(draft)


async def survey(broker: RedisBroker, begin: Head, topic: str) -> tuple[int, bool]:
    """How many messages follow, and whether something is lost."""
    cursor, since = Cursor.at(begin.offset), {topic: Offset(0)}
    found = await broker.survey((await broker.head()).epoch, cursor, since, None)
    assert found is not None
    return found.replay, found.lost is not None


async def test_a_lost_list_of_topics_is_noticed(client: Redis, hub: str, start: Start) -> None:
    """Without it nobody knows what a pattern covers: another log begins, or nothing is missing."""
    broker = await start()
    begin = await broker.head()
    await publish(broker, "a.busy", "a.quiet")
    for kind in ("last", "feed"):
        await client.delete(await key_of(client, hub, kind))
    await publish(broker, "a.busy")
    late = await start()
    is_another = (await late.head()).epoch != begin.epoch
    assert is_another or await survey(late, begin, "a.*") == (3, False)


async def test_what_is_fetched_goes_on_with_the_feed(client: Redis, hub: str, start: Start) -> None:
    """Topics that a node fetched, and those that begin afterwards, are read without a gap."""
    broker = await start()
    begin = await broker.head()
    await publish(broker, "a.1", "a.2")
    await client.delete(await key_of(client, hub, "feed"))
    late = await start()
    for topics, count in (("a.*", 2), ("a.1", 1), ("**", 2)):
        assert await survey(late, begin, topics) == (count, False)
    await publish(broker, "a.1", "a.3", "b")
    for topics, count in (("a.*", 4), ("a.1", 2), ("a.3", 1), ("**", 5)):
        assert await survey(late, begin, topics) == (count, False)


async def test_a_lost_address_gives_its_bytes_back(client: Redis, hub: str, start: Start) -> None:
    """A record that was deleted does not count for the total any more, or all would be trimmed."""
    broker = await start(retention=Retention(total_bytes=20))
    for _ in range(30):
        await publish(broker, "a", "b")
        await client.delete(await key_of(client, hub, "at:-:a"))
    begin = Head((await broker.head()).epoch, Offset((await broker.head()).offset - 10))
    await client.delete(await key_of(client, hub, "feed"))
    assert (await survey(await start(retention=Retention(total_bytes=20)), begin, "b"))[0] >= 4


async def test_a_pattern_may_cover_thousands_of_topics(
    client: Redis, hub: str, start: Start
) -> None:
    """All that they have is read, page by page, though they do not go into one call."""
    broker = await start()
    begin = await broker.head()
    names = [f"a.{n}" for n in range(3500)]
    await asyncio.gather(*(publish(broker, name) for name in names))
    await client.delete(await key_of(client, hub, "feed"))
    late = await start()
    head = await late.head()
    assert await survey(late, begin, "a.*") == (len(names), False)
    found, after, complete = list[str](), begin.offset, False
    while not complete:
        request = PageRequest(Priority.HIGH, after, head.offset, 1000, 10**6)
        page = await late.read(head.epoch, request, {"a.*": Offset(0)}, UserId("ann"))
        assert page is not None
        found += [entry.topic for entry in page.entries if isinstance(entry, Message)]
        assert not any(isinstance(entry, Gap) for entry in page.entries)
        after, complete = page.through, page.complete
    assert sorted(found) == sorted(names)


async def test_what_has_expired_hides_nothing_behind_it(
    client: Redis, hub: str, start: Start
) -> None:
    """A page goes on past more expired messages than it may hold, to the first that is wanted."""
    broker = await start()
    begin = await broker.head()
    long_ago = time.time() - 60.0
    for n in range(20):
        expires = None if n in (10, 19) else long_ago
        await broker.publish(
            Draft(
                topic="t",
                priority=Priority.HIGH,
                body=b"%d" % n,
                timestamp=time.time(),
                expires_at=expires,
            )
        )
    await client.delete(await key_of(client, hub, "feed"))
    late = await start()
    head = await late.head()
    found, after, complete = list[bytes](), begin.offset, False
    while not complete:
        request = PageRequest(Priority.HIGH, after, head.offset, 1, 10**6)
        page = await late.read(head.epoch, request, {"t": Offset(0)}, None)
        assert page is not None
        found += [entry.body for entry in page.entries if isinstance(entry, Message)]
        after, complete = page.through, page.complete
    assert found == [b"10", b"19"]
