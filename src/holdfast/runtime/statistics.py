"""Snapshots of what a Broadcaster does, frozen and ready for JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from ..core.connection import Connection
from ..core.delivery.buffer import BufferStatistics

if TYPE_CHECKING:
    from .connection import Outbox
    from .node import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatistics:
    """One connection.

    `age` and `idle` are in seconds; `frames_sent` counts frames given to the server, which does
    not mean that they arrived; `unacknowledged` is in bytes, `None` for a client that does not
    acknowledge.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A Broadcaster as it stands. Counts are since it started.

    `reachable`: whether the broker answers; `frames_sent` counts frames given to servers;
    `evicted` are messages that left a buffer to be read again from history; `gaps` are gap frames
    sent, `lost` the messages those counted.
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
        """The fields as JSON-able values."""
        return asdict(self)


@dataclass(slots=True)
class Counters:
    """What a node counts as it goes; the accounts of closed connections are added at the end."""

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

    def add_account(self, connection: Connection, outbox: Outbox) -> None:
        """Add the account of a connection."""
        account = connection.delivery.buffer.statistics()
        self.conflated += account.conflated
        self.expired += account.expired
        self.evicted += account.evicted
        self.frames_sent += outbox.frames_sent
        self.bytes_sent += outbox.bytes_sent


def of_connection(outbox: Outbox, now: float) -> ConnectionStatistics:
    """A snapshot of one connection at `now` (monotonic seconds)."""
    connection = outbox.connection
    return ConnectionStatistics(
        connection_id=connection.id,
        user=connection.user,
        transport=connection.transport,
        state=connection.state.value,
        age=now - connection.opened_at,
        idle=now - connection.last_seen,
        topics=len(connection.subscriptions),
        live=connection.delivery.is_live,
        frames_sent=outbox.frames_sent,
        bytes_sent=outbox.bytes_sent,
        unacknowledged=None if outbox.window is None else outbox.window.unacknowledged,
        buffer=connection.delivery.buffer.statistics(),
    )


def of_connections(
    node: Node, transport: str | None, limit: int | None
) -> list[ConnectionStatistics]:
    """A snapshot of every connection (of one transport), the oldest `limit` of them."""
    now = node.monotonic()
    outboxes = (
        outbox
        for connection, outbox in node.outboxes.items()
        if transport is None or connection.transport == transport
    )
    return [of_connection(outbox, now) for outbox in islice(outboxes, limit)]


def of_node(node: Node, state: str, uptime: float) -> Statistics:
    """A snapshot of a node: its counters, and the accounts of those that are connected."""
    total = replace(node.counters)
    for connection, outbox in node.outboxes.items():
        total.add_account(connection, outbox)
    transports = Counter(connection.transport for connection in node.outboxes)
    return Statistics(
        state=state,
        reachable=node.is_reachable,
        uptime=uptime,
        position=node.ingested,
        connections=len(node.registry),
        users=node.registry.users,
        transports=dict(transports),
        **asdict(total),
    )
