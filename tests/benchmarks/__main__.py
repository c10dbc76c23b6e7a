"""Measure, and print the tables of docs/performance.md: `python -m tests.benchmarks`."""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import sys
import time
from pathlib import Path

from tests.benchmarks import tables
from tests.benchmarks.contestants import FAMILIES
from tests.benchmarks.readings import machine
from tests.benchmarks.scenarios import SCENARIOS, Options
from tests.benchmarks.session import Place

QUICK = ("holdfast", "raw", "bare")
ROUNDS, QUICK_ROUNDS = 5, 2


def say(text: str = "") -> None:
    """Print a paragraph."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def installed(names: list[str]) -> list[str]:
    """Return the contestants whose packages are installed; name the others on standard error."""
    found = []
    for name in names:
        try:
            importlib.import_module(f"tests.benchmarks.contestants.{name}")
        except ImportError as error:
            sys.stderr.write(f"skipped: {name} ({error})\n")
        else:
            found.append(name)
    return found


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--scenarios", help=f"some of: {', '.join(SCENARIOS)}")
    parser.add_argument("--contestants", help="names, sse or ws; default: all that are installed")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}")
    parser.add_argument(
        "--quick", action="store_true", help=f"no peers, fewer messages, {QUICK_ROUNDS} rounds"
    )
    parser.add_argument(
        "--polite", action="store_true", help="for a busy machine: clients sleep, no pinning"
    )
    parser.add_argument("--out", type=Path, help="append every reading to this file, as JSON lines")
    args = parser.parse_args()
    args.scenarios = args.scenarios.split(",") if args.scenarios else list(SCENARIOS)
    if unknown := set(args.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    wanted = args.contestants.split(",") if args.contestants else list(FAMILIES)
    names = [name for each in wanted for name in FAMILIES.get(each, (each,))]
    if unknown := set(names) - {name for family in FAMILIES.values() for name in family}:
        parser.error(f"no such contestant: {', '.join(sorted(unknown))}")
    if args.quick and not args.contestants:
        names = [name for name in names if name.startswith(QUICK)]
    args.contestants = names
    return args


def main() -> None:
    """Run the scenarios one after another."""
    args = arguments()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one descriptor per connection
    run = Options(
        contestants=installed(args.contestants),
        rounds=args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS),
        place=Place.of_machine(polite=args.polite),
        quick=args.quick,
    )
    say(f"{machine()}\n")
    for name in args.scenarios:
        scenario, rows, began = SCENARIOS[name], [], time.monotonic()
        for row in scenario.rows(run):
            if "error" in row:
                sys.stderr.write(f"{name}: {row['contestant']}: {row['error']}\n")
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps({"scenario": name, **row}) + "\n")
            rows.append(row)
        if rows:
            say(f"**{name}**: {scenario.about}.\n\n{scenario.table(rows)}\n{tables.noise(rows)}")
            sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()
