"""BackgroundTasks: work that must complete, although its caller may be cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_logger = logging.getLogger("holdfast")


class BackgroundTasks:
    """Short tasks that outlive their callers. The Broadcaster waits for all of them at its stop.

    Invariants (tests/runtime/test_background.py): after `wait`, no task is left; an exception is
    logged, because no caller receives it.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work` in a task that survives the cancellation of the caller."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("background task failed: %s", task.get_name(), exc_info=error)

    async def wait(self) -> None:
        """Wait for all tasks, including tasks that start meanwhile."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))
