"""Bounds for calls to redis-py.

On Python 3.11, `asyncio.wait_for`, which redis-py uses to send, loses a cancellation that arrives
in the moment in which the work is done (python/cpython#86296). One cancellation is not enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

CANCEL_INTERVAL = 0.05
"""Seconds between two cancellations of the same task."""


async def run_with_timeout(seconds: float, work: Awaitable[T]) -> T:
    """Return the result of `work`, and cancel the work after `seconds`.

    Raises:
        TimeoutError: The work took longer, was cancelled, and is over.
        Exception: The work raised it.

    Cancellation:
        The work is cancelled, and over when this returns.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=max(0.0, seconds))
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        await cancel_and_wait(task)


async def cancel_and_wait(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it is over. An exception of the task is dropped."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_INTERVAL)
    if not task.cancelled():
        task.exception()
