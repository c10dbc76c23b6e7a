"""Calls to redis-py that end, whatever happens.

On Python 3.11 `asyncio.wait_for`, in which redis-py sends, loses a cancellation that comes in the
moment in which it is done (python/cpython#86296). So whoever cancels asks again until it is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

AGAIN = 0.05
"""Seconds."""


async def within(seconds: float, work: Awaitable[T]) -> T:
    """What `work` returns or raises; `TimeoutError` after so many seconds, and then it is over."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=max(0.0, seconds))
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        await stop(task)


async def stop(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it is over; what it raised is not raised here."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN)
    if not task.cancelled():
        task.exception()
