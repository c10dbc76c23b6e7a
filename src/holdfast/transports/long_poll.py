"""Long polling: collects the frames of one connection for one answer."""

from __future__ import annotations

import asyncio
import json

from ..core.frames import Frame
from ..runtime.connection import Connection

MAX_WAIT = 25.0
"""Seconds that a poll waits for a frame. Proxies give up on a silent answer after 30 to 60."""

QUIET_TIME = 0.01
"""Seconds without another frame after which the collected frames are answered."""

MAX_GATHER_TIME = 0.1
"""Seconds after the first frame, at most, until the collected frames are answered."""

MAX_DEGRADED_WAIT = 5.0
"""Seconds that a poll waits if its only frame is `degraded`. Without this wait, the clients would
poll as fast as the network allows while the broker does not answer."""

ANSWER_BYTES = 256 * 1024
"""Bytes of one answer, more or less; other frames are left for the next poll."""


async def gather(connection: Connection, wait: float, into: list[Frame]) -> None:
    """Append the first frame and the pending frames to `into`.

    A resumed session waits for a frame. A session that is fresh or has a gap does not wait, because
    the client needs the first frame at once.

    Args:
        connection: From `Broadcaster.connect`.
        wait: Seconds to wait for a frame, at most.
        into: The list to append to.

    Cancellation:
        `into` has every frame that was taken.
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
