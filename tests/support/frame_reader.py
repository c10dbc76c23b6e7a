"""A client without a transport: it reads a connection as a transport does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from holdfast.core.frames import Frame
from holdfast.runtime.connection import Connection
from holdfast.runtime.inline_send import InlineSender


class ReceivedFrame(NamedTuple):
    """A frame as the client receives it: the JSON, and the event id."""

    body: dict[str, Any]
    id: str

    @property
    def type(self) -> str:
        return str(self.body["type"])

    @property
    def data(self) -> Any:
        return self.body.get("data")


class FrameReader:
    """Reads the frames of one connection, one at a time. Each wait ends after `timeout` seconds."""

    def __init__(self, connection: Connection, *, timeout: float = 5.0) -> None:
        self.connection = connection
        self.last_id = ""
        self._timeout = timeout
        self._waiting: list[ReceivedFrame] = []

    async def frame(self) -> ReceivedFrame | None:
        """Return the next frame, or None at the end of the connection."""
        if not self._waiting:
            async with asyncio.timeout(self._timeout):
                found = await self.connection.next_frames()
            if found is None:
                return None
            self.connection.mark_sent()
            self._waiting = [ReceivedFrame(json.loads(frame.body), frame.id) for frame in found]
        received = self._waiting.pop(0)
        self.last_id = received.id
        return received

    async def first_frame(self) -> ReceivedFrame:
        """Return the first frame."""
        received = await self.frame()
        assert received is not None
        assert received.type == "connection_established"
        return received

    async def take(self, count: int) -> list[Any]:
        """Return the data of the next `count` messages. Any other frame fails the test."""
        found: list[Any] = []
        for _ in range(count):
            received = await self.frame()
            assert received is not None, f"the connection ended after {found}"
            assert received.type == "message", received.body
            found.append(received.data)
        return found

    async def assert_no_frame(self) -> None:
        """Check that no frame comes within half a second (which costs a virtual loop no time)."""
        found: object = self._waiting
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                found = await self.connection.next_frames()
        assert found == [], "a frame came, or the connection ended"

    async def rest(self) -> list[ReceivedFrame]:
        """Return all frames up to the end of the connection."""
        found: list[ReceivedFrame] = []
        while (received := await self.frame()) is not None:
            found.append(received)
        return found


class PlainFrameEncoder:
    """A `FrameEncoder` whose events are `Frame` objects."""

    peer_lost: tuple[type[Exception], ...] = (OSError,)

    def prefix(self, body: bytes, id: str) -> tuple[bytes, str]:
        return body, id

    def suffix(self, token: str) -> str:
        return token

    def join(self, prefixes: Any) -> Any:
        return prefixes

    def events(self, joined: Any, suffix: str) -> list[Any]:
        return [Frame(body, id + suffix) for body, id in joined]


async def send_frames(
    connection: Connection,
    send: Callable[[Any], Awaitable[None]],
    *,
    inline: bool = True,
    on_batch: Callable[[list[Frame]], None] = lambda _: None,
) -> None:
    """Send the frames of a connection until its end, as a transport does.

    If not `inline`, the fan-out may not send. `on_batch` is called with the frames that the task of
    the connection sends. Raises what `send` raises.
    """
    sender = InlineSender(send, PlainFrameEncoder(), connection.token)
    if inline:
        connection.attach_sender(sender)
    try:
        while (frames := await connection.next_frames()) is not None:
            on_batch(frames)
            for frame in frames:
                await sender.send(cast("Any", frame))
            connection.mark_sent()
    finally:
        connection.detach_sender()
