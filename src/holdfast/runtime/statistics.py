"""Snapshots of a Broadcaster and its connections, frozen and ready for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..core.delivery.buffer import BufferStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatistics:
    """A snapshot of one connection.

    Attributes:
        age: seconds since the connection began.
        idle: seconds since the last sign of life from the client.
        topics: the number of subscriptions, including the personal topic.
        live: True if all lanes are fed by the live feed; False while one reads the log.
        frames_sent: frames that the server took, which does not prove that they arrived.
        bytes_sent: the bytes of their bodies.
        unacknowledged: bytes, `None` for a client that does not acknowledge.
    """

    connection_id: str
    user: str | None
    transport: str
    state: str
    age: float
    idle: float
    topics: int
    live: bool
    frames_sent: int
    bytes_sent: int
    unacknowledged: int | None
    buffer: BufferStatistics

    def as_dict(self) -> dict[str, object]:
        """Return the fields as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A snapshot of a Broadcaster. Counts begin at its start.

    Attributes:
        reachable: True if the broker answers.
        uptime: seconds since the start.
        position: the offset up to which this node has delivered the log.
        frames_sent: frames that servers took, which does not prove that they arrived.
        evicted: messages that left a buffer, to be read again from the log.
        gaps: gap frames that were sent.
        lost: messages that those gaps counted.
    """

    state: str
    reachable: bool
    uptime: float
    position: int
    connections: int
    users: int
    transports: dict[str, int]
    opened: int
    resumed: int
    tokens_refused: int
    published: int
    frames_sent: int
    bytes_sent: int
    conflated: int
    expired: int
    evicted: int
    gaps: int
    lost: int
    source_errors: int

    def as_dict(self) -> dict[str, object]:
        """Return the fields as JSON-able values."""
        return asdict(self)


@dataclass(slots=True)
class Counters:
    """The counts of a node since its start. A connection is added when it ends."""

    opened: int = 0
    resumed: int = 0
    tokens_refused: int = 0
    published: int = 0
    frames_sent: int = 0
    bytes_sent: int = 0
    conflated: int = 0
    expired: int = 0
    evicted: int = 0
    gaps: int = 0
    lost: int = 0
    source_errors: int = 0

    def add(
        self,
        *,
        frames_sent: int,
        bytes_sent: int,
        gaps: int,
        lost: int,
        buffer: BufferStatistics,
    ) -> None:
        """Add the counts of one connection."""
        self.frames_sent += frames_sent
        self.bytes_sent += bytes_sent
        self.gaps += gaps
        self.lost += lost
        self.conflated += buffer.conflated
        self.expired += buffer.expired
        self.evicted += buffer.evicted
