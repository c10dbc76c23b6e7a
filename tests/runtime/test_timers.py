"""Upkeep: heartbeats, deadlines, sweeps. Hours pass in no time: the clock is the loop's."""

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
    """Seconds of the loop's clock."""
    return asyncio.get_running_loop().time()


class Listener:
    """Reads a connection in the background, and notes when each frame came."""

    def __init__(self, broadcaster: Broadcaster, **first_frame: Any) -> None:
        self.seen: list[tuple[float, ReceivedFrame]] = []
        self.connection: Any = None
        self.task = asyncio.create_task(self._run(broadcaster, {"topics": ["t"], **first_frame}))

    async def _run(self, broadcaster: Broadcaster, first_frame: dict[str, Any]) -> None:
        async with broadcaster.connect(**first_frame) as self.connection:
            reader = FrameReader(self.connection, timeout=100_000.0)
            while (frame := await reader.frame()) is not None:
                self.seen.append((now(), frame))

    def times(self, kind: str) -> list[float]:
        """When the frames of one type came."""
        return [at for at, frame in self.seen if frame.type == kind]

    async def stop(self) -> None:
        """Leave."""
        self.task.cancel()
        await asyncio.wait([self.task])


class TestHeartbeats:
    """Heartbeats."""

    async def test_idle_connection_gets_them_jittered(self) -> None:
        """A silent connection gets one in every interval, never at quite the same distance."""
        async with Broadcaster(heartbeat_interval=30.0, idle_timeout=None) as broadcaster:
            listener = Listener(broadcaster)
            await asyncio.sleep(3600.0)
            times = [0.0, *listener.times("heartbeat")]
            pauses = [b - a for a, b in itertools.pairwise(times)]
            assert len(pauses) >= 3600 / 30
            assert all(30.0 * 0.75 - 0.02 <= pause <= 30.02 for pause in pauses)
            assert len({round(pause, 3) for pause in pauses}) > 10
            await listener.stop()

    async def test_they_carry_the_cursor_past_others_traffic(self) -> None:
        """The id of a heartbeat keeps a quiet subscriber from falling behind what is trimmed."""
        async with Broadcaster(history_limit=2) as broadcaster:
            listener = Listener(broadcaster, topics=["quiet"])
            await run_ready()
            for n in range(50):
                await broadcaster.publish("other", n)
            await asyncio.sleep(31.0)
            heartbeat = EventId.parse(listener.seen[-1][1].id)
            assert listener.seen[-1][1].type == "heartbeat"
            assert heartbeat is not None
            assert str(heartbeat.cursor) == "50"
            await listener.stop()

    async def test_busy_connection_gets_none(self) -> None:
        """Where something is sent often enough, there is no heartbeat."""
        async with Broadcaster(heartbeat_interval=10.0) as broadcaster:
            listener = Listener(broadcaster)
            await run_ready()
            for n in range(100):
                await broadcaster.publish("t", n)
                await asyncio.sleep(5.0)
            assert listener.times("heartbeat") == []
            assert len(listener.times("message")) == 100
            await listener.stop()

    async def test_none_is_off(self) -> None:
        """An interval of None sends none, in hours."""
        async with Broadcaster(heartbeat_interval=None, idle_timeout=None) as broadcaster:
            listener = Listener(broadcaster)
            await asyncio.sleep(20_000.0)
            assert [frame.type for _, frame in listener.seen] == ["connection_established"]
            await listener.stop()

    async def test_blocked_connection_gets_none(self) -> None:
        """While a send is under way none is queued: they would pile up."""
        async with (
            Broadcaster(heartbeat_interval=1.0, send_timeout=None) as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
        ):
            await connection.next_frames()  # handed over, and not yet sent
            await asyncio.sleep(500.0)
            connection.mark_sent()
            await asyncio.sleep(0.1)
            reader = FrameReader(connection)
            await reader.assert_no_frame()

    async def test_many_connections_spread(self) -> None:
        """Connections that came at once get their heartbeats at different times."""
        async with Broadcaster(heartbeat_interval=30.0) as broadcaster:
            listeners = [Listener(broadcaster) for _ in range(40)]
            await asyncio.sleep(45.0)
            firsts = {round(listener.times("heartbeat")[0], 2) for listener in listeners}
            assert len(firsts) > 20
            for listener in listeners:
                await listener.stop()


class TestDeadlines:
    """What ends a connection."""

    @pytest.mark.parametrize("limit", [1.0, 20.0])
    async def test_send_that_takes_too_long(self, limit: float) -> None:
        """A transport that is stuck in a send is aborted within twice `send_timeout`."""
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
        """A client that is slow, but takes each piece in time, is left alone."""
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

    async def test_client_that_gives_no_sign_of_life(self) -> None:
        """After `idle_timeout` the connection ends, and the client is told to come back."""
        async with Broadcaster(idle_timeout=1800.0) as broadcaster:
            listener = Listener(broadcaster)
            await asyncio.sleep(1000.0)
            listener.connection.mark_seen()
            await asyncio.wait_for(listener.task, 10_000.0)
            assert now() == pytest.approx(2800.0, abs=1.0)
            assert listener.seen[-1][1].data == {"reason": "idle", "reconnect": True}

    async def test_idle_timeout_off(self) -> None:
        """With None nobody is ended for being quiet."""
        async with Broadcaster(idle_timeout=None) as broadcaster:
            listener = Listener(broadcaster)
            await asyncio.sleep(100_000.0)
            assert not listener.task.done()
            await listener.stop()

    async def test_credentials_that_expire_in_mid_stream(self) -> None:
        """The stream ends when the credentials do, and the client is told not to come back."""
        async with Broadcaster(clock=wall_clock) as broadcaster:
            listener = Listener(broadcaster, expires_at=wall_clock() + 100.0)
            await asyncio.sleep(99.0)
            await broadcaster.publish("t", 1)
            await run_ready()
            assert len(listener.times("message")) == 1
            await asyncio.wait_for(listener.task, 10.0)
            assert now() == pytest.approx(100.0, abs=0.1)
            assert listener.seen[-1][1].data == {
                "reason": "credentials_expired", "reconnect": False,
            }  # fmt: skip

    async def test_credentials_that_have_expired_already(self) -> None:
        """With credentials of the past a connection ends at once."""
        async with Broadcaster(clock=wall_clock) as broadcaster:
            listener = Listener(broadcaster, expires_at=wall_clock() - 1.0)
            await asyncio.wait_for(listener.task, 1.0)

    @pytest.mark.parametrize("cause", ["idle", "expired"])
    async def test_connection_that_does_not_end_costs_nothing(self, cause: str) -> None:
        """One that was told to end and is stuck elsewhere is not looked at all the time."""
        options: dict[str, Any] = {"idle_timeout": 100.0 if cause == "idle" else None}
        async with Broadcaster(clock=wall_clock, **options) as broadcaster:
            until = wall_clock() + 100.0 if cause == "expired" else None
            async with broadcaster.connect(topics=["t"], expires_at=until) as connection:
                await asyncio.sleep(100.1)
                assert connection.close_reason is not None
                loop = asyncio.get_running_loop()
                assert isinstance(loop, VirtualLoop)
                before = loop.jumps
                await asyncio.sleep(1.1)
                assert loop.jumps - before <= 10
                assert len(node_of(broadcaster).timers._deadlines) <= 5

    @pytest.mark.parametrize("ghost", [False, True])
    async def test_blocked_connection_does_not_hold_up_the_drain(self, ghost: bool) -> None:
        """Whoever is stuck in a send when the drain begins is aborted within two seconds.

        That goes for connections, too, whose session somebody else has taken over.
        """
        async with Broadcaster() as broadcaster:
            ended = asyncio.Event()

            async def client() -> None:
                async with broadcaster.connect(user="ann", topics=["t"]) as connection:
                    stuck = asyncio.Event()
                    connection.on_abort(stuck.set)
                    ids.extend(frame.id for frame in await connection.next_frames() or [])
                    await stuck.wait()
                ended.set()

            ids: list[str] = []
            task = asyncio.create_task(client())
            await run_ready()
            if ghost:
                async with broadcaster.connect(user="ann", topics=["t"], last_event_id=ids[0]):
                    pass
            begun = now()
            broadcaster.begin_drain()
            await asyncio.wait_for(ended.wait(), 10.0)
            assert now() - begun < 2.0
            await task

    async def test_stuck_ghost_is_let_go_soon(self) -> None:
        """A connection that is stuck when it is taken over is aborted within a few seconds."""
        async with Broadcaster(heartbeat_interval=None, send_timeout=None) as broadcaster:
            ids: list[str] = []
            ended: list[float] = []

            async def client() -> None:
                async with broadcaster.connect(user="ann", topics=["t"]) as connection:
                    stuck = asyncio.Event()
                    connection.on_abort(stuck.set)
                    ids.extend(frame.id for frame in await connection.next_frames() or [])
                    await stuck.wait()
                ended.append(now())

            task = asyncio.create_task(client())
            await asyncio.sleep(40.0)
            async with broadcaster.connect(user="ann", topics=["t"], last_event_id=ids[0]):
                await asyncio.wait_for(task, 100.0)
            assert ended[0] - 40.0 <= 5.0


class TestSweeps:
    """The broker's upkeep."""

    async def test_history_is_trimmed_by_age_without_traffic(self) -> None:
        """What is past its age goes with the sweep, though nothing is published any more."""
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
        """A sweep that dies is no silent loss: all is closed, and says so."""

        class Broken(DelayedBroker):
            async def sweep(self) -> None:
                raise ConnectionError

        async with Broadcaster(broker=Broken(), cleanup_interval=10.0) as broadcaster:
            listener = Listener(broadcaster)
            await asyncio.wait_for(listener.task, 20.0)
            assert broadcaster.state is BroadcasterState.FAILED


async def test_deadlines_do_not_multiply() -> None:
    """A connection that is told to end and does not is one entry, however often it is looked at."""
    broadcaster = Broadcaster(idle_timeout=1.0, heartbeat_interval=None)
    async with broadcaster, broadcaster.connect(topics=["t"]):
        await asyncio.sleep(60.0)
        assert len(node_of(broadcaster).timers._deadlines) <= 3
