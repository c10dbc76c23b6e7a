"""The rows of a run as Markdown tables."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contestants import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Row = dict[str, Any]
Rounds = dict[int, Row]
Column = tuple[str, str, int]
"""A heading, the key of the rows, and the number of digits after the point."""

FAN_OUT: tuple[Column, ...] = (
    ("CPU s per million", "cpu_s_per_m", 1),
    ("p50 ms", "p50_ms", 1),
    ("p99 ms", "p99_ms", 1),
    ("writes per delivery", "writes_per_delivery", 3),
    ("bytes per delivery", "bytes_per_delivery", 0),
)
OPENING: tuple[Column, ...] = (("CPU ms", "cpu_ms", 3), ("KiB", "kib", 1))

QUIET, STEADY = 0.15, 1.2
"""The limits of an undisturbed reading.

Other processes used less than QUIET CPUs meanwhile, and a fixed piece of work before and after took
at most STEADY times the minimum of the run.
"""


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text; the other columns are numbers."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *lines]) + "\n"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median, and in brackets minimum and maximum."""
    if not values:
        return ""
    median, least, greatest = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({least:.{digits}f}-{greatest:.{digits}f})"


def by_contestant(rows: Iterable[Row]) -> dict[str, Rounds]:
    """Return the rows without an error, in the order of the tables."""
    found: dict[str, Rounds] = {}
    for row in rows:
        if "error" not in row:
            found.setdefault(row["contestant"], {})[row["round"]] = row
    order = [name for family in FAMILIES.values() for name in family]
    return {name: found[name] for name in order if name in found}


def ratios(rounds: Rounds, base: Rounds, key: str) -> list[float]:
    """Return the ratio of each round in which both were measured."""
    return [rounds[n][key] / base[n][key] for n in rounds.keys() & base.keys()]


def versus(rows: Sequence[Row], base: str, columns: Sequence[Column]) -> str:
    """Return a table per family: the medians, and the ratio of the first column.

    The ratio to `base` (with the family's name) is the median of the ratios within each round,
    beside minimum and maximum; so is the ratio to the bare loop.
    """
    contestants, main = by_contestant(rows), columns[0][1]
    parts = []
    for family, names in FAMILIES.items():
        found = {name: rounds for name, rounds in contestants.items() if name in names}
        if not found:
            continue
        first, *others = columns
        head = [family, first[0], f"x {base.format(family)} (min-max)", "x bare"]
        lines = []
        for name, rounds in found.items():
            to_base = ratios(rounds, found.get(base.format(family), {}), main)
            to_bare = ratios(rounds, found.get(f"bare_{family}", {}), main)
            bare = f"{statistics.median(to_bare):.2f}" if to_bare else ""
            cells = [_median(rounds, column) for column in columns]
            lines.append([name, cells[0], spread(to_base), bare, *cells[1:], str(len(rounds))])
        parts.append(markdown([*head, *(heading for heading, _, _ in others), "rounds"], lines))
    return "\n".join(parts)


def _median(rounds: Rounds, column: Column) -> str:
    _, key, digits = column
    return f"{statistics.median(row[key] for row in rounds.values()):,.{digits}f}"


def figures(labels: dict[str, tuple[str, int]]) -> Callable[[Sequence[Row]], str]:
    """Return a table of two columns: the meaning of a key, and its median with the spread."""

    def table(rows: Sequence[Row]) -> str:
        lines = [
            [label, spread([row[key] for row in rows], digits)]
            for key, (label, digits) in labels.items()
        ]
        return markdown(["", "median (min-max)"], lines) if rows else ""

    return table


def growth(rows: Sequence[Row]) -> str:
    """Return a table per part: microseconds per delivery, and the minimum's ratio to the first."""
    parts = []
    for part in dict.fromkeys(row["part"] for row in rows):
        found = [row for row in rows if row["part"] == part]
        lines = []
        for row in found:
            case = f"{row[part]:,}{', patterns too' if row.get('patterns') else ''}"
            time = f"{row['us']:.1f} ({row['us_min']:.1f}-{row['us_max']:.1f})"
            lines.append([case, time, f"{row['us_min'] / found[0]['us_min']:.2f}"])
        parts.append(markdown([part, "µs per delivery (min-max)", "least / the first's"], lines))
    return "\n".join(parts)


def noise(rows: Sequence[Row]) -> str:
    """Return how much CPU other processes used meanwhile."""
    measured = [row for row in rows if "foreign" in row]
    if not measured:
        return ""
    least = min(row["pace_ms"] for row in measured)
    disturbed = sum(row["foreign"] > QUIET or row["pace_ms"] > STEADY * least for row in measured)
    return f"{disturbed} of {len(measured)} readings were disturbed by other processes.\n"
