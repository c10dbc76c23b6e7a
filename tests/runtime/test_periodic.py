"""Periodic sources: called on schedule, only while their topic has a listener."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from holdfast import Broadcaster, ConfigurationError, InvalidTopic, Priority
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import run_ready


class Source:
    """A source that counts its calls, and returns the count or raises a given error."""

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.error: Exception | None = None
        self.returns_none = False

    async def __call__(self) -> Any:
        self.calls.append(asyncio.get_running_loop().time())
        if self.error is not None:
            raise self.error
        return None if self.returns_none else len(self.calls)


async def test_source_runs_only_with_a_listener() -> None:
    """A source is called from the first listener to the last, at once and every interval."""
    source = Source()
    async with Broadcaster() as broadcaster:
        broadcaster.periodic("t", source.__call__, interval=30.0)
        await asyncio.sleep(1000.0)
        assert source.calls == []
        async with broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection, timeout=100.0)
            await reader.first_frame()
            start = asyncio.get_running_loop().time()
            received: list[Any] = []
            while len(received) < 3:
                frame = await reader.frame()
                assert frame is not None
                if frame.type == "message":
                    received.append(frame.data)
            assert received == [1, 2, 3]
            assert [time - start for time in source.calls] == pytest.approx([0.0, 30.0, 60.0])
        await asyncio.sleep(1000.0)
        assert len(source.calls) == 3
        async with broadcaster.connect(topics=["*"]):
            await run_ready()
            assert len(source.calls) == 4, "a pattern is a listener"


async def test_later_subscription_starts_the_source() -> None:
    """A connection that subscribes to the topic later is a listener."""
    source = Source()
    async with Broadcaster() as broadcaster, broadcaster.connect(topics=["other"]) as connection:
        broadcaster.periodic("t", source.__call__, interval=30.0)
        await run_ready()
        assert source.calls == []
        await broadcaster.subscribe(connection, ["t"])
        await run_ready()
        assert len(source.calls) == 1


async def test_changing_listeners_do_not_add_calls() -> None:
    """A source is called once per interval, even if listeners change often."""
    source = Source()
    async with Broadcaster() as broadcaster:
        broadcaster.periodic("t", source.__call__, interval=30.0)
        for _ in range(20):
            async with broadcaster.connect(topics=["t"]):
                await asyncio.sleep(5.0)
        assert len(source.calls) <= 100 / 30 + 1


async def test_failing_source_is_called_again(caplog: pytest.LogCaptureFixture) -> None:
    """An error of a source is logged and counted, and ends no stream."""
    source = Source()
    source.error = ZeroDivisionError()
    async with Broadcaster(heartbeat_interval=None) as broadcaster:
        broadcaster.periodic("t", source.__call__, interval=10.0)
        async with broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection, timeout=30.0)
            await reader.first_frame()
            with caplog.at_level(logging.CRITICAL, logger="holdfast"):
                await asyncio.sleep(25.0)
            assert broadcaster.statistics().source_errors == 3
            source.error = None
            assert await reader.take(1) == [4]


async def test_result_that_is_not_json_is_an_error_of_the_source() -> None:
    """A result that is not JSON is logged and counted as an error of the source."""
    async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]):

        async def source() -> float:
            return float("nan")

        broadcaster.periodic("t", source, interval=10.0)
        await asyncio.sleep(1.0)
        assert broadcaster.statistics().source_errors == 1


async def test_none_is_not_published() -> None:
    """A source that returns None publishes no message."""
    source = Source()
    source.returns_none = True
    async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]):
        broadcaster.periodic("t", source.__call__, interval=10.0)
        await asyncio.sleep(25.0)
        assert len(source.calls) == 3
        assert broadcaster.statistics().published == 0


async def test_cancelled_source_is_not_called() -> None:
    """A cancelled source is not called again."""
    source = Source()
    async with Broadcaster() as broadcaster:
        periodic = broadcaster.periodic("t", source.__call__, interval=10.0)
        async with broadcaster.connect(topics=["t"]):
            await asyncio.sleep(15.0)
            periodic.cancel()
            await asyncio.sleep(100.0)
        assert len(source.calls) == 2


async def test_source_made_before_the_start_keeps_its_options() -> None:
    """A source made before the start works in each run, with its priority, key and ttl."""
    broadcaster = Broadcaster()
    broadcaster.periodic(
        "t", Source().__call__, interval=10.0, priority=Priority.HIGH, key="k", ttl=5.0
    )
    for _ in range(2):
        async with broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            frame = await reader.frame()
            assert frame is not None
            assert (frame.body["priority"], frame.body["key"]) == ("high", "k")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_plain_function_is_called_in_a_thread() -> None:
    """A plain function is called in a thread, and does not block the loop."""
    loop_thread, threads = threading.get_ident(), []
    called = threading.Event()

    def source() -> int:
        threads.append(threading.get_ident())
        called.wait(5.0)
        return 7

    async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
        broadcaster.periodic("t", source, interval=60.0)
        reader = FrameReader(connection)
        await reader.first_frame()
        called.set()
        assert await reader.take(1) == [7]
        assert threads[0] != loop_thread


@pytest.mark.parametrize("interval", [0, -1.0, float("nan"), float("-inf")])
def test_interval_must_be_over_zero(interval: float) -> None:
    """An interval that is not over 0 raises."""
    with pytest.raises(ConfigurationError, match="interval"):
        Broadcaster().periodic("t", Source().__call__, interval=interval)


def test_topic_must_be_valid() -> None:
    """A pattern or an invalid name raises when the source is made."""
    with pytest.raises(InvalidTopic):
        Broadcaster().periodic("t.*", Source().__call__, interval=1.0)
