"""Calls to Redis: done once, or not at all, or reported as unknown, whatever the network does."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from holdfast import ConfigurationError, Priority
from holdfast.brokers.redis import RedisBroker, entries, keys, script
from holdfast.brokers.redis.script_client import ScriptClient
from holdfast.core.message import Draft
from holdfast.errors import BrokerUnavailable, OutcomeUnknown
from tests.brokers.redis.conftest import Start
from tests.support.processes import HOST
from tests.support.proxy import Fault, Proxy
from tests.support.redis_server import RedisServer, shared_cluster, shared_server

LONG = bool(os.environ.get("HOLDFAST_LONG"))


def draft(body: str, once: str | None = None) -> Draft:
    """A message, perhaps with an idempotency key."""
    return Draft(
        topic="t", priority=Priority.NORMAL, body=body.encode(), timestamp=time.time(),
        idempotency_key=once,
    )  # fmt: skip


def script_client(client: Redis, namespace: str, timeout: float = 2.0) -> ScriptClient:
    """A client of the script."""
    return ScriptClient(client, keys.prefix(namespace), timeout=timeout, clock=time.time)


async def published(client: Redis, namespace: str) -> list[str]:
    """The bodies of all messages in the log."""
    found = await client.keys(f"{keys.prefix(namespace)}:*:m:1:-:t")
    held: Any = await client.xrange(found[0]) if found else []
    return [fields[b"b"].decode() for _, fields in held]


def cut(at: int, only: int | None = None) -> Callable[[int], Fault]:
    """Each connection, or only the one with this number, is cut at a byte."""
    return lambda number: Fault(cut_after=at) if only in (None, number) else Fault()


async def length_of_answers(client: Redis) -> int:
    """The number of bytes that Redis sends for a connection and one publish, about."""
    async with Proxy(shared_server().port) as proxy, Redis(host=HOST, port=proxy.port) as each:
        await script_client(each, "length").call(entries.publish_operation(draft("x")))
        (link,) = proxy.links
        return link.to_client + 2


async def test_cut_at_each_byte_of_the_answer_publishes_once(client: Redis, namespace: str) -> None:
    """The connection is cut after each byte, and the next one is good: each message is there once.

    redis-py tries again by itself, and so does ScriptClient; neither publishes twice.
    """
    want = list[str]()
    async with Proxy(shared_server().port) as proxy:
        for cut_after in range(0, await length_of_answers(client), 1 if LONG else 2):
            proxy.fault = cut(cut_after, only=proxy.opened)
            want.append(f"cut after {cut_after}")
            async with Redis(host=HOST, port=proxy.port) as each:
                await script_client(each, namespace).call(
                    entries.publish_operation(draft(want[-1]))
                )
    assert len(want) > 100
    assert await published(client, namespace) == want


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # redis-py's sockets
async def test_cut_every_time_is_unknown_and_the_key_makes_it_once(
    client: Redis, namespace: str
) -> None:
    """Every connection is cut at the byte: `BrokerUnavailable` means that nothing was published.

    After `OutcomeUnknown` the publisher repeats it with the same key, and it is there once.
    """
    unknown = 0
    async with Proxy(shared_server().port) as proxy:
        cuts = range(0, await length_of_answers(client), 1 if LONG else 11)
        for cut_after in cuts:
            proxy.fault = cut(cut_after)
            body = f"cut after {cut_after}"
            async with Redis(host=HOST, port=proxy.port) as each:
                asking = script_client(each, namespace, timeout=0.2)
                before = await published(client, namespace)
                try:
                    await asking.call(entries.publish_operation(draft(body, once=body)))
                except BrokerUnavailable:
                    assert await published(client, namespace) == before
                except OutcomeUnknown:
                    unknown += 1
                proxy.fault = lambda _: Fault()
                proxy.cut()
                await asyncio.sleep(0)
                async with Redis(host=HOST, port=proxy.port) as good:
                    await script_client(good, namespace).call(
                        entries.publish_operation(draft(body, once=body))
                    )
    assert unknown
    assert sorted(await published(client, namespace)) == sorted(f"cut after {at}" for at in cuts)


async def test_answers_that_are_swallowed_are_asked_for_again(
    client: Redis, namespace: str
) -> None:
    """A connection loses the reply of a call: the second try gets the reply of the first."""
    async with Proxy(shared_server().port) as proxy, Redis(host=HOST, port=proxy.port) as each:
        asking = script_client(each, namespace)
        for n in range(3):
            first = await asking.call(entries.publish_operation(draft(f"{n}")))
            for link in list(proxy.links):
                link.stall()
            began = time.monotonic()
            second = await asking.call(entries.publish_operation(draft(f"{n} again")))
            assert second == first + 1
            assert time.monotonic() - began < 2.0
    assert len(await published(client, namespace)) == 6


async def test_a_call_that_comes_late_is_not_carried_out(client: Redis, namespace: str) -> None:
    """The network delivers a call late, after the next call of its caller: nothing is done."""

    async def evaluate(arguments: list[script.Argument]) -> object:
        return await client.execute_command(
            "EVAL", script.TEXT, 1, keys.prefix(namespace), *arguments
        )

    caller = script.CallIds()
    one, two = (
        script.encode_call(caller, time.time(), [entries.publish_operation(draft(name))])
        for name in ("1", "2")
    )
    first = await evaluate(one)
    assert await evaluate(one) == first
    await evaluate(two)
    with pytest.raises(ResponseError, match="given up"):
        await evaluate(one)
    assert await published(client, namespace) == ["1", "2"]


async def test_large_operations_do_not_share_a_call(client: Redis, namespace: str) -> None:
    """Operations with thousands of arguments take several calls, so that others get in between."""

    async def calls() -> int:
        return int((await client.info("commandstats"))["cmdstat_evalsha"]["calls"])

    asking = script_client(client, namespace)
    await asking.call(script.HEAD)
    before = await calls()
    big = script.Operation("refresh_sessions", ["nobody"] * 3000)
    await asyncio.gather(*(asking.call(big) for _ in range(10)))
    assert await calls() - before == 5


async def test_the_password_is_in_no_error() -> None:
    """A server with another password is unavailable; no error has the password that was sent."""
    with RedisServer("--requirepass", "right-one") as server:
        async with Redis(host=HOST, port=server.port, password="wrong-one") as each:
            broker = RedisBroker(each)
            with pytest.raises(BrokerUnavailable) as failed:
                await broker.start()
            assert "wrong-one" not in f"{failed.value!r} {failed.value} {failed.value.__cause__!r}"
            await broker.close()
        async with Redis(host=HOST, port=server.port, password="right-one") as each:
            broker = RedisBroker(each)
            await broker.start()
            await broker.close()


async def test_no_repr_has_a_message(client: Redis, namespace: str) -> None:
    """The representation of an operation or of a reply has no payload."""
    operation = entries.publish_operation(draft("secret-body", once="secret-key"))
    reply = script.decode_reply([b"e", b"l", 1, b"", 1, [b"secret-output"]])
    shown = f"{operation!r} {reply!r} {script_client(client, namespace)!r}"
    assert "publish" in shown
    assert "secret" not in shown


async def test_a_read_only_replica_is_a_clear_error() -> None:
    """A client of a replica gets an error that names the replica."""
    with RedisServer() as primary, RedisServer("--replicaof", f"{HOST} {primary.port}") as replica:
        await asyncio.to_thread(replica.wait_for, "replication", "master_link_status:up")
        async with Redis(host=HOST, port=replica.port) as each:
            broker = RedisBroker(each)
            with pytest.raises(BrokerUnavailable, match=r"(?i)read.?only"):
                await broker.start()
            await broker.close()


async def test_a_full_server_refuses_and_has_done_nothing(namespace: str) -> None:
    """Out of memory: publishing is refused, nothing was done, and reading goes on."""
    with RedisServer("--maxmemory-policy", "noeviction") as server:
        async with Redis(host=HOST, port=server.port) as each:
            broker = RedisBroker(each, namespace=namespace)
            await broker.start()
            before = await broker.publish(draft("before"))
            await each.config_set("maxmemory", "100kb")
            with pytest.raises(BrokerUnavailable, match="maxmemory"):
                await broker.publish(draft("never"))
            await each.config_set("maxmemory", "0")
            await asyncio.sleep(0.6)
            assert (await broker.publish(draft("after"))).offset == before.offset + 1
            assert await published(each, namespace) == ["before", "after"]
            await broker.close()


async def test_a_client_that_decodes_is_refused() -> None:
    """`decode_responses=True` raises before anything happens."""
    with pytest.raises(ConfigurationError, match="decode_responses"):
        RedisBroker(Redis.from_url(shared_server().url, decode_responses=True))
    with pytest.raises(ConfigurationError, match="decode_responses"):
        RedisBroker(RedisCluster(HOST, shared_cluster().port, decode_responses=True))


async def test_publishers_of_several_nodes_share_one_order(namespace: str, start: Start) -> None:
    """Three nodes publish at once: each follows all of it, in one order, without a hole."""
    nodes = [await start() for _ in range(3)]
    begin = await nodes[0].head()

    async def publish(number: int) -> None:
        for n in range(50):
            await nodes[number].publish(draft(f"{number} {n}"))

    async def follow(node: RedisBroker) -> list[tuple[int, bytes]]:
        found, at = list[tuple[int, bytes]](), begin
        while len(found) < 150:
            batch = await node.follow(at)
            assert not batch.truncated
            found += [(message.offset, message.body) for message in batch.messages]
            at = batch.head
        return found

    async with asyncio.timeout(20):
        following = asyncio.gather(*(follow(node) for node in nodes))
        await asyncio.gather(*(publish(n) for n in range(3)))
        first, second, third = await following
    assert first == second == third
    assert [offset for offset, _ in first] == list(range(begin.offset + 1, begin.offset + 151))
    for number in range(3):
        own = [body for _, body in first if body.startswith(b"%d " % number)]
        assert own == [b"%d %d" % (number, n) for n in range(50)]
