"""What all clients of a soak share: the server, its ledger, and what was done to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from zlib import crc32

from .ledger import Ledger


@dataclass
class Site:
    """The server, as the clients see it."""

    port: int
    ledger: Ledger
    seed: int
    heartbeat: float
    """Seconds."""
    mean_life: float
    """Seconds that a connection lives on average before its client cuts it."""
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """Not set while the server is being restarted: nobody comes back then."""
    down: str = ""
    """How the server was ended, when it is not up."""
    calm: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the end: no more faults."""
    cuts: Counter[str] = field(default_factory=Counter)
    read: dict[bytes, int] = field(default_factory=dict)
    """Frames that were checked before, byte for byte → the number of their message."""


def checksum(number: int, topic: str, lane: str, key: str | None, text: str) -> int:
    """Of what must arrive unchanged."""
    return crc32(f"{number} {topic} {lane} {key} {text}".encode())
