"""Background tasks complete although their caller is cancelled, and log their failures."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast.runtime.background import BackgroundTasks

if TYPE_CHECKING:
    import pytest


async def test_task_completes_after_its_caller_is_cancelled() -> None:
    """`spawn` returns at once, and the work goes on without the caller."""
    tasks, go, done = BackgroundTasks(), asyncio.Event(), list[int]()

    async def work() -> None:
        await go.wait()
        done.append(1)

    async def caller() -> None:
        tasks.spawn(work(), "work")
        await asyncio.sleep(3600)

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    go.set()
    await tasks.wait()
    assert done == [1]


async def test_wait_includes_tasks_that_start_meanwhile() -> None:
    """After `wait`, no task is left."""
    tasks, done = BackgroundTasks(), list[int]()

    async def work(more: int) -> None:
        await asyncio.sleep(0)
        done.append(more)
        if more:
            tasks.spawn(work(more - 1), "work")

    tasks.spawn(work(2), "work")
    await tasks.wait()
    assert done == [2, 1, 0]


async def test_failure_is_logged_with_the_name_of_the_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An exception reaches the log, because no caller receives it, and `wait` returns."""
    tasks = BackgroundTasks()

    async def work() -> None:
        raise OSError("no route")

    tasks.spawn(work(), "detach session")
    await tasks.wait()
    assert [record.message for record in caplog.records] == [
        "background task failed: detach session"
    ]
    assert caplog.records[0].exc_info is not None
