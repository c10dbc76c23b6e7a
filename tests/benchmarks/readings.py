"""Readings of Linux about a process and the machine: CPU time, memory, system calls."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "holdfast uvicorn uvloop httptools websockets starlette sse-starlette fastapi litestar"
    " python-socketio"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The usage of a process since its start: seconds of CPU, and reads and writes.

    `reads` and `writes` are the system calls of those families (except those that wait).
    """

    cpu: float
    reads: int
    writes: int

    @classmethod
    def of(cls, pid: int) -> Reading:
        """Return the current usage of this process, all threads together."""
        folder = Path(f"/proc/{pid}")
        nanoseconds = sum(
            int((thread / "schedstat").read_text().split()[0])
            for thread in (folder / "task").iterdir()
        )
        calls = dict(line.split(": ") for line in (folder / "io").read_text().splitlines())
        return cls(nanoseconds / 1e9, int(calls["syscr"]), int(calls["syscw"]))

    def __sub__(self, other: Reading) -> Reading:
        return Reading(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


def resident_bytes(pid: int) -> int:
    """Return the resident memory of the process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def machine_busy() -> float:
    """Return the CPU seconds of all processes of the machine since boot."""
    ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return sum(int(ticks[k]) for k in (1, 2, 3, 6, 7)) / os.sysconf("SC_CLK_TCK")


def pace() -> float:
    """Return the CPU milliseconds of a fixed piece of work: the current speed of this CPU.

    A virtual CPU whose core is shared runs at half speed for seconds, and its CPU time then counts
    double.
    """
    start = time.thread_time()
    counts: dict[int, int] = {}
    for number in range(60_000):
        counts[number & 1023] = counts.get(number & 511, 0) + number
    return (time.thread_time() - start) * 1e3


def machine() -> str:
    """Return the machine and the versions, in a line or two."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    found = []
    for name in PACKAGES.split():
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return (
        f"{os.cpu_count()} CPUs ({model}), Linux {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}.\n{', '.join(found)}."
    )
