"""Time many repetitions: nanoseconds of CPU per operation, median and minimum."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUND = 0.01
"""Seconds of a round, about: far longer than the resolution of the clock."""


@dataclass(frozen=True, slots=True)
class Case:
    """An operation at one size.

    `repeat` runs it once per element and restores the size afterwards; `prepare` makes the
    elements. Each run counts as `operations`.
    """

    name: str
    size: int
    repeat: Callable[[Iterable[Any]], object]
    prepare: Callable[[int], Iterable[Any]] = range
    operations: int = 1


@dataclass(frozen=True, slots=True)
class Time:
    """Nanoseconds per operation."""

    median: float
    least: float


def measure(cases: list[Case], rounds: int) -> Iterator[tuple[Case, Time]]:
    """Run the cases in turn, round by round, so that a slow moment of the machine affects all."""
    times: dict[int, list[float]] = {number: [] for number in range(len(cases))}
    counts = [_count(case) for case in cases]
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for number, case in enumerate(cases):
                elements = case.prepare(counts[number])
                start = time.process_time_ns()
                case.repeat(elements)
                spent = time.process_time_ns() - start
                times[number].append(spent / counts[number] / case.operations)
    finally:
        gc.enable()
    for number, case in enumerate(cases):
        yield case, Time(statistics.median(times[number]), min(times[number]))


def _count(case: Case) -> int:
    """Return the number of repetitions of about a round."""
    count = 1
    while True:
        elements = case.prepare(count)
        start = time.process_time()
        case.repeat(elements)
        spent = time.process_time() - start
        if spent >= ROUND / 4:
            return max(1, round(count * ROUND / spent))
        count *= 4
