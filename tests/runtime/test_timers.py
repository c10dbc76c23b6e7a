"""ConnectionTimers: heartbeats, deadlines and sweeps, on the clock of a virtual loop."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from holdfast import Broadcaster, Reason
from holdfast.core.cursor import EventId
from holdfast.runtime.lifecycle import BroadcasterState
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader, ReceivedFrame
from tests.support.node import node_of
from tests.support.virtual_loop import VirtualLoop, run_ready, wall_clock


def now() -> float:
    """Return seconds of the loop's clock."""
    return asyncio.get_running_loop().time()


class BackgroundClient:
    """A client that reads its connection in a task, and records the time of each frame."""

    def __init__(self, broadcaster: Broadcaster, **options: Any) -> None:
        self.frames: list[tuple[float, ReceivedFrame]] = []
        self.connection: Any = None
        self.task = asyncio.create_task(self._run(broadcaster, {"topics": ["t"], **options}))

    async def _run(self, broadcaster: Broadcaster, options: dict[str, Any]) -> None:
        async with broadcaster.connect(**options) as self.connection:
            reader = FrameReader(self.connection, timeout=100_000.0)
            while (frame := await reader.frame()) is not None:
                self.frames.append((now(), frame))

    def times(self, kind: str) -> list[float]:
        """Return the times of the frames of one type."""
        return [time for time, frame in self.frames if frame.type == kind]

    async def stop(self) -> None:
        """Disconnect."""
        self.task.cancel()
        await asyncio.wait([self.task])


class TestHeartbeats:
    """The heartbeats of a connection."""

    async def test_heartbeats_of_an_idle_connection_are_jittered(self) -> None:
        """An idle connection gets a heartbeat in each interval, at different distances."""
        async with Broadcaster(heartbeat_interval=30.0, idle_timeout=None) as broadcaster:
            client = BackgroundClient(broadcaster)
            await asyncio.sleep(3600.0)
            times = [0.0, *client.times("heartbeat")]
            pauses = [after - before for before, after in itertools.pairwise(times)]
            assert len(pauses) >= 3600 / 30
            assert all(30.0 * 0.75 - 0.02 <= pause <= 30.02 for pause in pauses)
            assert len({round(pause, 3) for pause in pauses}) > 10
            await client.stop()

    async def test_heartbeat_has_the_current_cursor(self) -> None:
        """The id of a heartbeat covers the messages of topics that are not subscribed."""
        async with Broadcaster(history_limit=2) as broadcaster:
            client = BackgroundClient(broadcaster, topics=["quiet"])
            await run_ready()
            for n in range(50):
                await broadcaster.publish("other", n)
            await asyncio.sleep(31.0)
            heartbeat = EventId.parse(client.frames[-1][1].id)
            assert client.frames[-1][1].type == "heartbeat"
            assert heartbeat is not None
            assert str(heartbeat.cursor) == "50"
            await client.stop()

    async def test_busy_connection_gets_no_heartbeat(self) -> None:
        """A connection that is sent messages within the interval gets no heartbeat."""
        async with Broadcaster(heartbeat_interval=10.0) as broadcaster:
            client = BackgroundClient(broadcaster)
            await run_ready()
            for n in range(100):
                await broadcaster.publish("t", n)
                await asyncio.sleep(5.0)
            assert client.times("heartbeat") == []
            assert len(client.times("message")) == 100
            await client.stop()

    async def test_heartbeat_interval_none_is_off(self) -> None:
        """With `heartbeat_interval=None` no heartbeat is sent."""
        async with Broadcaster(heartbeat_interval=None, idle_timeout=None) as broadcaster:
            client = BackgroundClient(broadcaster)
            await asyncio.sleep(20_000.0)
            assert [frame.type for _, frame in client.frames] == ["connection_established"]
            await client.stop()

    async def test_blocked_connection_gets_no_heartbeat(self) -> None:
        """No heartbeat is queued while a send waits."""
        async with (
            Broadcaster(heartbeat_interval=1.0, send_timeout=None) as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
        ):
            await connection.next_frames()  # returned, but not yet sent
            await asyncio.sleep(500.0)
            connection.mark_sent()
            await asyncio.sleep(0.1)
            reader = FrameReader(connection)
            await reader.assert_no_frame()

    async def test_heartbeats_of_many_connections_are_spread(self) -> None:
        """Connections that open together get their heartbeats at different times."""
        async with Broadcaster(heartbeat_interval=30.0) as broadcaster:
            clients = [BackgroundClient(broadcaster) for _ in range(40)]
            await asyncio.sleep(45.0)
            first_times = {round(client.times("heartbeat")[0], 2) for client in clients}
            assert len(first_times) > 20
            for client in clients:
                await client.stop()


class TestDeadlines:
    """The timeouts that end a connection."""

    @pytest.mark.parametrize("limit", [1.0, 20.0])
    async def test_stuck_send_is_aborted(self, limit: float) -> None:
        """A transport whose send is stuck is aborted within twice `send_timeout`."""
        async with Broadcaster(send_timeout=limit) as broadcaster:
            aborted: list[float] = []

            async def client() -> None:
                async with broadcaster.connect(topics=["t"]) as connection:
                    stuck = asyncio.Event()

                    def abort() -> None:
                        aborted.append(now())
                        stuck.set()

                    connection.on_abort(abort)
                    await connection.next_frames()
                    await stuck.wait()
                    assert connection.close_reason is Reason.SLOW

            await asyncio.wait_for(client(), 100.0)
            assert len(aborted) == 1
            assert limit <= aborted[0] <= 2 * limit + 0.1
            assert broadcaster.statistics().connections == 0

    async def test_send_timeout_counts_each_send(self) -> None:
        """A client that takes each chunk within `send_timeout` stays connected."""
        async with (
            Broadcaster(send_timeout=20.0, heartbeat_interval=None) as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
        ):
            connection.on_abort(pytest.fail)
            for n in range(10):
                assert await connection.next_frames()
                await asyncio.sleep(15.0)
                connection.mark_sent()
                await broadcaster.publish("t", n)

    async def test_idle_client_is_closed(self) -> None:
        """After `idle_timeout` the connection is closed with the reason idle."""
        async with Broadcaster(idle_timeout=1800.0) as broadcaster:
            client = BackgroundClient(broadcaster)
            await asyncio.sleep(1000.0)
            client.connection.mark_seen()
            await asyncio.wait_for(client.task, 10_000.0)
            assert now() == pytest.approx(2800.0, abs=1.0)
            assert client.frames[-1][1].data == {"reason": "idle", "reconnect": True}

    async def test_idle_timeout_none_is_off(self) -> None:
        """With `idle_timeout=None` an idle connection stays open."""
        async with Broadcaster(idle_timeout=None) as broadcaster:
            client = BackgroundClient(broadcaster)
            await asyncio.sleep(100_000.0)
            assert not client.task.done()
            await client.stop()

    async def test_connection_ends_with_its_credentials(self) -> None:
        """The connection is closed when its credentials expire, without a reconnect."""
        async with Broadcaster(clock=wall_clock) as broadcaster:
            client = BackgroundClient(broadcaster, expires_at=wall_clock() + 100.0)
            await asyncio.sleep(99.0)
            await broadcaster.publish("t", 1)
            await run_ready()
            assert len(client.times("message")) == 1
            await asyncio.wait_for(client.task, 10.0)
            assert now() == pytest.approx(100.0, abs=0.1)
            assert client.frames[-1][1].data == {
                "reason": "credentials_expired", "reconnect": False,
            }  # fmt: skip

    async def test_expired_credentials_end_a_connection_at_once(self) -> None:
        """A connection with expired credentials ends at once."""
        async with Broadcaster(clock=wall_clock) as broadcaster:
            client = BackgroundClient(broadcaster, expires_at=wall_clock() - 1.0)
            await asyncio.wait_for(client.task, 1.0)

    @pytest.mark.parametrize("reason", ["idle", "expired"])
    async def test_connection_that_does_not_end_is_rarely_checked(self, reason: str) -> None:
        """If a transport does not return, its connection is checked at most 10 times a second."""
        options: dict[str, Any] = {"idle_timeout": 100.0 if reason == "idle" else None}
        async with Broadcaster(clock=wall_clock, **options) as broadcaster:
            expires_at = wall_clock() + 100.0 if reason == "expired" else None
            async with broadcaster.connect(topics=["t"], expires_at=expires_at) as connection:
                await asyncio.sleep(100.1)
                assert connection.close_reason is not None
                loop = asyncio.get_running_loop()
                assert isinstance(loop, VirtualLoop)
                jumps = loop.jumps
                await asyncio.sleep(1.1)
                assert loop.jumps - jumps <= 10
                assert len(node_of(broadcaster).timers._deadlines) <= 5

    @staticmethod
    async def block_until_abort(broadcaster: Broadcaster, ids: list[str]) -> None:
        """Connect, add the ids of the first frames to `ids`, and send nothing until the abort."""
        async with broadcaster.connect(user="ann", topics=["t"]) as connection:
            is_aborted = asyncio.Event()
            connection.on_abort(is_aborted.set)
            ids.extend(frame.id for frame in await connection.next_frames() or [])
            await is_aborted.wait()

    @pytest.mark.parametrize("is_taken_over", [False, True])
    async def test_blocked_connection_is_aborted_by_a_drain(self, is_taken_over: bool) -> None:
        """A connection whose send waits is aborted within two seconds of a drain."""
        async with Broadcaster() as broadcaster:
            ids: list[str] = []
            task = asyncio.create_task(self.block_until_abort(broadcaster, ids))
            await run_ready()
            if is_taken_over:
                async with broadcaster.connect(user="ann", topics=["t"], last_event_id=ids[0]):
                    pass
            start = now()
            broadcaster.begin_drain()
            await asyncio.wait_for(task, 10.0)
            assert now() - start < 2.0

    async def test_stuck_connection_is_aborted_after_a_takeover(self) -> None:
        """A connection that is stuck when it is taken over is aborted within five seconds."""
        async with Broadcaster(heartbeat_interval=None, send_timeout=None) as broadcaster:
            ids: list[str] = []
            task = asyncio.create_task(self.block_until_abort(broadcaster, ids))
            await asyncio.sleep(40.0)
            async with broadcaster.connect(user="ann", topics=["t"], last_event_id=ids[0]):
                await asyncio.wait_for(task, 100.0)
                assert now() - 40.0 <= 5.0


class TestSweeps:
    """The periodic sweep of the broker."""

    async def test_history_is_trimmed_by_age_without_traffic(self) -> None:
        """The sweep trims the history by age, without any publish."""
        async with Broadcaster(
            clock=wall_clock, history_age=50.0, cleanup_interval=100.0
        ) as broadcaster:
            await broadcaster.publish("t", "x" * 1000)
            history = node_of(broadcaster).broker.history  # type: ignore[attr-defined]
            await asyncio.sleep(99.0)
            assert len(history) == 1
            await asyncio.sleep(2.0)
            assert len(history) == 0

    async def test_failing_sweep_fails_the_broadcaster(self) -> None:
        """An error of the sweep closes all connections, and the Broadcaster has failed."""

        class Broken(DelayedBroker):
            async def sweep(self) -> None:
                raise ConnectionError

        async with Broadcaster(broker=Broken(), cleanup_interval=10.0) as broadcaster:
            client = BackgroundClient(broadcaster)
            await asyncio.wait_for(client.task, 20.0)
            assert broadcaster.state is BroadcasterState.FAILED


async def test_deadlines_do_not_multiply() -> None:
    """A connection that does not end has at most three deadlines."""
    broadcaster = Broadcaster(idle_timeout=1.0, heartbeat_interval=None)
    async with broadcaster, broadcaster.connect(topics=["t"]):
        await asyncio.sleep(60.0)
        assert len(node_of(broadcaster).timers._deadlines) <= 3
