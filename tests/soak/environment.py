"""The state that all clients of a soak share: servers, published messages and results."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from zlib import crc32

from .published import PublishedMessages
from .results import Results

HEARTBEAT = 2.0
"""Seconds between the heartbeats of each server."""


@dataclass(kw_only=True)
class Environment:
    """One soak in progress.

    `mean_life` is the mean number of seconds until a client cuts its connection.
    """

    seed: int
    mean_life: float
    published: PublishedMessages
    results: Results
    heartbeat: float = HEARTBEAT
    calm: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the end of the run: no further fault is injected."""
    checked: dict[str, int] = field(default_factory=dict)
    """Frame that was checked before → the number of its message."""
    ended_by: dict[int, str] = field(default_factory=dict)
    """Port → how the server on it was last ended."""
    _up: list[int] = field(default_factory=list)
    _any_up: asyncio.Event = field(default_factory=asyncio.Event)

    def server_started(self, port: int) -> None:
        self._up.append(port)
        self._any_up.set()

    def server_ending(self, port: int, method: str) -> None:
        """Record that the server on `port` is about to be ended by `method`."""
        self.ended_by[port] = f"by {method} of the server"
        self._up.remove(port)
        if not self._up:
            self._any_up.clear()

    def is_up(self, port: int) -> bool:
        return port in self._up

    async def pick_port(self, rng: random.Random) -> int:
        """Return the port of a random server that is up; wait until there is one."""
        while not self._up:
            await self._any_up.wait()
        return rng.choice(self._up)


def checksum(number: int, topic: str, lane: str, key: str | None, text: str) -> int:
    """Return the checksum of everything that must arrive unchanged."""
    return crc32(f"{number} {topic} {lane} {key} {text}".encode())
