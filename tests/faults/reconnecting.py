"""A client that reconnects for ever, and keeps all that it received."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tests.support.clients import open_stream

PATIENCE = 30.0


@dataclass
class ConnectionRecord:
    """One connection that received its first frame."""

    first: dict[str, Any]
    """The data of the first frame."""
    id: str
    """The id of the first frame."""
    messages: list[Any] = field(default_factory=list)
    gaps: list[Any] = field(default_factory=list)
    closing: str | None = None

    @property
    def session(self) -> str:
        """Return `fresh`, `resumed`, or the cause of a gap."""
        return str(self.first["gap"]["cause"] if "gap" in self.first else self.first["session"])


class ReconnectingClient:
    """A client that reads an event stream, and reconnects with its last event id at its end.

    `pause()` returns the seconds until it reconnects. Without it, the client waits for the time of
    `retry`, as a browser does. The server's heartbeats must be less than ten seconds apart.
    """

    def __init__(
        self,
        port: int,
        path: str = "/stream?topics=t",
        *,
        last_event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        pause: Callable[[], float] | None = None,
        on_message: Callable[[Any], None] = lambda data: None,
    ) -> None:
        self.port = port
        self.path = path
        self.last_event_id = last_event_id
        self.connections: list[ConnectionRecord] = []
        self.attempts = 0
        self.connected = False
        self._headers = headers
        self._pause = pause
        self._on_message = on_message
        self._retry = 1.0
        self._news = asyncio.Event()

    @property
    def messages(self) -> list[Any]:
        """Return the data of all messages, over all connections."""
        return list(itertools.chain.from_iterable(visit.messages for visit in self.connections))

    @property
    def sessions(self) -> list[str]:
        """Return the session of each connection."""
        return [visit.session for visit in self.connections]

    async def wait_until(self, condition: Callable[[Self], bool]) -> None:
        """Wait until the condition holds; every event and every end checks it."""
        async with asyncio.timeout(PATIENCE):
            while not condition(self):
                self._news.clear()
                await self._news.wait()

    async def run(self) -> None:
        """Connect again and again, until cancelled."""
        while True:
            self.attempts += 1
            # TimeoutError: a silent server counts as gone.
            with contextlib.suppress(OSError, EOFError, ValueError, IndexError):
                await self._visit()
            self.connected = False
            self._news.set()
            await asyncio.sleep(self._pause() if self._pause else self._retry)

    async def _visit(self) -> None:
        async with open_stream(
            self.port, self.path, last_event_id=self.last_event_id, headers=self._headers
        ) as stream:
            visit: ConnectionRecord | None = None
            while True:
                event = await stream.event()
                frame = event.json()
                match frame["type"]:
                    case "connection_established":
                        visit = ConnectionRecord(frame["data"], event.last_event_id)
                        self.connections.append(visit)
                        self.connected = True
                    case "message" if visit:
                        visit.messages.append(frame["data"])
                        self._on_message(frame["data"])
                    case "gap" if visit:
                        visit.gaps.append(frame["data"])
                    case "closing" if visit:
                        visit.closing = frame["data"]["reason"]
                self.last_event_id = event.last_event_id or self.last_event_id
                self._retry = (stream.decoder.retry or 1000) / 1000
                self._news.set()


@contextlib.asynccontextmanager
async def running(*clients: ReconnectingClient) -> AsyncIterator[None]:
    """Run the clients during the block. An exception of a client fails the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.run()) for client in clients]
        yield
        for task in tasks:
            task.cancel()
