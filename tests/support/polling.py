"""Waiting for what only can be asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def eventually(
    condition: Callable[[], Awaitable[bool]], *, seconds: float = 10.0, every: float = 0.05
) -> None:
    """Ask again and again until ``condition()`` is true; raises TimeoutError after so long."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the other side is another process
            await asyncio.sleep(every)
