"""Streams with short delays, and waits that end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from holdfast.client import Stream, connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.client.scripted_server import ScriptedServer

PATIENCE = 10.0
"""Seconds after which a wait has failed."""

FAST = (0.0, 0.02)
"""The retry_delays of a test that measures no delay."""


def stream_from(server: ScriptedServer, **options: Any) -> Stream:
    """Return a stream of the topic t from a scripted server."""
    return connect(server.url, topics=["t"], **{"retry_delays": FAST, **options})


async def take(stream: Stream, count: int, *, within: float = PATIENCE) -> list[Any]:
    """Return the data of the next `count` messages."""
    async with asyncio.timeout(within):
        return [(await anext(stream)).data for _ in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds, or fail after PATIENCE seconds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - no event reports it
            await asyncio.sleep(0.01)
