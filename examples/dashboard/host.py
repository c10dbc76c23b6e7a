"""Samples of this host, read with psutil.

Every function here may block, so the sources call it in a worker thread, one call after the other.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from typing import Any

import psutil

TOP_PROCESSES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSample:
    """One second of the host. Percentages are 0 to 100, sizes bytes, rates bytes per second."""

    host: str
    system: str
    uptime: float
    load: list[float]
    cpu: float
    cores: list[float]
    memory: float
    memory_used: int
    memory_total: int
    swap: float
    disk: float
    disk_used: int
    disk_total: int
    disk_read: float
    disk_write: float
    received: float
    sent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """One process. CPU is in percent of one core, so it can pass 100."""

    pid: int
    name: str
    user: str
    cpu: float
    memory: int


@dataclass(frozen=True, slots=True)
class _Counters:
    """Counters of the operating system that only grow; the difference of two makes a rate."""

    at: float
    cores: tuple[tuple[float, float], ...]  # (busy, total) seconds of each core
    disk_read: int
    disk_write: int
    received: int
    sent: int


class HostSampler:
    """Computes rates from growing counters, between one `sample` and the next."""

    def __init__(self) -> None:
        self._before = _counters()

    def sample(self) -> HostSample:
        """Read the host. The rates cover the time since the last call."""
        before, now = self._before, _counters()
        self._before = now
        seconds = max(now.at - before.at, 1e-3)
        cores = _busy_percent(before, now)
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage("/")
        return HostSample(
            host=platform.node(),
            system=f"{platform.system()} {platform.machine()}",
            uptime=time.time() - psutil.boot_time(),
            load=[round(value, 2) for value in psutil.getloadavg()],
            cpu=round(sum(cores) / max(len(cores), 1), 1),
            cores=cores,
            memory=memory.percent,
            memory_used=memory.total - memory.available,
            memory_total=memory.total,
            swap=psutil.swap_memory().percent,
            disk=disk.percent,
            disk_used=disk.used,
            disk_total=disk.total,
            disk_read=(now.disk_read - before.disk_read) / seconds,
            disk_write=(now.disk_write - before.disk_write) / seconds,
            received=(now.received - before.received) / seconds,
            sent=(now.sent - before.sent) / seconds,
        )


def top_processes() -> list[ProcessSample]:
    """Return the processes that use the most CPU, then the most memory.

    The arguments of a process are left out, because they may contain passwords.
    """
    found: list[ProcessSample] = []
    for process in psutil.process_iter(["name", "username", "cpu_percent", "memory_info"]):
        info = process.info
        memory = info["memory_info"]
        found.append(
            ProcessSample(
                pid=process.pid,
                name=info["name"] or "?",
                user=info["username"] or "?",  # None without permission
                cpu=info["cpu_percent"] or 0.0,
                memory=memory.rss if memory else 0,
            )
        )
    found.sort(key=lambda one: (one.cpu, one.memory), reverse=True)
    return found[:TOP_PROCESSES]


def _counters() -> _Counters:
    disk = psutil.disk_io_counters()  # None in many containers
    network = psutil.net_io_counters()
    return _Counters(
        at=time.monotonic(),
        cores=tuple(_busy_and_total(times) for times in psutil.cpu_times(percpu=True)),
        disk_read=disk.read_bytes if disk else 0,
        disk_write=disk.write_bytes if disk else 0,
        received=network.bytes_recv if network else 0,
        sent=network.bytes_sent if network else 0,
    )


def _busy_and_total(times: Any) -> tuple[float, float]:  # a named tuple of its platform
    # psutil.cpu_percent() keeps its last reading per thread, and worker threads change.
    # User and nice time already include guest time: proc_stat(5).
    guest: float = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    total: float = sum(times) - guest
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _busy_percent(before: _Counters, now: _Counters) -> list[float]:
    shares: list[float] = []
    for (busy_before, total_before), (busy, total) in zip(before.cores, now.cores, strict=False):
        elapsed = total - total_before
        share = 100.0 * (busy - busy_before) / elapsed if elapsed > 0 else 0.0
        shares.append(round(min(max(share, 0.0), 100.0), 1))
    return shares
