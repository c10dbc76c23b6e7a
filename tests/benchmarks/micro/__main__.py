"""Print nanoseconds per operation, and their growth: `python -m tests.benchmarks.micro`."""

from __future__ import annotations

import argparse
import sys

from tests.benchmarks.micro.cases import CLASSES
from tests.benchmarks.micro.timing import Case, Time, measure
from tests.benchmarks.readings import machine
from tests.benchmarks.tables import markdown


def table(results: list[tuple[Case, Time]]) -> str:
    """Return a line per operation: its time at each size, and the ratio of largest to smallest."""
    sizes = sorted({case.size for case, _ in results})
    times: dict[str, dict[int, Time]] = {}
    for case, found in results:
        times.setdefault(case.name, {})[case.size] = found
    lines = []
    for name, by_size in times.items():
        cells = [
            f"{by_size[size].median:,.0f} ({by_size[size].least:,.0f})" if size in by_size else ""
            for size in sizes
        ]
        first, last = by_size[min(by_size)], by_size[max(by_size)]
        growth = [f"{last.least / first.least:.2f}"] if len(sizes) > 1 else []
        lines.append([name, *cells, *growth])
    head = [f"{size:,}" if size else "ns" for size in sizes]
    return markdown(["ns per operation", *head, *["growth"] * (len(sizes) > 1)], lines)


def main() -> None:
    """Measure one class after another."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.micro",
        description="CPU ns per operation, median (least); growth: the largest size by the least.",
    )
    parser.add_argument("classes", nargs="*", help=f"of {', '.join(CLASSES)}; default: all")
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    if unknown := set(args.classes) - set(CLASSES):
        parser.error(f"no such class: {', '.join(sorted(unknown))}")
    sys.stdout.write(f"{machine()}\n")
    for name in args.classes or CLASSES:
        cases = list(CLASSES[name]())
        sys.stdout.write(f"\n**{name}**\n\n{table(list(measure(cases, args.rounds)))}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
