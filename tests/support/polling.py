"""Wait for a condition that has to be polled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def wait_until(
    condition: Callable[[], Awaitable[bool]], *, seconds: float = 10.0, every: float = 0.05
) -> None:
    """Poll until `condition()` is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the other side is another process
            await asyncio.sleep(every)
