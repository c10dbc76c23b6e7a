"""Presence as an application uses it: two nodes of one broker, and their clients."""

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
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import wall_clock


class CountedPresence(MemoryPresence):
    """A presence store that records the reporting nodes, and can fail."""

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


class BrokerWithCountedPresence(MemoryBroker):
    """A memory broker with a CountedPresence."""

    presence: CountedPresence

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.presence = CountedPresence(clock)


async def test_users_over_all_nodes() -> None:
    """Both nodes return the users of both, by topic, by pattern, and online."""
    broker = MemoryBroker(clock=wall_clock)
    async with (
        Broadcaster(broker=broker, presence=True) as first,
        Broadcaster(broker=broker, presence=True) as second,
        first.connect(user="ann", topics=["t", "p.*"]),
        second.connect(user="bob", topics=["t"]),
        second.connect(topics=["t"]),
    ):
        await asyncio.sleep(2 * REPORT_INTERVAL)
        for each in (first, second):
            assert await each.presence("t") == {"ann", "bob"}
            assert await each.presence("p.*") == {"ann"}
            assert await each.online_users() == {"ann", "bob"}


async def test_each_change_is_reported_once() -> None:
    """A user with two connections on two nodes joins once and leaves once."""
    reported: list[tuple[str, str, bool]] = []

    def hook(change: PresenceChange) -> None:
        reported.append((change.topic, change.user, change.is_present))

    broker = MemoryBroker(clock=wall_clock)
    async with (
        Broadcaster(broker=broker, presence=hook) as first,
        Broadcaster(broker=broker, presence=hook) as second,
    ):
        async with first.connect(user="ann", topics=["t"]):
            await asyncio.sleep(2 * REPORT_INTERVAL)
            async with second.connect(user="ann", topics=["t"]):
                await asyncio.sleep(2 * REPORT_INTERVAL)
            await asyncio.sleep(2 * REPORT_INTERVAL)
            assert sorted(reported) == [("$user", "ann", True), ("t", "ann", True)]
            reported.clear()
        await asyncio.sleep(2 * REPORT_INTERVAL)
        assert sorted(reported) == [("$user", "ann", False), ("t", "ann", False)]


async def test_subscribing_and_unsubscribing_count() -> None:
    """A subscribe or unsubscribe on a live connection changes the presence of its user."""
    async with (
        Broadcaster(presence=True, clock=wall_clock) as broadcaster,
        broadcaster.connect(user="ann", topics=["t"]) as connection,
    ):
        await broadcaster.subscribe(connection, ["u"])
        await broadcaster.unsubscribe(connection, ["t"])
        await asyncio.sleep(2 * REPORT_INTERVAL)
        assert await broadcaster.presence("t") == frozenset()
        assert await broadcaster.presence("u") == {"ann"}


async def test_quick_reconnect_is_no_change() -> None:
    """A reconnect within the report interval is not a change."""
    reported: list[PresenceChange] = []
    async with Broadcaster(presence=reported.append, clock=wall_clock) as broadcaster:
        async with broadcaster.connect(user="ann"):
            await asyncio.sleep(2.5 * REPORT_INTERVAL)
        async with broadcaster.connect(user="ann"):
            await asyncio.sleep(2 * REPORT_INTERVAL)
            assert [change.is_present for change in reported] == [True]


async def test_node_that_stops_removes_its_members() -> None:
    """A node that stops removes its members from the store."""
    broker = MemoryBroker(clock=wall_clock)
    async with Broadcaster(broker=broker, presence=True) as running:
        async with (
            Broadcaster(broker=broker, presence=True) as stopping,
            stopping.connect(user="ann"),
        ):
            await asyncio.sleep(2 * REPORT_INTERVAL)
            assert await running.online_users() == {"ann"}
        assert await running.online_users() == frozenset()


async def test_node_whose_lease_ended_reports_again() -> None:
    """A node that the store no longer has reports all its members again."""
    broker = BrokerWithCountedPresence(clock=wall_clock)
    async with Broadcaster(broker=broker, presence=True) as node, node.connect(user="ann"):
        await asyncio.sleep(2 * REPORT_INTERVAL)
        await broker.presence.remove(broker.presence.nodes[0])
        assert await node.online_users() == frozenset()
        await asyncio.sleep(3 * REPORT_INTERVAL)
        assert await node.online_users() == {"ann"}


async def test_full_sync_repairs_the_store() -> None:
    """A member that the store lost is reported again by the periodic full sync."""
    broker = BrokerWithCountedPresence(clock=wall_clock)
    async with Broadcaster(broker=broker, presence=True) as node, node.connect(user="ann"):
        await asyncio.sleep(2 * REPORT_INTERVAL)
        lost = [("$user", UserId("ann"))]
        await broker.presence.update(broker.presence.nodes[0], [], lost, LEASE)
        await asyncio.sleep(2 * REPORT_INTERVAL)
        assert await node.online_users() == frozenset()
        await asyncio.sleep(FULL_SYNC_INTERVAL)
        assert await node.online_users() == {"ann"}


@pytest.mark.parametrize("error", [BrokerUnavailable, OutcomeUnknown])
@pytest.mark.parametrize("is_carried_out", [False, True])
async def test_leave_during_an_outage_is_reported_later(
    error: type[Exception], is_carried_out: bool
) -> None:
    """A leave whose report failed, or has an unknown outcome, is reported later."""
    reported: list[bool] = []

    def hook(change: PresenceChange) -> None:
        reported.append(change.is_present)

    broker = BrokerWithCountedPresence(clock=wall_clock)
    async with Broadcaster(broker=broker, presence=hook) as node:
        async with node.connect(user="ann"):
            await asyncio.sleep(2 * REPORT_INTERVAL)
            broker.presence.error = error("away")
            broker.presence.is_carried_out = is_carried_out
        await asyncio.sleep(4 * REPORT_INTERVAL)
        broker.presence.error = None
        await asyncio.sleep(2 * REPORT_INTERVAL)
        assert await node.online_users() == frozenset()
        # A report that was carried out but not answered reaches no hook.
        assert reported == ([True] if is_carried_out else [True, False])


async def test_slow_hook_delays_no_report() -> None:
    """A slow hook delays no report, and gets all changes in order."""
    reported: list[PresenceChange] = []

    async def hook(change: PresenceChange) -> None:
        await asyncio.sleep(LEASE / 20)
        reported.append(change)

    broker, users = MemoryBroker(clock=wall_clock), [f"u{n}" for n in range(50)]
    async with (
        Broadcaster(broker=broker, presence=hook) as slow,
        Broadcaster(broker=broker, presence=True) as other,
        contextlib.AsyncExitStack() as stack,
    ):
        for user in users:
            await stack.enter_async_context(slow.connect(user=user))
        await asyncio.sleep(2 * REPORT_INTERVAL)
        while len(reported) < len(users):
            assert await other.online_users() == set(users)
            await asyncio.sleep(REPORT_INTERVAL)
        async with slow.connect(user="last"):
            await asyncio.sleep(3 * REPORT_INTERVAL)
        await asyncio.sleep(3 * REPORT_INTERVAL)
        assert {change.user for change in reported[:-2]} == set(users)
        assert all(change.is_present for change in reported[:-1])
        assert [(each.user, each.is_present) for each in reported[-2:]] == [
            ("last", True),
            ("last", False),
        ]


async def test_slow_hook_misses_the_oldest_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue is bounded: the oldest changes are dropped, with one warning."""
    monkeypatch.setattr(presence, "MAX_QUEUED_CHANGES", 3)
    reported, gate = list[str](), asyncio.Event()

    async def hook(change: PresenceChange) -> None:
        reported.append(change.user)
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
        assert reported == ["u0", "u5", "u6", "u7"]
        assert caplog.text.count("use Broadcaster.presence") == 1


async def test_hook_that_hangs_does_not_keep_the_node(caplog: pytest.LogCaptureFixture) -> None:
    """A hanging hook is cancelled with the Broadcaster, after one second for queued changes."""
    started, cancelled = list[bool](), list[bool]()

    async def hook(change: PresenceChange) -> None:
        started.append(change.is_present)
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
    assert started == cancelled == [True, True]
    assert "2 changes were left" in caplog.text


async def test_store_error_at_the_stop_leaves_no_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error of the store at the stop leaves no task running."""

    async def broken(node: NodeId) -> PresenceDelta:
        raise ValueError("broken")

    broker, before = BrokerWithCountedPresence(clock=wall_clock), len(asyncio.all_tasks())
    monkeypatch.setattr(broker.presence, "remove", broken)
    with pytest.raises(ValueError, match="broken"):
        async with Broadcaster(broker=broker, presence=True):
            pass
    assert len(asyncio.all_tasks()) == before


async def test_hook_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in the hook is logged, and the next change is reported."""
    reported: list[str] = []

    async def hook(change: PresenceChange) -> None:
        reported.append(change.user)
        raise ValueError("no")

    async with Broadcaster(presence=hook, clock=wall_clock) as broadcaster:
        for user in ("ann", "bob"):
            async with broadcaster.connect(user=user):
                await asyncio.sleep(2 * REPORT_INTERVAL)
    assert {"ann", "bob"} <= set(reported)
    assert "presence hook failed" in caplog.text


async def test_without_presence_it_is_an_error_to_ask() -> None:
    """Asking for presence raises if presence is disabled."""
    async with Broadcaster() as broadcaster:
        with pytest.raises(ConfigurationError, match="presence=True"):
            await broadcaster.online_users()


async def test_hook_can_publish_while_its_node_stops(caplog: pytest.LogCaptureFixture) -> None:
    """A hook can still publish the changes that its stopping node causes."""
    broker = MemoryBroker(clock=wall_clock)

    async def hook(change: PresenceChange) -> None:
        await stopping.publish(f"presence.{change.topic}", change.is_present)

    async with (
        Broadcaster(broker=broker) as running,
        running.connect(topics=["presence.*"]) as connection,
    ):
        reader = FrameReader(connection)
        await reader.first_frame()
        stopping = Broadcaster(broker=broker, presence=hook)
        async with stopping, stopping.connect(user="ann", topics=["t"]):
            await asyncio.sleep(2 * REPORT_INTERVAL)
        received = await reader.take(3)
        assert received[0] is True
        assert False in received
    assert "failed" not in caplog.text
