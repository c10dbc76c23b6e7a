"""Presence as an application sees it: two nodes of one broker, clients that come and go."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import Broadcaster, ConfigurationError, MemoryBroker
from holdfast.runtime.presence import INTERVAL, LEASE, PresenceChange
from tests.support.virtual import wall_clock


async def test_users_over_all_nodes() -> None:
    """Both nodes name the users of both, by topic, by pattern, and who is online at all."""
    broker = MemoryBroker(clock=wall_clock)
    async with (
        Broadcaster(broker=broker, presence=True) as one,
        Broadcaster(broker=broker, presence=True) as two,
        one.connect(user="ann", topics=["t", "p.*"]),
        two.connect(user="bob", topics=["t"]),
        two.connect(topics=["t"]),
    ):
        await asyncio.sleep(2 * INTERVAL)
        for each in (one, two):
            assert await each.present("t") == {"ann", "bob"}
            assert await each.present("p.*") == {"ann"}
            assert await each.online() == {"ann", "bob"}


async def test_each_change_is_told_once() -> None:
    """A user with two connections on two nodes comes once and goes once."""
    told: list[tuple[str, str, bool]] = []

    def hook(change: PresenceChange) -> None:
        told.append((change.topic, change.user, change.is_present))

    broker = MemoryBroker(clock=wall_clock)
    async with (
        Broadcaster(broker=broker, presence=hook) as one,
        Broadcaster(broker=broker, presence=hook) as two,
    ):
        async with one.connect(user="ann", topics=["t"]):
            await asyncio.sleep(2 * INTERVAL)
            async with two.connect(user="ann", topics=["t"]):
                await asyncio.sleep(2 * INTERVAL)
            await asyncio.sleep(2 * INTERVAL)
            assert sorted(told) == [("$user", "ann", True), ("t", "ann", True)]
            told.clear()
        await asyncio.sleep(2 * INTERVAL)
        assert sorted(told) == [("$user", "ann", False), ("t", "ann", False)]


async def test_subscribing_and_unsubscribing_count() -> None:
    """A topic that is added or taken away while connected changes who is on it."""
    async with (
        Broadcaster(presence=True, clock=wall_clock) as broadcaster,
        broadcaster.connect(user="ann", topics=["t"]) as outbox,
    ):
        await broadcaster.subscribe(outbox, ["u"])
        await broadcaster.unsubscribe(outbox, ["t"])
        await asyncio.sleep(2 * INTERVAL)
        assert await broadcaster.present("t") == frozenset()
        assert await broadcaster.present("u") == {"ann"}


async def test_whoever_is_back_at_once_was_not_away() -> None:
    """A reconnect within the interval is neither a going nor a coming."""
    told: list[PresenceChange] = []
    async with Broadcaster(presence=told.append, clock=wall_clock) as broadcaster:
        async with broadcaster.connect(user="ann"):
            await asyncio.sleep(2.5 * INTERVAL)
        async with broadcaster.connect(user="ann"):
            await asyncio.sleep(2 * INTERVAL)
            assert [change.is_present for change in told] == [True]


async def test_node_that_ends_tells_who_went() -> None:
    """A node that stops takes its members off the roster; the others go on."""
    broker = MemoryBroker(clock=wall_clock)
    async with Broadcaster(broker=broker, presence=True) as stays:
        async with (
            Broadcaster(broker=broker, presence=True) as goes,
            goes.connect(user="ann"),
        ):
            await asyncio.sleep(2 * INTERVAL)
            assert await stays.online() == {"ann"}
        assert await stays.online() == frozenset()


async def test_who_was_taken_for_dead_is_there_again() -> None:
    """A node that was silent for longer than its lease tells of its members again."""
    broker = MemoryBroker(clock=wall_clock)
    async with (
        Broadcaster(broker=broker, presence=True) as one,
        one.connect(user="ann"),
    ):
        await asyncio.sleep(2 * INTERVAL)
        broker.presence._roster.update(
            next(iter(broker.presence._roster._nodes)), [], [], now=0.0, until=wall_clock()
        )
        await asyncio.sleep(3 * INTERVAL)
        assert await one.online() == {"ann"}
        assert INTERVAL * 3 < LEASE


async def test_hook_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next change is told."""
    told: list[str] = []

    async def hook(change: PresenceChange) -> None:
        told.append(change.user)
        raise ValueError("no")

    async with Broadcaster(presence=hook, clock=wall_clock) as broadcaster:
        for user in ("ann", "bob"):
            async with broadcaster.connect(user=user):
                await asyncio.sleep(2 * INTERVAL)
    assert {"ann", "bob"} <= set(told)
    assert "presence hook failed" in caplog.text


async def test_without_presence_it_is_an_error_to_ask() -> None:
    """Nobody is counted unless it was asked for."""
    async with Broadcaster() as broadcaster:
        with pytest.raises(ConfigurationError, match="presence=True"):
            await broadcaster.online()
