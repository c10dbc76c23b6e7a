"""Commands: a client changes its own connection, by POST or by WebSocket message."""

from __future__ import annotations

from typing import cast

import anyio

from ..core import frames
from ..errors import Refused
from ..reasons import Reason
from ..runtime.broadcaster import Broadcaster
from ..runtime.connection import Connection

PROBE_TIMEOUT = 5.0
"""Seconds that a probe waits until the server has taken its frame."""


def named_topics(value: dict[str, object]) -> list[str]:
    """Return the member `topics` (or `metrics`) of a command: a list of strings, or one string."""
    listed = value.get("topics", value.get("metrics"))
    names = [listed] if isinstance(listed, str) else listed
    names = cast("list[object]", names) if isinstance(names, list) else []
    topics = [name for name in names if isinstance(name, str)]
    if not topics or len(topics) < len(names):
        raise Refused(Reason.INVALID_MESSAGE, '"topics" must be a list of topics')
    return topics


class Commands:
    """Carries out commands. Each method returns the data of the answer, or raises `Refused`."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster

    async def subscribe(
        self, connection: Connection, value: dict[str, object]
    ) -> dict[str, object]:
        """Add topics to a connection."""
        allowed, rejected = await self._broadcaster.subscribe(connection, named_topics(value))
        return {"topics": allowed, "rejected": rejected}

    async def unsubscribe(
        self, connection: Connection, value: dict[str, object]
    ) -> dict[str, object]:
        """Remove topics from a connection."""
        return {"topics": await self._broadcaster.unsubscribe(connection, named_topics(value))}

    async def ack(self, connection: Connection, value: dict[str, object]) -> dict[str, object]:
        """Acknowledge all frames up to an event id of a connection."""
        event_id = value.get("id")
        if not isinstance(event_id, str):
            raise Refused(Reason.INVALID_MESSAGE, '"id" must be an event id')
        return {"acknowledged": connection.acknowledge(event_id)}

    async def probe(self, connection: Connection) -> dict[str, object]:
        """Send a test frame, and return the seconds until the server took it."""
        transport, began = connection.transport, anyio.current_time()
        connection.put_control(frames.control("test", self._broadcaster.now()))
        with anyio.move_on_after(PROBE_TIMEOUT):
            if await connection.wait_flushed():
                seconds = round(anyio.current_time() - began, 6)
                return {"sent": True, "seconds": seconds, "transport": transport}
        return {"sent": False, "seconds": None, "transport": transport}

    async def by_message(
        self, connection: Connection, kind: str, value: dict[str, object]
    ) -> bytes | None:
        """Carry out a WebSocket message, and return the frame of the answer; `None` for an ack."""
        now = self._broadcaster.now()
        match kind:
            case "ping":
                return frames.control("pong", now)
            case "subscribe":
                return frames.control("subscribed", now, await self.subscribe(connection, value))
            case "unsubscribe":
                return frames.control(
                    "unsubscribed", now, await self.unsubscribe(connection, value)
                )
            case "ack":
                await self.ack(connection, value)
                return None
            case "resume":
                raise Refused(Reason.TOO_LATE, "only the first message may be a resume")
            case _:
                raise Refused(Reason.UNKNOWN_TYPE, "there is no message of this type")
