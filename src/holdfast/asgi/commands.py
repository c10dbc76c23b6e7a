"""What a client may ask of its own connection, by POST or by WebSocket message."""

from __future__ import annotations

from typing import cast

import anyio

from ..errors import Refused
from ..runtime import frames
from ..runtime.broadcaster import Broadcaster
from ..runtime.connection import Outbox

PROBE_TIMEOUT = 5.0
"""Seconds that a probe may take to be handed to the server."""


def named_topics(value: dict[str, object]) -> list[str]:
    """The member `topics` (or `metrics`): a list of strings, or one string."""
    listed = value.get("topics", value.get("metrics"))
    names = [listed] if isinstance(listed, str) else listed
    names = cast("list[object]", names) if isinstance(names, list) else []
    topics = [name for name in names if isinstance(name, str)]
    if not topics or len(topics) < len(names):
        raise Refused("invalid_message", '"topics" must be a list of topics', status=400)
    return topics


class Commands:
    """Carries commands out; each answers with the data of its answer, or raises `Refused`."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster

    async def subscribe(self, outbox: Outbox, value: dict[str, object]) -> dict[str, object]:
        """Add topics."""
        allowed, rejected = await self._broadcaster.subscribe(outbox, named_topics(value))
        return {"topics": allowed, "rejected": rejected}

    async def unsubscribe(self, outbox: Outbox, value: dict[str, object]) -> dict[str, object]:
        """Remove topics."""
        return {"topics": await self._broadcaster.unsubscribe(outbox, named_topics(value))}

    async def ack(self, outbox: Outbox, value: dict[str, object]) -> dict[str, object]:
        """Keep an event id of this connection as its resume point."""
        event_id = value.get("id")
        if not isinstance(event_id, str):
            raise Refused("invalid_message", '"id" must be an event id', status=400)
        return {"acknowledged": outbox.acknowledge(event_id)}

    async def probe(self, outbox: Outbox) -> dict[str, object]:
        """Send a test frame, and report whether and how soon the server took it."""
        transport, began = outbox.connection.transport, anyio.current_time()
        outbox.put(frames.control("test", self._broadcaster.now()))
        with anyio.move_on_after(PROBE_TIMEOUT):
            if await outbox.flushed():
                seconds = round(anyio.current_time() - began, 6)
                return {"handedOver": True, "seconds": seconds, "transport": transport}
        return {"handedOver": False, "seconds": None, "transport": transport}

    async def by_message(self, outbox: Outbox, kind: str, value: dict[str, object]) -> bytes | None:
        """A WebSocket message; the answer is a frame, or `None` (an ack has no answer)."""
        now = self._broadcaster.now()
        match kind:
            case "ping":
                return frames.control("pong", now)
            case "subscribe":
                return frames.control("subscribed", now, await self.subscribe(outbox, value))
            case "unsubscribe":
                return frames.control("unsubscribed", now, await self.unsubscribe(outbox, value))
            case "ack":
                await self.ack(outbox, value)
                return None
            case "resume":
                raise Refused("too_late", "resume is for the first message", status=400)
            case _:
                raise Refused("unknown_type", "there is no message of this type", status=400)
