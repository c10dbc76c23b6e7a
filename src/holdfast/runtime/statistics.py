"""Statistics: the counts of a Broadcaster and its connections at one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..core.delivery.buffer import BufferStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatistics:
    """The counts of one connection, at one moment.

    Attributes:
        connection_id: The id that the client sees.
        user: The identified user, `None` for an unidentified client.
        transport: "sse", "websocket", "poll" or the application's own word.
        state: "opening", "open", "closing" or "closed".
        age: Seconds since the connection began.
        idle: Seconds since the last sign of life from the client.
        topics: The number of subscriptions, including `$user`.
        live: True if all lanes are live, False while a lane is catching up.
        frames_sent: Frames that the server took. They may still be lost on their way.
        bytes_sent: The bytes of their bodies.
        unacknowledged: Bytes that were sent and not acknowledged; `None` if the client does not
            acknowledge.
        buffer: The counts of the buffer.
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
        """Return the fields by name, as values that `json.dumps` accepts."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The counts of one node since its start, at one moment.

    Attributes:
        state: The value of `Broadcaster.state`.
        reachable: True if the broker answers.
        uptime: Seconds since the start.
        offset: The offset up to which this node has delivered the log.
        connections: Connections that take part in the fan-out.
        users: Identified users with a connection.
        transports: The number of connections of each transport, including closing ones.
        opened: Connections that have begun.
        resumed: Connections that resumed a session.
        tokens_refused: Reconnect tokens and event ids that were not accepted.
        published: Messages that this Broadcaster published.
        frames_sent: Frames that the server took. They may still be lost on their way.
        bytes_sent: The bytes of their bodies.
        conflated: Messages that a newer one superseded in a buffer.
        expired: Messages whose ttl was over before they were sent.
        evicted: Messages that left a full buffer and are read again from the history.
        gaps: Gap frames that were sent.
        lost: Messages in those gaps, as far as they are counted.
        source_errors: Failures of periodic sources.
    """

    state: str
    reachable: bool
    uptime: float
    offset: int
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
        """Return the fields by name, as values that `json.dumps` accepts."""
        return asdict(self)


@dataclass(slots=True)
class Counters:
    """The counts of a node since its start. The end of a connection adds its counts."""

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
