"""The usage of a Redis: CPU, memory, and the calls of each command."""

from __future__ import annotations

import statistics
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis import Redis

from tests.benchmarks.readings import Reading
from tests.benchmarks.session import Child
from tests.benchmarks.tables import markdown, spread
from tests.support.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Row = dict[str, Any]
Column = tuple[str, str, int]
"""A heading, the key of the rows, and the number of digits after the point."""

OWN = ("info", "config", "select", "hello", "client")
"""Commands of this benchmark itself, and of connecting clients."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage since the server began: seconds of CPU, and calls per command, also in the script."""

    cpu: float
    calls: dict[str, int]

    def __sub__(self, other: Usage) -> Usage:
        calls = {name: count - other.calls.get(name, 0) for name, count in self.calls.items()}
        return Usage(self.cpu - other.cpu, calls)

    @property
    def round_trips(self) -> int:
        """Return the calls of clients: the script, and reads of the feed."""
        return self.calls.get("evalsha", 0) + self.calls.get("xread", 0)


class Meter:
    """A Redis for one scenario, and its usage."""

    def __init__(self, server: RedisServer) -> None:
        self.url = server.url
        assert server.process is not None
        self._pid = server.process.pid
        self._client = Redis.from_url(server.url)

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Meter]:
        """Start a `redis-server`, during a `with` block."""
        with RedisServer("--hz", "10", "--maxclients", "10000") as server:
            meter = cls(server)
            try:
                yield meter
            finally:
                meter._client.close()

    def usage(self) -> Usage:
        """Return the usage so far."""
        stats: Any = self._client.info("commandstats")
        calls = {
            name.removeprefix("cmdstat_"): int(value["calls"])
            for name, value in stats.items()
            if not name.removeprefix("cmdstat_").startswith(OWN)
        }
        return Usage(Reading.of(self._pid).cpu, calls)

    def memory(self) -> int:
        """Return the allocated bytes without the buffers of clients."""
        found: Any = self._client.info("memory")
        return int(found["used_memory"]) - int(found["mem_clients_normal"])

    def keys(self, pattern: str) -> list[str]:
        """Return the names of keys."""
        return [each.decode() for each in self._client.scan_iter(match=pattern, count=1000)]

    def version(self) -> str:
        """Return the version of the server."""
        found: Any = self._client.info("server")
        return str(found["redis_version"])


@contextmanager
def worker(meter: Meter) -> Iterator[Child]:
    """Start a process that publishes (worker.py)."""
    child = Child("redis.worker", {"url": meter.url})
    try:
        child.hear()
        yield child
    finally:
        child.close()


@contextmanager
def node(meter: Meter, namespace: str, **spec: Any) -> Iterator[Child]:
    """Start a process with a Broadcaster on that log (node.py). `began`: the cost of its start."""
    child = Child("redis.node", {"url": meter.url, "namespace": namespace, **spec})
    try:
        child.began = child.hear()  # type: ignore[attr-defined]
        yield child
    finally:
        child.close()


def by_case(*columns: Column) -> Callable[[Sequence[Row]], str]:
    """Return a table with a line per case: medians, and the spread beside the first figures."""

    def table(rows: Sequence[Row]) -> str:
        lines = []
        for case in dict.fromkeys(row["case"] for row in rows):
            found = [row for row in rows if row["case"] == case]
            cells = [case]
            for place, (_, key, digits) in enumerate(columns):
                values = [row[key] for row in found if row.get(key) is not None]
                if not values:
                    cells.append("")
                elif place < 2 and len(values) > 1:
                    cells.append(spread(values, digits))
                else:
                    cells.append(f"{statistics.median(values):,.{digits}f}")
            lines.append(cells)
        return markdown(["", *(heading for heading, _, _ in columns)], lines)

    return table
