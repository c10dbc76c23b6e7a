"""Long polling: the frames of one connection, gathered for one answer."""

from __future__ import annotations

import asyncio
import json

from ..core.frames import Frame
from ..runtime.connection import Connection

MAX_WAIT = 25.0
"""Seconds that a poll waits for frames; proxies give up on a silent answer after 30 to 60."""

QUIET_TIME = 0.01
"""Seconds without another frame after which the gathered frames are answered."""

MAX_GATHER_TIME = 0.1
"""Seconds after which they are answered although more keep coming."""

MAX_DEGRADED_WAIT = 5.0
"""Seconds that a poll waits if it could only report `degraded`. Without a wait, polls of all
clients would follow each other as fast as the network allows while the store is in trouble."""

ANSWER_BYTES = 256 * 1024
"""About the bytes of one answer; the rest is left for the next poll."""


async def gather(connection: Connection, wait: float, into: list[Frame]) -> None:
    """Fill `into` with the first frame and the pending ones.

    A resumed session waits up to `wait` seconds for a frame. A fresh one, or one with a gap, is
    answered at once, because the client needs to know.

    Cancellation: `into` has every frame that was taken.
    """
    first = await connection.next_frames()
    if first is None:
        return
    into += first
    connection.mark_sent()
    established, *others = [json.loads(frame.body) for frame in first]
    patience = wait if established.get("data", {}).get("session") == "resumed" else 0.0
    if others:
        is_degraded = all(other["type"] == "degraded" for other in others)
        patience = min(patience, MAX_DEGRADED_WAIT) if is_degraded else 0.0
    clock = asyncio.get_running_loop().time
    size, until = 0, clock() + max(patience, QUIET_TIME)
    while size < ANSWER_BYTES:
        try:
            async with asyncio.timeout_at(until if not size else min(until, clock() + QUIET_TIME)):
                more = await connection.next_frames()
        except TimeoutError:
            return
        if more is None:
            return
        if not size:
            until = clock() + MAX_GATHER_TIME
        into += more
        connection.mark_sent()
        size += sum(len(frame.body) for frame in more)
