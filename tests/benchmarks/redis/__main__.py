"""The capacity of one Redis, for docs/scaling.md: `python -m tests.benchmarks.redis`.

Each scenario has a `redis-server` of its own. CPU figures are seconds of `redis-server` and of the
other processes, from `/proc`. Minimum and maximum of all rounds stand beside medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.__main__ import say
from tests.benchmarks.readings import machine
from tests.benchmarks.redis import delivering, feed, memory, publishing, returning
from tests.benchmarks.redis.meter import Meter, Row, by_case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROUNDS, QUICK_ROUNDS = 5, 1


@dataclass(frozen=True, slots=True)
class Scenario:
    """A line about the scenario, its measurement, its table, and its maximum number of rounds."""

    about: str
    rows: Callable[..., Iterator[Row]]
    table: Callable[[Sequence[Row]], str]
    most: int = 100


SCENARIOS = {
    "publishing": Scenario(
        "messages of 200 bytes to one topic whose log is full, from one process unless it says so",
        publishing.ways,
        by_case(
            ("per second", "rate", 0),
            ("Redis CPU µs each", "redis_us", 1),
            ("publisher CPU µs each", "client_us", 0),
            ("round trips each", "round_trips", 3),
            ("commands in Redis each", "commands", 1),
            ("of one CPU, Redis", "share", 2),
        ),
    ),
    "shapes": Scenario(
        "200 bytes to 100 topics unless it says otherwise; the feed is full",
        publishing.shapes,
        by_case(
            ("1,000 at once: Redis CPU µs each", "burst_redis_us", 1),
            ("awaiting each: Redis CPU µs each", "each_redis_us", 1),
            ("1,000 at once, per second", "burst_rate", 0),
            ("commands in Redis each", "burst_commands", 1),
        ),
    ),
    "idle": Scenario(
        "nobody publishes, nobody is connected; per second",
        feed.idle,
        by_case(
            ("Redis CPU ms", "redis_ms", 2), ("node CPU ms", "node_ms", 2), ("calls", "calls", 1)
        ),
        3,
    ),
    "nodes": Scenario(
        "200 bytes to one topic; every node reads all of it, and nobody is connected",
        feed.nodes,
        by_case(
            ("Redis CPU µs per message", "redis_us", 1),
            ("CPU µs per message of each node", "node_us", 1),
            ("per second", "rate", 0),
            ("round trips per message", "round_trips", 2),
        ),
        3,
    ),
    "readers": Scenario(
        "what many nodes would cost Redis: connections that read the feed as nodes do",
        feed.readers,
        by_case(
            ("Redis CPU µs per message", "redis_us", 1),
            ("of one CPU, Redis", "share", 3),
            ("round trips per message", "round_trips", 1),
        ),
        3,
    ),
    "catching_up": Scenario(
        "a node starts while the feed is full; what redis-py alone needs to read as much",
        feed.catching_up,
        by_case(
            ("messages per second", "rate", 0),
            ("reader CPU µs each", "reader_us", 1),
            ("Redis CPU µs each", "redis_us", 1),
        ),
    ),
    "deliveries": Scenario(
        "1,000 event streams on one node, which publishes each message itself",
        delivering.deliveries,
        by_case(
            ("node CPU s per million", "cpu_s_per_m", 1),
            ("x memory, same round", "ratio", 2),
            ("Redis CPU s per million", "redis_s_per_m", 2),
            ("p50 ms", "p50_ms", 1),
            ("p99 ms", "p99_ms", 1),
            ("writes per delivery", "writes_per_delivery", 3),
        ),
    ),
    "alone": Scenario(
        "clients one after the other",
        returning.alone,
        by_case(
            ("Redis CPU µs each", "redis_us", 1),
            ("node CPU µs each", "node_us", 0),
            ("round trips each", "round_trips", 2),
        ),
        3,
    ),
    "storms": Scenario(
        "10,000 clients at once on one node, each on two topics; 10 messages missed",
        returning.storms,
        by_case(
            ("s until all are in", "seconds", 2),
            ("Redis CPU µs each", "redis_us", 1),
            ("node CPU µs each", "node_us", 0),
            ("round trips each", "round_trips", 3),
            ("range reads in all", "ranges", 0),
            ("publish p99 ms, another process", "ack_p99", 0),
            ("delivery p99 ms on that node", "here_p99", 0),
            ("on another node", "there_p99", 0),
        ),
        3,
    ),
    "refreshing": Scenario(
        "what a sweep costs",
        returning.refreshing,
        by_case(("Redis CPU µs", "redis_us", 1), ("node CPU µs", "node_us", 1)),
        3,
    ),
    "presence": Scenario(
        "10,000 users, each online and on one of 1,000 topics; per user or question",
        returning.presence,
        by_case(
            ("Redis CPU µs", "redis_us", 1),
            ("node CPU µs", "node_us", 1),
            ("per second", "rate", 0),
            ("bytes in Redis", "bytes", 0),
        ),
        3,
    ),
    "memory": Scenario("what Redis holds", memory.held, by_case(("bytes in Redis", "bytes", 0)), 1),
}


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.redis", description=__doc__)
    parser.add_argument("--scenarios", help=f"some of: {', '.join(SCENARIOS)}")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}")
    parser.add_argument(
        "--quick", action="store_true", help=f"a tenth of everything, {QUICK_ROUNDS} round"
    )
    parser.add_argument("--out", type=Path, help="append every reading to this file, as JSON lines")
    args = parser.parse_args()
    args.scenarios = args.scenarios.split(",") if args.scenarios else list(SCENARIOS)
    if unknown := set(args.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    return args


def main() -> None:
    """Run the scenarios one after another."""
    args = arguments()
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    with Meter.running() as meter:
        clients = f"redis-py {version('redis')}, hiredis {version('hiredis')}"
        say(f"{machine()}\nRedis {meter.version()}, {clients}.\n")
    for name in args.scenarios:
        scenario, rows, began = SCENARIOS[name], [], time.monotonic()
        for row in scenario.rows(min(rounds, scenario.most), quick=args.quick):
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps({"scenario": name, **row}) + "\n")
            rows.append(row)
        say(f"**{name}**: {scenario.about}.\n\n{scenario.table(rows)}")
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()
