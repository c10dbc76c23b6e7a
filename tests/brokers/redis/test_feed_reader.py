"""The reader of the feed: holes, entries of other programs, a silent connection."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from holdfast import Priority
from holdfast.brokers.redis import RedisBroker, keys
from holdfast.core.cursor import Cursor, Head
from holdfast.core.log.pages import PageRequest
from holdfast.core.message import Draft, Gap, Message, Offset
from holdfast.errors import NotRunning
from tests.brokers.redis.conftest import Start
from tests.faults.redis_log import feed_links
from tests.support.processes import HOST
from tests.support.proxy import Proxy
from tests.support.redis_server import shared_cluster, shared_server


def draft(number: object, topic: str = "t") -> Draft:
    """A message whose body is ``number``."""
    return Draft(
        topic=topic, priority=Priority.NORMAL, body=str(number).encode(), timestamp=time.time()
    )


async def key_of(client: Redis, namespace: str, kind: str) -> str:
    """The name of a key of the log."""
    log_id: Any = await client.hget(f"{keys.prefix(namespace)}:log", "log_id")
    return f"{keys.prefix(namespace)}:{log_id.decode()}:{kind}"


async def read_history(broker: RedisBroker, begin: Head) -> tuple[list[bytes], int]:
    """Read history from ``begin``: the bodies, and the number of messages declared lost."""
    head = await broker.head()
    request = PageRequest(Priority.NORMAL, begin.offset, head.offset, 1000, 10**6)
    page = await broker.read(head.epoch, request, {"t": Offset(0)}, None)
    assert page is not None
    found = [entry.body for entry in page.entries if isinstance(entry, Message)]
    lost = sum(
        entry.last - entry.first + 1 if entry.count is None else entry.count
        for entry in page.entries if isinstance(entry, Gap)
    )  # fmt: skip
    return found, lost


async def followed(broker: RedisBroker, begin: Head, last: bytes) -> list[bytes]:
    """Follow up to a message, by the feed or, where the feed has holes, by history."""
    found: list[bytes] = []
    async with asyncio.timeout(10):
        while last not in found:
            batch = await broker.follow(begin)
            found += (
                (await read_history(broker, begin))[0]
                if batch.truncated
                else [m.body for m in batch.messages]
            )
            begin = batch.head
    return found


FOREIGN: dict[str, tuple[str, dict[str, str]]] = {
    "no fields of ours, the next id": ("3-0", {"x": "1"}),
    "an id by the clock": ("*", {"x": "1"}),
    "a second part of an id": ("2-1", {"x": "1"}),
    "a body of two lines": ("3-0", {"b": "a\nb", "s": "1", "a": "-:t", "p": "1", "e": "?"}),
    "no number": ("3-0", {"b": "a", "s": "soon", "a": "-:t", "p": "1", "e": "?"}),
    "no topic": ("3-0", {"b": "a", "s": "1", "a": "-:..", "p": "1", "e": "?"}),
    "no lane": ("3-0", {"b": "a", "s": "1", "a": "-:t", "p": "9", "e": "?"}),
    "another epoch": ("3-0", {"b": "a", "s": "1", "a": "-:t", "p": "1", "e": "?"}),
    "no text": ("3-0", {"b": "a", "s": "1", "a": "\udcff:\udcff", "p": "1", "e": "?"}),
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_foreign_entries_of_the_feed_are_skipped(
    name: str, client: Redis, namespace: str, start: Start
) -> None:
    """Entries of another program in the feed are not delivered, stop no reader, and cost little."""
    broker = await start()
    begin = await broker.head()
    for n in (1, 2):
        await broker.publish(draft(n))
    id, fields = FOREIGN[name]
    raw: Any = {k: v.encode(errors="surrogateescape") for k, v in fields.items()}
    await client.xadd(await key_of(client, namespace, "feed"), raw, id=id)
    calls = await calls_in(client, 0.5)
    assert calls < 60, "it the entry must not be read again and again"
    late = await start()
    for n in (3, 4):
        await broker.publish(draft(n))
    for each in (broker, late):
        assert await followed(each, begin, b"4") == [b"1", b"2", b"3", b"4"]
        assert await read_history(each, begin) == ([b"1", b"2", b"3", b"4"], 0)


async def calls_in(client: Redis, seconds: float) -> int:
    """The number of commands that the server gets in this time."""
    before = (await client.info("stats"))["total_commands_processed"]
    await asyncio.sleep(seconds)
    return int((await client.info("stats"))["total_commands_processed"] - before)


@pytest.mark.parametrize("kind", ["feed", "m:1:-:t", "x:1:-:t", "at:-:t", "last", "used", "size:1"])
async def test_keys_of_another_type_are_as_good_as_deleted(
    kind: str, client: Redis, namespace: str, start: Start
) -> None:
    """A key that another program overwrote: publishing goes on, and what was lost is declared."""
    broker = await start()
    begin = await broker.head()
    for n in (1, 2):
        await broker.publish(draft(n))
    await client.set(await key_of(client, namespace, kind), "another program's")
    late = await start()
    for n in (3, 4):
        await broker.publish(draft(n))
    found, lost = await read_history(late, begin)
    assert found[-2:] == [b"3", b"4"]
    epoch = (await late.head()).epoch
    assert epoch != begin.epoch or len(found) == 4 or lost == 2


@pytest.mark.parametrize("id", ["*", "3-0", "2-1"])
async def test_foreign_entries_of_a_log_are_declared(
    id: str, client: Redis, namespace: str, start: Start
) -> None:
    """Another program's entries in a topic log are not delivered; what they cost is declared."""
    broker = await start()
    begin = await broker.head()
    for n in (1, 2):
        await broker.publish(draft(n))
    await client.xadd(await key_of(client, namespace, "m:1:-:t"), {"b": b"9", "s": b"1"}, id=id)
    await broker.publish(draft(3))
    await client.delete(await key_of(client, namespace, "feed"))
    late = await start()
    found, lost = await read_history(late, begin)
    assert (found, lost) in [([b"1", b"2", b"3"], 0), ([b"3"], 2)]


async def test_a_deleted_feed_loses_nothing(client: Redis, namespace: str, start: Start) -> None:
    """Messages that the feed lacks are read from the topic logs."""
    broker = await start()
    begin = await broker.head()
    for n in range(5):
        await broker.publish(draft(n))
        if n in (1, 4):
            await client.delete(await key_of(client, namespace, "feed"))
    late = await start()
    assert await read_history(late, begin) == ([b"0", b"1", b"2", b"3", b"4"], 0)
    assert (await read_history(broker, begin))[1] == 0


async def test_a_hole_in_the_feed_is_read_from_the_topics(
    client: Redis, namespace: str, start: Start
) -> None:
    """A node that lags while the feed is deleted gets what it missed there from history."""
    async with Proxy(shared_server().port) as proxy, Redis(host=HOST, port=proxy.port) as slow:
        lags, other = await start(client=slow), await start()
        begin = await lags.head()
        await asyncio.sleep(0.2)
        for link in proxy.links:
            link.stall()
        for n in range(3):
            await other.publish(draft(n))
        await client.delete(await key_of(client, namespace, "feed"))
        for n in (3, 4):
            await other.publish(draft(n))
        for link in proxy.links:
            link.resume()
        assert await followed(lags, begin, b"4") == [b"0", b"1", b"2", b"3", b"4"]
        assert await read_history(lags, begin) == ([b"0", b"1", b"2", b"3", b"4"], 0)


async def test_a_silent_connection_is_noticed(namespace: str, start: Start) -> None:
    """A connection swallows the feed: the messages arrive over another one in seconds."""
    async with Proxy(shared_server().port) as proxy, Redis(host=HOST, port=proxy.port) as silent:
        broker, other = await start(client=silent), await start()
        begin = await broker.head()
        await asyncio.sleep(0.2)
        for link in list(proxy.links):
            link.discard()
        began = time.monotonic()
        await other.publish(draft("heard"))
        assert await followed(broker, begin, b"heard") == [b"heard"]
        assert time.monotonic() - began < 6.0


async def test_a_silent_feed_connection_is_noticed(
    client: Redis, namespace: str, start: Start
) -> None:
    """Only the blocking connection is silent, repeatedly; the messages arrive over the other."""
    async with Proxy(shared_server().port) as proxy, Redis(host=HOST, port=proxy.port) as silent:
        broker, other = await start(client=silent), await start()
        begin = await broker.head()
        for n in range(3):
            await asyncio.sleep(0.2)
            for link in await feed_links(client, proxy):
                link.discard()
            began = time.monotonic()
            await other.publish(draft(n))
            assert (await followed(broker, begin, b"%d" % n))[-1] == b"%d" % n
            assert time.monotonic() - began < 6.0


async def test_a_feed_that_is_always_a_little_late_is_no_outage(
    client: Redis, namespace: str, start: Start
) -> None:
    """The head of a busy log is ahead of the feed: a reader waits for the head it asked for."""
    async with Proxy(shared_server().port) as proxy, Redis(host=HOST, port=proxy.port) as slow:
        broker, other = await start(client=slow), await start()
        begin = await broker.head()
        await asyncio.sleep(0.2)
        (link,) = await feed_links(client, proxy)
        link.stall()
        await other.publish(draft("before"))
        assert (await broker.head()).offset == begin.offset + 1
        asked = broker.summarize(begin.epoch, Cursor.at(begin.offset), {"t": Offset(0)}, None)
        summary = asyncio.create_task(asked)
        await asyncio.sleep(0.1)
        for n in range(5):
            await other.publish(draft(n))
        assert (await broker.head()).offset == begin.offset + 6
        link.resume()
        link.stall()  # one reply has gone through, which Redis sent before the five
        found = await summary
        assert found is not None
        assert found.replay == 1
        link.resume()


async def test_a_second_start_waits_for_the_first(client: Redis, namespace: str) -> None:
    """Two tasks start a broker at once: it is ready for both when `start` returns."""
    broker = RedisBroker(client, namespace=namespace)

    async def begin() -> Head:
        await broker.start()
        return await broker.head()

    first, second = await asyncio.gather(begin(), begin())
    assert first == second
    await broker.close()
    assert await broker.head() == first
    await broker.close()
    with pytest.raises(NotRunning):
        await broker.head()


async def test_a_cluster_with_a_short_socket_timeout_reads_in_shorter_blocks(
    namespace: str,
) -> None:
    """A quiet feed does not run into the client's timeout, which would reload the cluster."""
    server = shared_cluster()
    async with (
        RedisCluster(HOST, server.port, socket_timeout=0.5) as cluster,
        Redis(host=HOST, port=server.port) as plain,
    ):
        broker = RedisBroker(cluster, namespace=namespace)
        await broker.start()
        await plain.config_resetstat()
        await asyncio.sleep(1.2)
        commands = await plain.info("commandstats")
        await broker.close()
    assert "cmdstat_xread" in commands
    assert "cmdstat_cluster|slots" not in commands
