"""Lifecycle: start and stop, threads and loops, tasks that die, and draining."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import unittest
from typing import Any

import anyio.to_thread
import pytest

from holdfast import (
    Broadcaster,
    BroadcasterFailed,
    InvalidTopic,
    MemoryBroker,
    NotRunning,
    Priority,
    Refused,
    WrongThread,
)
from holdfast.runtime.lifecycle import BroadcasterState
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import run_ready, run_virtual

REAL = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For tests with threads: a virtual clock would not wait for them."""


class TestLife:
    """Start, stop, failure."""

    async def test_used_before_start_and_after_close(self) -> None:
        """Every call that needs it running says so, and says what to do."""
        broadcaster = Broadcaster()
        for _ in range(2):
            with pytest.raises(NotRunning, match="lifespan"):
                await broadcaster.publish("t", 1)
            with pytest.raises(NotRunning):
                await broadcaster.publish_to_user("ann", 1)
            with pytest.raises(NotRunning):
                await broadcaster.position(["t"])
            with pytest.raises(NotRunning):
                broadcaster.publish_from_thread("t", 1)
            with pytest.raises(NotRunning):
                async with broadcaster.connect(topics=["t"]):
                    pass
            async with broadcaster:
                await broadcaster.publish("t", 1)
            assert broadcaster.state is BroadcasterState.CLOSED

    async def test_entered_twice_is_an_error_and_changes_nothing(self) -> None:
        """A second enter raises, and the first goes on running."""
        async with Broadcaster() as broadcaster:
            with pytest.raises(NotRunning, match="already"):
                await broadcaster.__aenter__()
            await broadcaster.publish("t", 1)

    async def test_started_again_continues_the_log(self) -> None:
        """After close and start, a client of before resumes without loss."""
        broadcaster = Broadcaster()
        async with broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            await broadcaster.publish("t", 1)
            assert await reader.take(1) == [1]
            await broadcaster.publish("t", 2)
        async with broadcaster:
            await broadcaster.publish("t", 3)
            async with broadcaster.connect(
                topics=["t"], last_event_id=reader.last_id
            ) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["session"] == "resumed"
                assert await reader.take(2) == [2, 3]

    def test_started_again_in_another_loop(self) -> None:
        """It may be started again in a new event loop, and everything works there."""
        broadcaster = Broadcaster(heartbeat_interval=10.0)

        async def once() -> None:
            async with broadcaster, broadcaster.connect(topics=["t"]) as connection:
                reader = FrameReader(connection, timeout=20.0)
                await reader.first_frame()
                await broadcaster.publish("t", 1)
                assert await reader.take(1) == [1]
                heartbeat = await reader.frame()
                assert heartbeat is not None
                assert heartbeat.type == "heartbeat"
                assert not await broadcaster.drain(0.5)
            assert broadcaster.state is BroadcasterState.CLOSED

        run_virtual(once())
        run_virtual(once())

    async def test_close_ends_every_stream(self) -> None:
        """Leaving the block tells each connection to end, and leaves no task behind."""
        before = asyncio.all_tasks()
        ends: list[list[str]] = []

        async def client(broadcaster: Broadcaster) -> None:
            async with broadcaster.connect(topics=["t"]) as connection:
                ends.append([seen.type for seen in await FrameReader(connection).rest()])

        async with Broadcaster() as broadcaster:
            clients = [asyncio.create_task(client(broadcaster)) for _ in range(3)]
            await run_ready()
        await asyncio.wait_for(asyncio.gather(*clients), 1.0)
        assert ends == [["connection_established", "closing"]] * 3
        await run_ready()
        assert asyncio.all_tasks() == before

    async def test_error_in_the_block_passes_through(self) -> None:
        """What the block raises is what the caller gets, and the broadcaster is closed."""
        broadcaster = Broadcaster()
        with pytest.raises(ZeroDivisionError):
            async with broadcaster:
                raise ZeroDivisionError
        assert broadcaster.state is BroadcasterState.CLOSED

    async def test_started_in_one_task_and_stopped_in_another(self) -> None:
        """A fixture enters a Broadcaster in one task and leaves it in another."""
        broadcaster = Broadcaster()
        await asyncio.create_task(broadcaster.__aenter__())
        async with broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            await broadcaster.publish("t", 1)
            assert await reader.take(1) == [1]
        await asyncio.create_task(broadcaster.__aexit__(None, None, None))
        assert broadcaster.state is BroadcasterState.CLOSED

    async def test_concurrent_first_requests_start_it_once(self) -> None:
        """`ensure_started` waits for a start that another task has begun."""
        broker = DelayedBroker()
        broadcaster = Broadcaster(broker=broker)
        await asyncio.gather(*[broadcaster.ensure_started() for _ in range(5)])
        states = [broadcaster.state]
        await broadcaster.ensure_started()
        await broadcaster.stop()
        await broadcaster.ensure_started()
        states.append(broadcaster.state)
        assert states == [BroadcasterState.RUNNING, BroadcasterState.CLOSED]

    async def test_used_while_it_starts(self) -> None:
        """A Broadcaster whose broker is still starting answers like one that is not running."""
        opened = asyncio.Event()

        class Slow(DelayedBroker):
            async def start(self) -> None:
                await opened.wait()
                await super().start()

        broadcaster = Broadcaster(broker=Slow())
        starting = asyncio.create_task(broadcaster.start())
        await run_ready()
        assert repr(broadcaster) == "<Broadcaster new, 0 connections>"
        assert not broadcaster.is_accepting
        assert broadcaster.connection("x") is None
        assert broadcaster.connections_of("ada") == []
        assert broadcaster.connection_statistics() == []
        assert broadcaster.statistics().connections == 0
        assert not broadcaster.has_listeners("t")
        assert not broadcaster.disconnect("x")
        broadcaster.begin_drain()
        assert await broadcaster.drain()
        with pytest.raises(NotRunning):
            await broadcaster.publish("t", 1)
        opened.set()
        await starting
        await broadcaster.publish("t", 1)
        await broadcaster.stop()

    @pytest.mark.parametrize("cancels", [1, 2, 3])
    async def test_cancelled_while_closing_is_closed_all_the_same(self, cancels: int) -> None:
        """However often the owner is cancelled, also while it drains, nothing is left running."""
        before = asyncio.all_tasks()
        broadcaster = Broadcaster()

        async def own() -> None:
            async with broadcaster, broadcaster.connect(topics=["t"]):
                await asyncio.sleep(3600)

        owner = asyncio.create_task(own())
        await run_ready()
        for _ in range(cancels):
            owner.cancel()
            await run_ready(3)
        await asyncio.wait_for(asyncio.wait([owner]), 10.0)
        await run_ready()
        assert broadcaster.state is BroadcasterState.CLOSED
        assert asyncio.all_tasks() == before
        with pytest.raises(NotRunning):
            await broadcaster.publish("t", 1)

    async def test_broker_that_does_not_start_leaves_it_stopped(self) -> None:
        """If the broker fails at start, so does the broadcaster, and it can be tried again."""

        class Unreachable(DelayedBroker):
            async def start(self) -> None:
                if not attempts:
                    attempts.append(1)
                    raise ConnectionError("refused")
                await super().start()

        attempts: list[int] = []
        broadcaster = Broadcaster(broker=Unreachable())
        with pytest.raises(ConnectionError):
            async with broadcaster:
                pass
        with pytest.raises(NotRunning):
            await broadcaster.publish("t", 1)
        async with broadcaster:
            await broadcaster.publish("t", 1)

    async def test_dead_task_fails_everyone_who_waits(self) -> None:
        """When the feed dies, streams end as failed, and publish and connect raise the cause."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            ends = []

            async def client() -> None:
                async with broadcaster.connect(topics=["t"]) as connection:
                    ends.append((await FrameReader(connection).rest())[-1].data)

            clients = [asyncio.create_task(client()) for _ in range(3)]
            await run_ready()
            await broker.fail(ConnectionError("the line is cut"))
            await asyncio.wait_for(asyncio.gather(*clients), 1.0)
            assert ends == [{"reason": "failed", "reconnect": True}] * 3
            assert broadcaster.state is BroadcasterState.FAILED
            with pytest.raises(BroadcasterFailed) as caught:
                await broadcaster.publish("t", 1)
            assert isinstance(caught.value.__cause__, ConnectionError)
            with pytest.raises(BroadcasterFailed):
                async with broadcaster.connect(topics=["t"]):
                    pass

    async def test_connection_that_opens_while_the_feed_dies_does_not_hang(self) -> None:
        """A client that is being let in when the feed dies is refused or told, not left alone."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            asked, answer = asyncio.Event(), asyncio.Event()

            async def may(topic: str) -> bool:
                asked.set()
                return await answer.wait()

            async def client() -> None:
                with contextlib.suppress(BroadcasterFailed, Refused):
                    async with broadcaster.connect(topics=["t"], may_subscribe=may) as connection:
                        await FrameReader(connection, timeout=3600).rest()

            task = asyncio.create_task(client())
            await asked.wait()
            await broker.fail(ConnectionError())
            await run_ready()
            answer.set()
            done, _ = await asyncio.wait([task], timeout=10.0)
            assert done

    async def test_lost_log_is_declared(self) -> None:
        """When the log is another one, streams end, and who comes back is told: restart."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            async with broadcaster.connect(topics=["t"]) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                await broadcaster.publish("t", 1)
                await reader.take(1)
                at = reader.last_id
                await broker.replace_log()
                await broadcaster.publish("t", 2)
                closing = (await reader.rest())[-1]
                assert closing.type == "closing"
            for last_id in (at, closing.id):
                async with broadcaster.connect(topics=["t"], last_event_id=last_id) as connection:
                    first_frame = await FrameReader(connection).first_frame()
                assert first_frame.data["session"] == "gap"
                assert first_frame.data["gap"]["cause"] == "restart"

    async def test_position_of_a_lost_log_is_not_taken_for_one_of_the_new(self) -> None:
        """A session of a lost log, resumed by its token alone, hides nothing that comes after."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            async with broadcaster.connect(user="ann", topics=["t"]) as connection:
                reader = FrameReader(connection)
                first_frame = await reader.first_frame()
                for n in range(20):
                    await broadcaster.publish("t", n)
                await reader.take(20)
                await broker.replace_log()
                await broadcaster.publish("t", "new")
                await reader.rest()
            async with broadcaster.connect(
                user="ann", topics=["t"], reconnect_token=first_frame.data["reconnectToken"]
            ) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["session"] == "gap"
                await broadcaster.publish("t", "after")
                seen = [await reader.take(1)]
                if seen == [["new"]]:
                    seen = [await reader.take(1)]
                assert seen == [["after"]]


class TestThreads:
    """Calls from elsewhere than the broadcaster's own loop."""

    @REAL
    async def test_publish_from_thread(self) -> None:
        """A worker thread publishes, and gets the offset, or the publisher's own mistake."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            offset = await anyio.to_thread.run_sync(
                lambda: broadcaster.publish_from_thread("t", 1, priority=Priority.HIGH, timeout=5)
            )
            assert offset == broadcaster.statistics().position + 0 or offset > 0
            assert await reader.take(1) == [1]
            with pytest.raises(InvalidTopic):
                await anyio.to_thread.run_sync(lambda: broadcaster.publish_from_thread("", 1))

    async def test_publish_from_thread_in_the_loop_raises(self) -> None:
        """In the loop itself, where it would wait for ever, it raises and publishes nothing."""
        async with Broadcaster() as broadcaster:
            with pytest.raises(WrongThread, match="await"):
                broadcaster.publish_from_thread("t", 1)
            assert broadcaster.statistics().published == 0

    @REAL
    async def test_publish_in_another_loop_raises(self) -> None:
        """The coroutine methods raise in a loop of another thread, before anything is queued."""
        async with Broadcaster() as broadcaster:
            errors: list[BaseException] = []

            async def elsewhere() -> None:
                for call in (broadcaster.publish("t", 1), broadcaster.position(["t"])):
                    try:
                        await call
                    except WrongThread as error:
                        errors.append(error)

            def other() -> None:
                asyncio.run(elsewhere())

            thread = threading.Thread(target=other)
            thread.start()
            await anyio.to_thread.run_sync(thread.join)
            assert len(errors) == 2
            assert broadcaster.statistics().published == 0

    @REAL
    async def test_publish_from_thread_times_out(self) -> None:
        """If the broker does not answer, the thread gets TimeoutError instead of hanging."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            broker.hold()
            with pytest.raises(TimeoutError):
                await anyio.to_thread.run_sync(
                    lambda: broadcaster.publish_from_thread("t", 1, timeout=0.05)
                )
            broker.release()


class TestDrain:
    """Ending on request."""

    async def test_drain_ends_streams_and_refuses_new_ones(self) -> None:
        """Connections are told to come back, new ones refused, and drain says that all ended."""
        async with Broadcaster() as broadcaster:

            async def client() -> dict[str, Any]:
                async with broadcaster.connect(topics=["t"]) as connection:
                    return dict((await FrameReader(connection).rest())[-1].data)

            clients = [asyncio.create_task(client()) for _ in range(5)]
            await run_ready()
            assert await broadcaster.drain(1.0)
            await run_ready()
            assert [task.result() for task in clients] == [
                {"reason": "drain", "reconnect": True}
            ] * 5
            with pytest.raises(Refused) as caught:
                async with broadcaster.connect(topics=["t"]):
                    pass
            assert (caught.value.reason.status, caught.value.reason.close_code) == (503, 1012)
            await broadcaster.publish("t", "still works")

    async def test_drain_gives_up_in_time(self) -> None:
        """A connection that does not end is reported, in the time given and not later."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]):
            loop = asyncio.get_running_loop()
            begun = loop.time()
            assert not await broadcaster.drain(0.5)
            assert loop.time() - begun == pytest.approx(0.5, abs=0.01)

    async def test_connection_that_opens_during_drain_is_ended(self) -> None:
        """A client whose admission was under way is not forgotten: drain ends it, too."""
        async with Broadcaster() as broadcaster:
            asked, answer = asyncio.Event(), asyncio.Event()

            async def may(topic: str) -> bool:
                asked.set()
                return await answer.wait()

            async def client() -> None:
                with contextlib.suppress(Refused):
                    async with broadcaster.connect(topics=["t"], may_subscribe=may) as connection:
                        await FrameReader(connection, timeout=3600).rest()

            task = asyncio.create_task(client())
            await asked.wait()
            broadcaster.begin_drain()
            answer.set()
            done, _ = await asyncio.wait([task], timeout=2.0)
            assert done

    async def test_nothing_waiting_is_lost_in_a_drain(self) -> None:
        """What was not yet sent when the drain began is behind the closing frame's id."""
        broker = MemoryBroker()
        async with Broadcaster(broker=broker) as goes, Broadcaster(broker=broker) as stays:
            async with goes.connect(topics=["t"]) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                for n in range(5):
                    await goes.publish("t", n, priority=Priority(n % 4))
                await run_ready()
                goes.begin_drain()
                got = [seen.data for seen in await reader.rest() if seen.type == "message"]
            async with stays.connect(topics=["t"], last_event_id=reader.last_id) as connection:
                again = FrameReader(connection)
                assert (await again.first_frame()).data["session"] == "resumed"
                assert sorted(got + await again.take(5 - len(got))) == list(range(5))


class TestEventLoops(unittest.IsolatedAsyncioTestCase):
    """A Broadcaster in the fixtures of a framework that runs each test in its own event loop."""

    broadcaster = Broadcaster()

    async def asyncSetUp(self) -> None:
        await self.enterAsyncContext(self.broadcaster)

    async def _deliver(self) -> None:
        async with self.broadcaster.connect(topics=["t"]) as connection:
            await connection.next_frames()
            connection.mark_sent()
            await self.broadcaster.publish("t", 1)
            frames = await connection.next_frames()
            assert frames is not None
            assert b'"data":1' in frames[0].body

    async def test_in_a_first_loop(self) -> None:
        """`enterAsyncContext` starts the Broadcaster, and stops it after the test."""
        await self._deliver()

    async def test_in_a_second_loop(self) -> None:
        """The same Broadcaster works in another event loop, after the first has ended."""
        await self._deliver()
