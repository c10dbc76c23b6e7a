"""Presence as an application sees it: two nodes of one broker, clients that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

import pytest

from holdfast import Broadcaster, ConfigurationError, MemoryBroker
from holdfast.brokers.memory import MemoryPresence
from holdfast.core.message import UserId
from holdfast.core.presence import Member, NodeId, PresenceDelta
from holdfast.errors import BrokerUnavailable, OutcomeUnknown
from holdfast.runtime import presence
from holdfast.runtime.presence import (
    FINAL_TIMEOUT,
    FULL_SYNC_INTERVAL,
    LEASE,
    REPORT_INTERVAL,
    PresenceChange,
)
from tests.support.reading import Reader
from tests.support.virtual import wall_clock


class CountedPresence(MemoryPresence):
    """A roster that knows which nodes have told, and may be away."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.nodes: list[NodeId] = []
        self.error: Exception | None = None
        self.is_carried_out = False

    async def update(
        self, node: NodeId, joined: Iterable[Member], left: Iterable[Member], lease: float
    ) -> PresenceDelta:
        self.nodes.append(node)
        if self.error is None:
            return await super().update(node, joined, left, lease)
        if self.is_carried_out:
            await super().update(node, joined, left, lease)
        raise self.error


class Counted(MemoryBroker):
    """A broker with such a presence store."""

    presence: CountedPresence

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.presence = CountedPresence(clock)


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
        await asyncio.sleep(2 * REPORT_INTERVAL)
        for each in (one, two):
            assert await each.presence("t") == {"ann", "bob"}
            assert await each.presence("p.*") == {"ann"}
            assert await each.online_users() == {"ann", "bob"}


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
            await asyncio.sleep(2 * REPORT_INTERVAL)
            async with two.connect(user="ann", topics=["t"]):
                await asyncio.sleep(2 * REPORT_INTERVAL)
            await asyncio.sleep(2 * REPORT_INTERVAL)
            assert sorted(told) == [("$user", "ann", True), ("t", "ann", True)]
            told.clear()
        await asyncio.sleep(2 * REPORT_INTERVAL)
        assert sorted(told) == [("$user", "ann", False), ("t", "ann", False)]


async def test_subscribing_and_unsubscribing_count() -> None:
    """A topic that is added or taken away while connected changes who is on it."""
    async with (
        Broadcaster(presence=True, clock=wall_clock) as broadcaster,
        broadcaster.connect(user="ann", topics=["t"]) as connection,
    ):
        await broadcaster.subscribe(connection, ["u"])
        await broadcaster.unsubscribe(connection, ["t"])
        await asyncio.sleep(2 * REPORT_INTERVAL)
        assert await broadcaster.presence("t") == frozenset()
        assert await broadcaster.presence("u") == {"ann"}


async def test_whoever_is_back_at_once_was_not_away() -> None:
    """A reconnect within the interval is neither a going nor a coming."""
    told: list[PresenceChange] = []
    async with Broadcaster(presence=told.append, clock=wall_clock) as broadcaster:
        async with broadcaster.connect(user="ann"):
            await asyncio.sleep(2.5 * REPORT_INTERVAL)
        async with broadcaster.connect(user="ann"):
            await asyncio.sleep(2 * REPORT_INTERVAL)
            assert [change.is_present for change in told] == [True]


async def test_node_that_ends_tells_who_went() -> None:
    """A node that stops takes its members off the roster; the others go on."""
    broker = MemoryBroker(clock=wall_clock)
    async with Broadcaster(broker=broker, presence=True) as stays:
        async with (
            Broadcaster(broker=broker, presence=True) as goes,
            goes.connect(user="ann"),
        ):
            await asyncio.sleep(2 * REPORT_INTERVAL)
            assert await stays.online_users() == {"ann"}
        assert await stays.online_users() == frozenset()


async def test_who_was_taken_for_dead_is_there_again() -> None:
    """A node that the others know nothing of tells of its members again."""
    broker = Counted(clock=wall_clock)
    async with Broadcaster(broker=broker, presence=True) as one, one.connect(user="ann"):
        await asyncio.sleep(2 * REPORT_INTERVAL)
        await broker.presence.remove(broker.presence.nodes[0])
        assert await one.online_users() == frozenset()
        await asyncio.sleep(3 * REPORT_INTERVAL)
        assert await one.online_users() == {"ann"}


async def test_all_is_told_again_now_and_then() -> None:
    """What the store lost without knowing it is there again after a while."""
    broker = Counted(clock=wall_clock)
    async with Broadcaster(broker=broker, presence=True) as one, one.connect(user="ann"):
        await asyncio.sleep(2 * REPORT_INTERVAL)
        lost = [("$user", UserId("ann"))]
        await broker.presence.update(broker.presence.nodes[0], [], lost, LEASE)
        await asyncio.sleep(2 * REPORT_INTERVAL)
        assert await one.online_users() == frozenset()
        await asyncio.sleep(FULL_SYNC_INTERVAL)
        assert await one.online_users() == {"ann"}


@pytest.mark.parametrize("error", [BrokerUnavailable, OutcomeUnknown])
@pytest.mark.parametrize("is_carried_out", [False, True])
async def test_who_goes_while_the_store_is_away_has_gone(
    error: type[Exception], is_carried_out: bool
) -> None:
    """A departure that could not be told, or nobody knows whether it was, is told later."""
    told: list[bool] = []

    def hook(change: PresenceChange) -> None:
        told.append(change.is_present)

    broker = Counted(clock=wall_clock)
    async with Broadcaster(broker=broker, presence=hook) as one:
        async with one.connect(user="ann"):
            await asyncio.sleep(2 * REPORT_INTERVAL)
            broker.presence.error = error("away")
            broker.presence.is_carried_out = is_carried_out
        await asyncio.sleep(4 * REPORT_INTERVAL)
        broker.presence.error = None
        await asyncio.sleep(2 * REPORT_INTERVAL)
        assert await one.online_users() == frozenset()
        # What was carried out while nobody heard the answer, nobody hears of.
        assert told == ([True] if is_carried_out else [True, False])


async def test_hook_that_takes_long_delays_no_telling() -> None:
    """While it works off many arrivals, nobody is taken for dead; it hears of all, in order."""
    told: list[PresenceChange] = []

    async def hook(change: PresenceChange) -> None:
        await asyncio.sleep(LEASE / 20)
        told.append(change)

    broker, users = MemoryBroker(clock=wall_clock), [f"u{n}" for n in range(50)]
    async with (
        Broadcaster(broker=broker, presence=hook) as slow,
        Broadcaster(broker=broker, presence=True) as other,
        contextlib.AsyncExitStack() as stack,
    ):
        for user in users:
            await stack.enter_async_context(slow.connect(user=user))
        await asyncio.sleep(2 * REPORT_INTERVAL)
        while len(told) < len(users):
            assert await other.online_users() == set(users)
            await asyncio.sleep(REPORT_INTERVAL)
        async with slow.connect(user="last"):
            await asyncio.sleep(3 * REPORT_INTERVAL)
        await asyncio.sleep(3 * REPORT_INTERVAL)
        assert {change.user for change in told[:-2]} == set(users)
        assert all(change.is_present for change in told[:-1])
        assert [(each.user, each.is_present) for each in told[-2:]] == [
            ("last", True),
            ("last", False),
        ]


async def test_hook_that_falls_behind_misses_the_oldest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The backlog is bounded; it is said once that some were dropped, and the newest are told."""
    monkeypatch.setattr(presence, "MAX_QUEUED_CHANGES", 3)
    told, gate = list[str](), asyncio.Event()

    async def hook(change: PresenceChange) -> None:
        told.append(change.user)
        await gate.wait()

    async with (
        Broadcaster(presence=hook, clock=wall_clock) as broadcaster,
        contextlib.AsyncExitStack() as stack,
    ):
        for n in range(8):
            await stack.enter_async_context(broadcaster.connect(user=f"u{n}"))
            await asyncio.sleep(2 * REPORT_INTERVAL)
        gate.set()
        await asyncio.sleep(REPORT_INTERVAL)
        assert told == ["u0", "u5", "u6", "u7"]
        assert caplog.text.count("use Broadcaster.presence") == 1


async def test_hook_that_hangs_does_not_keep_the_node(caplog: pytest.LogCaptureFixture) -> None:
    """It is cancelled with the Broadcaster, and has a moment for what is left."""
    began, cancelled = list[bool](), list[bool]()

    async def hook(change: PresenceChange) -> None:
        began.append(change.is_present)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(change.is_present)
            raise

    async with Broadcaster(presence=hook, clock=wall_clock) as broadcaster:
        async with broadcaster.connect(user="ann"), broadcaster.connect(user="bob"):
            await asyncio.sleep(2 * REPORT_INTERVAL)
        ending = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - ending <= REPORT_INTERVAL + FINAL_TIMEOUT
    assert began == cancelled == [True, True]
    assert "2 changes were left" in caplog.text


async def test_node_that_cannot_say_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the store raises when a node leaves it, no task of the node is left running."""

    async def broken(node: NodeId) -> PresenceDelta:
        raise ValueError("broken")

    broker, before = Counted(clock=wall_clock), len(asyncio.all_tasks())
    monkeypatch.setattr(broker.presence, "remove", broken)
    with pytest.raises(ValueError, match="broken"):
        async with Broadcaster(broker=broker, presence=True):
            pass
    assert len(asyncio.all_tasks()) == before


async def test_hook_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next change is told."""
    told: list[str] = []

    async def hook(change: PresenceChange) -> None:
        told.append(change.user)
        raise ValueError("no")

    async with Broadcaster(presence=hook, clock=wall_clock) as broadcaster:
        for user in ("ann", "bob"):
            async with broadcaster.connect(user=user):
                await asyncio.sleep(2 * REPORT_INTERVAL)
    assert {"ann", "bob"} <= set(told)
    assert "presence hook failed" in caplog.text


async def test_without_presence_it_is_an_error_to_ask() -> None:
    """Nobody is counted unless it was asked for."""
    async with Broadcaster() as broadcaster:
        with pytest.raises(ConfigurationError, match="presence=True"):
            await broadcaster.online_users()


async def test_departures_of_the_end_can_be_published(caplog: pytest.LogCaptureFixture) -> None:
    """A hook that publishes what it is told still can when its own node ends."""
    broker = MemoryBroker(clock=wall_clock)

    async def told(change: PresenceChange) -> None:
        await goes.publish(f"presence.{change.topic}", change.is_present)

    async with (
        Broadcaster(broker=broker) as stays,
        stays.connect(topics=["presence.*"]) as connection,
    ):
        reader = Reader(connection)
        await reader.hello()
        goes = Broadcaster(broker=broker, presence=told)
        async with goes, goes.connect(user="ann", topics=["t"]):
            await asyncio.sleep(2 * REPORT_INTERVAL)
        got = await reader.take(3)
        assert got[0] is True
        assert False in got
    assert "failed" not in caplog.text
