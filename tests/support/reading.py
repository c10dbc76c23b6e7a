"""A client without a transport: it reads a connection as a transport does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, NamedTuple

from holdfast.runtime.connection import Connection
from holdfast.runtime.frames import Frame


class Seen(NamedTuple):
    """A frame as the client receives it: the JSON, and the event id."""

    body: dict[str, Any]
    id: str

    @property
    def type(self) -> str:
        return str(self.body["type"])

    @property
    def data(self) -> Any:
        return self.body.get("data")


class Reader:
    """Reads the frames of one connection, one at a time. Each wait is limited by `patience`."""

    def __init__(self, connection: Connection, *, patience: float = 5.0) -> None:
        self.connection = connection
        self.last_id = ""
        self._patience = patience
        self._waiting: list[Seen] = []

    async def frame(self) -> Seen | None:
        """Return the next frame, or None at the end of the connection."""
        if not self._waiting:
            async with asyncio.timeout(self._patience):
                found = await self.connection.next_frames()
            if found is None:
                return None
            self.connection.mark_sent()
            self._waiting = [Seen(json.loads(frame.body), frame.id) for frame in found]
        seen = self._waiting.pop(0)
        self.last_id = seen.id
        return seen

    async def hello(self) -> Seen:
        """Return the first frame."""
        seen = await self.frame()
        assert seen is not None
        assert seen.type == "connection_established"
        return seen

    async def take(self, count: int) -> list[Any]:
        """Return the data of the next `count` messages. Any other frame fails the test."""
        found: list[Any] = []
        for _ in range(count):
            seen = await self.frame()
            assert seen is not None, f"the connection ended after {found}"
            assert seen.type == "message", seen.body
            found.append(seen.data)
        return found

    async def nothing(self) -> None:
        """Check that no frame comes within half a second (which costs a virtual loop no time)."""
        found: object = self._waiting
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                found = await self.connection.next_frames()
        assert found == [], "a frame came, or the connection ended"

    async def rest(self) -> list[Seen]:
        """Return all frames up to the end of the connection."""
        found: list[Seen] = []
        while (seen := await self.frame()) is not None:
            found.append(seen)
        return found


class Frames:
    """A `FrameEncoder` whose events are frames."""

    peer_lost: tuple[type[Exception], ...] = (OSError,)

    def prefix(self, body: bytes, id: str) -> tuple[bytes, str]:
        return body, id

    def suffix(self, token: str) -> str:
        return token

    def join(self, prefixes: Any) -> Any:
        return prefixes

    def events(self, joined: Any, suffix: str) -> list[Any]:
        return [Frame(body, id + suffix) for body, id in joined]
