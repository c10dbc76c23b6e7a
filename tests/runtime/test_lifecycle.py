"""Lifecycle: start and stop, threads and event loops, failed tasks, and the drain."""

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

REAL_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""Real event loop for tests with threads, because a virtual clock does not wait for them."""


async def begin_handshake(broadcaster: Broadcaster) -> tuple[asyncio.Task[None], asyncio.Event]:
    """Return a client whose handshake waits in `may_subscribe`, and the event that ends the wait.

    The client reads to the end of its connection, or is refused.
    """
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def may_subscribe(topic: str) -> bool:
        is_asked.set()
        return await may_answer.wait()

    async def client() -> None:
        with contextlib.suppress(BroadcasterFailed, Refused):
            async with broadcaster.connect(topics=["t"], may_subscribe=may_subscribe) as connection:
                await FrameReader(connection, timeout=3600).rest()

    task = asyncio.create_task(client())
    await is_asked.wait()
    return task, may_answer


class TestStartAndStop:
    """Start, stop and failure."""

    async def test_used_before_start_and_after_close(self) -> None:
        """A call before the start or after the close raises NotRunning, with advice."""
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

    async def test_second_enter_raises(self) -> None:
        """A second enter raises, and the Broadcaster continues to run."""
        async with Broadcaster() as broadcaster:
            with pytest.raises(NotRunning, match="already"):
                await broadcaster.__aenter__()
            await broadcaster.publish("t", 1)

    async def test_started_again_continues_the_log(self) -> None:
        """After a stop and a start, a client resumes without loss."""
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
        """A Broadcaster can be started again in another event loop."""
        broadcaster = Broadcaster(heartbeat_interval=10.0)

        async def run() -> None:
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

        run_virtual(run())
        run_virtual(run())

    async def test_close_ends_every_connection(self) -> None:
        """The end of the block closes each connection, and leaves no task."""
        tasks = asyncio.all_tasks()
        types: list[list[str]] = []

        async def client(broadcaster: Broadcaster) -> None:
            async with broadcaster.connect(topics=["t"]) as connection:
                types.append([frame.type for frame in await FrameReader(connection).rest()])

        async with Broadcaster() as broadcaster:
            clients = [asyncio.create_task(client(broadcaster)) for _ in range(3)]
            await run_ready()
        await asyncio.wait_for(asyncio.gather(*clients), 1.0)
        assert types == [["connection_established", "closing"]] * 3
        await run_ready()
        assert asyncio.all_tasks() == tasks

    async def test_error_in_the_block_passes_through(self) -> None:
        """An exception in the block is raised, and the Broadcaster is closed."""
        broadcaster = Broadcaster()
        with pytest.raises(ZeroDivisionError):
            async with broadcaster:
                raise ZeroDivisionError
        assert broadcaster.state is BroadcasterState.CLOSED

    async def test_started_in_one_task_and_stopped_in_another(self) -> None:
        """A Broadcaster can be entered in one task and left in another, as fixtures do."""
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
        may_start = asyncio.Event()

        class SlowBroker(DelayedBroker):
            async def start(self) -> None:
                await may_start.wait()
                await super().start()

        broadcaster = Broadcaster(broker=SlowBroker())
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
        may_start.set()
        await starting
        await broadcaster.publish("t", 1)
        await broadcaster.stop()

    @pytest.mark.parametrize("cancels", [1, 2, 3])
    async def test_cancelled_close_leaves_no_task(self, cancels: int) -> None:
        """A close that is cancelled up to three times ends every task."""
        tasks = asyncio.all_tasks()
        broadcaster = Broadcaster()

        async def run() -> None:
            async with broadcaster, broadcaster.connect(topics=["t"]):
                await asyncio.sleep(3600)

        owner = asyncio.create_task(run())
        await run_ready()
        for _ in range(cancels):
            owner.cancel()
            await run_ready(3)
        await asyncio.wait_for(asyncio.wait([owner]), 10.0)
        await run_ready()
        assert broadcaster.state is BroadcasterState.CLOSED
        assert asyncio.all_tasks() == tasks
        with pytest.raises(NotRunning):
            await broadcaster.publish("t", 1)

    async def test_failed_start_can_be_repeated(self) -> None:
        """If the broker fails at the start, the start raises, and can be repeated."""

        class UnreachableBroker(DelayedBroker):
            async def start(self) -> None:
                if not attempts:
                    attempts.append(1)
                    raise ConnectionError("refused")
                await super().start()

        attempts: list[int] = []
        broadcaster = Broadcaster(broker=UnreachableBroker())
        with pytest.raises(ConnectionError):
            async with broadcaster:
                pass
        with pytest.raises(NotRunning):
            await broadcaster.publish("t", 1)
        async with broadcaster:
            await broadcaster.publish("t", 1)

    async def test_failed_feed_fails_the_broadcaster(self) -> None:
        """If the feed fails, connections are closed as failed, and calls raise the cause."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            closing_data = []

            async def client() -> None:
                async with broadcaster.connect(topics=["t"]) as connection:
                    closing_data.append((await FrameReader(connection).rest())[-1].data)

            clients = [asyncio.create_task(client()) for _ in range(3)]
            await run_ready()
            await broker.fail(ConnectionError("connection lost"))
            await asyncio.wait_for(asyncio.gather(*clients), 1.0)
            assert closing_data == [{"reason": "failed", "reconnect": True}] * 3
            assert broadcaster.state is BroadcasterState.FAILED
            with pytest.raises(BroadcasterFailed) as caught:
                await broadcaster.publish("t", 1)
            assert isinstance(caught.value.__cause__, ConnectionError)
            with pytest.raises(BroadcasterFailed):
                async with broadcaster.connect(topics=["t"]):
                    pass

    async def test_connection_that_opens_while_the_feed_fails_ends(self) -> None:
        """A handshake ends if the feed fails meanwhile."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            task, may_answer = await begin_handshake(broadcaster)
            await broker.fail(ConnectionError())
            await run_ready()
            may_answer.set()
            done, _ = await asyncio.wait([task], timeout=10.0)
            assert done

    async def test_replaced_log_is_a_gap(self) -> None:
        """If the log is replaced, connections end, and clients get a gap with the cause restart."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            async with broadcaster.connect(topics=["t"]) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                await broadcaster.publish("t", 1)
                await reader.take(1)
                event_id = reader.last_id
                await broker.replace_log()
                await broadcaster.publish("t", 2)
                closing = (await reader.rest())[-1]
                assert closing.type == "closing"
            for last_id in (event_id, closing.id):
                async with broadcaster.connect(topics=["t"], last_event_id=last_id) as connection:
                    first_frame = await FrameReader(connection).first_frame()
                assert first_frame.data["session"] == "gap"
                assert first_frame.data["gap"]["cause"] == "restart"

    async def test_stored_position_of_a_replaced_log_is_not_used(self) -> None:
        """A session of a replaced log, resumed by its token alone, misses no new message."""
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
                received = [await reader.take(1)]
                if received == [["new"]]:
                    received = [await reader.take(1)]
                assert received == [["after"]]


class SlowBroker(DelayedBroker):
    """A broker whose `start` waits for `opened`, and whose `close` waits for `closed`."""

    def __init__(self) -> None:
        super().__init__()
        self.opened, self.closed = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None

    async def start(self) -> None:
        await self.opened.wait()
        if self.error is not None:
            raise self.error
        await super().start()

    async def close(self) -> None:
        await self.closed.wait()
        await super().close()


class TestStartAndStopTogether:
    """Calls of `start`, `stop` and `ensure_started` that overlap."""

    async def test_stopped_while_it_starts(self) -> None:
        """`stop` waits for a start of another task, and the Broadcaster does not run afterwards."""
        before = asyncio.all_tasks()
        broker = SlowBroker()
        broker.closed.set()
        broadcaster = Broadcaster(broker=broker)
        starting = asyncio.create_task(broadcaster.start())
        await run_ready()
        stopping = asyncio.create_task(broadcaster.stop())
        await run_ready()
        assert not stopping.done()
        broker.opened.set()
        await asyncio.gather(starting, stopping)
        assert broadcaster.state is BroadcasterState.CLOSED
        assert asyncio.all_tasks() == before
        async with broadcaster:
            await broadcaster.publish("t", 1)

    async def test_stopped_while_a_start_fails(self) -> None:
        """Only `start` raises the error of the start; `stop` finds nothing to stop."""
        broker = SlowBroker()
        broker.error = ConnectionError("refused")
        broadcaster = Broadcaster(broker=broker)
        starting = asyncio.create_task(broadcaster.start())
        await run_ready()
        stopping = asyncio.create_task(broadcaster.stop())
        await run_ready()
        broker.opened.set()
        await stopping
        with pytest.raises(ConnectionError):
            await starting
        assert broadcaster.state is BroadcasterState.NEW

    async def test_every_stop_waits_until_the_broker_is_closed(self) -> None:
        """A second `stop` returns when the first one does, and a start before that is refused."""
        broker = SlowBroker()
        broker.opened.set()
        broadcaster = Broadcaster(broker=broker)
        await broadcaster.start()
        first = asyncio.create_task(broadcaster.stop())
        await run_ready(20)
        second = asyncio.create_task(broadcaster.stop())
        await run_ready(20)
        assert not second.done()
        with pytest.raises(NotRunning, match="already"):
            await broadcaster.start()
        broker.closed.set()
        await asyncio.gather(first, second)
        async with broadcaster:
            await broadcaster.publish("t", 1)

    async def test_stopped_from_inside_raises(self) -> None:
        """A periodic source and a presence hook that call `stop` raise, and wait for no one."""
        errors: list[str] = []

        async def stop(*_: object) -> None:
            try:
                await broadcaster.stop()
            except RuntimeError as error:
                errors.append(str(error))

        broadcaster = Broadcaster(presence=stop)
        broadcaster.periodic("t", stop, interval=60.0)
        async with broadcaster:
            async with broadcaster.connect(user="ann", topics=["t"]):
                await asyncio.sleep(2.0)
            assert broadcaster.state is BroadcasterState.RUNNING
        assert len(errors) >= 2
        assert all("create_task" in error for error in errors)

    async def test_first_request_is_cancelled(self) -> None:
        """If the caller that starts it is cancelled, a caller that waits starts it instead."""
        broker = SlowBroker()
        broker.closed.set()
        broadcaster = Broadcaster(broker=broker)
        first, second, third = (asyncio.create_task(broadcaster.ensure_started()) for _ in range(3))
        await run_ready()
        first.cancel()
        await run_ready()
        broker.opened.set()
        await asyncio.gather(second, third)
        assert broadcaster.state is BroadcasterState.RUNNING
        await broadcaster.stop()

    async def test_start_fails_for_all_who_wait(self) -> None:
        """Callers of `ensure_started` share one attempt and its error; the next one tries again."""
        broker = SlowBroker()
        broker.closed.set()
        broker.error = ConnectionError("refused")
        broadcaster = Broadcaster(broker=broker)
        waiting = [asyncio.create_task(broadcaster.ensure_started()) for _ in range(3)]
        await run_ready()
        broker.opened.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(answer) for answer in answers] == ["refused"] * 3
        broker.error = None
        await broadcaster.ensure_started()
        await broadcaster.stop()


class TestThreads:
    """Calls from another thread or another event loop."""

    @pytest.mark.real_time
    @REAL_LOOP
    async def test_publish_from_thread(self) -> None:
        """A worker thread publishes, and gets the offset or the error."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            offset = await anyio.to_thread.run_sync(
                lambda: broadcaster.publish_from_thread("t", 1, priority=Priority.HIGH, timeout=5)
            )
            assert offset == 1
            assert await reader.take(1) == [1]
            with pytest.raises(InvalidTopic):
                await anyio.to_thread.run_sync(lambda: broadcaster.publish_from_thread("", 1))

    async def test_publish_from_thread_in_the_loop_raises(self) -> None:
        """`publish_from_thread` raises in the Broadcaster's own loop, and publishes no message."""
        async with Broadcaster() as broadcaster:
            with pytest.raises(WrongThread, match="await"):
                broadcaster.publish_from_thread("t", 1)
            assert broadcaster.statistics().published == 0

    @REAL_LOOP
    async def test_publish_in_another_loop_raises(self) -> None:
        """The coroutine methods raise in a loop of another thread, before a message is queued."""
        async with Broadcaster() as broadcaster:
            errors: list[BaseException] = []

            async def call_all() -> None:
                for call in (broadcaster.publish("t", 1), broadcaster.position(["t"])):
                    try:
                        await call
                    except WrongThread as error:
                        errors.append(error)

            def run_loop() -> None:
                asyncio.run(call_all())

            thread = threading.Thread(target=run_loop)
            thread.start()
            await anyio.to_thread.run_sync(thread.join)
            assert len(errors) == 2
            assert broadcaster.statistics().published == 0

    @REAL_LOOP
    async def test_stop_in_another_loop_raises(self) -> None:
        """`stop` in a loop of another thread raises instead of waiting there for ever."""
        async with Broadcaster() as broadcaster:

            def other() -> None:
                with pytest.raises(WrongThread):
                    asyncio.run(asyncio.wait_for(broadcaster.stop(), 2.0))

            await anyio.to_thread.run_sync(other)
            await broadcaster.publish("t", 1)

    @pytest.mark.real_time
    @REAL_LOOP
    async def test_publish_from_thread_times_out(self) -> None:
        """If the broker does not answer, the thread gets a TimeoutError."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            broker.hold()
            with pytest.raises(TimeoutError):
                await anyio.to_thread.run_sync(
                    lambda: broadcaster.publish_from_thread("t", 1, timeout=0.05)
                )
            broker.release()


class TestDrain:
    """The drain."""

    async def test_drain_ends_connections_and_refuses_new_ones(self) -> None:
        """A drain closes all connections, refuses new ones, and returns True."""
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

    async def test_drain_returns_false_after_its_timeout(self) -> None:
        """If a connection does not end, `drain` returns False after its timeout."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]):
            loop = asyncio.get_running_loop()
            start = loop.time()
            assert not await broadcaster.drain(0.5)
            assert loop.time() - start == pytest.approx(0.5, abs=0.01)

    async def test_connection_that_opens_during_a_drain_ends(self) -> None:
        """A drain also ends a connection whose handshake was in progress."""
        async with Broadcaster() as broadcaster:
            task, may_answer = await begin_handshake(broadcaster)
            broadcaster.begin_drain()
            may_answer.set()
            done, _ = await asyncio.wait([task], timeout=2.0)
            assert done

    async def test_drain_loses_no_pending_message(self) -> None:
        """The id of the closing frame does not cover a pending message."""
        broker = MemoryBroker()
        async with Broadcaster(broker=broker) as draining, Broadcaster(broker=broker) as other:
            async with draining.connect(topics=["t"]) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                for n in range(5):
                    await draining.publish("t", n, priority=Priority(n % 4))
                await run_ready()
                draining.begin_drain()
                received = [frame.data for frame in await reader.rest() if frame.type == "message"]
            async with other.connect(topics=["t"], last_event_id=reader.last_id) as connection:
                resumed = FrameReader(connection)
                assert (await resumed.first_frame()).data["session"] == "resumed"
                assert sorted(received + await resumed.take(5 - len(received))) == list(range(5))


class TestEventLoops(unittest.IsolatedAsyncioTestCase):
    """A Broadcaster in a framework that runs each test in its own event loop."""

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
