"""The growth of cost inside one process: real transports, and a `send` that only counts.

`python -m tests.benchmarks` runs it in a process of its own. Each line of the output is one JSON
object.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from holdfast import Broadcaster
from tests.benchmarks.fleet import Fleet
from tests.benchmarks.wire import make_message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONNECTIONS, QUICK_CONNECTIONS = 10_000, 2000
TOPICS_EACH = 10
HOT = 10
"""The published topics. Each has `AUDIENCE` subscribers, with any number of topics."""
AUDIENCE = 100
SIZE = 100
PASSES = 2
"""Passes through all cases, so that a slow moment of the machine affects more than one case."""


async def microseconds(
    connections: Sequence[Sequence[str]], topics: Sequence[str], audience: int, rounds: int
) -> list[float]:
    """Return the CPU per delivery while `topics`, with `audience` subscribers each, get messages.

    The result has one figure per round. Each message has a tick of its own.
    """
    found = list[float]()
    broadcaster = Broadcaster(max_topics=2000, heartbeat_interval=None)
    async with broadcaster, Fleet(broadcaster) as fleet:
        await fleet.open(connections)
        gc.collect()
        gc.freeze()  # keep permanent objects out of each round's collection
        for _ in range(rounds + 1):
            start = time.process_time()
            for number, topic in enumerate(topics):
                await broadcaster.publish(topic, make_message(number, SIZE))
                await fleet.until(fleet.received + audience)
            found.append((time.process_time() - start) / len(topics) / audience * 1e6)
        gc.unfreeze()
    del found[0]
    return found


def background(connections: int, topics: int, patterns: bool) -> list[list[str]]:
    """Return the topics of each connection. One in ten also subscribes to a hot topic."""
    found = []
    for number in range(connections):
        own = [
            f"area.{(number * TOPICS_EACH + k) * 7919 % topics}.news" for k in range(TOPICS_EACH)
        ]
        if patterns:
            own[0] = f"area.{number % topics}.*"
        if number < HOT * AUDIENCE:
            own[-1] = f"hot.{number % HOT}"
        found.append(own)
    return found


async def of_topics(sizes: Sequence[int], rounds: int, quick: bool) -> Any:
    """10,000 connections with 10 topics each; messages to 10 topics with 100 subscribers each."""
    connections = QUICK_CONNECTIONS if quick else CONNECTIONS
    hot = [f"hot.{number}" for number in range(HOT)]
    for patterns in (False, True):
        for size in sizes if not patterns else (sizes[0], sizes[-1]):
            yield (
                {"topics": size, "patterns": patterns},
                await microseconds(
                    background(connections, size, patterns), hot * 5, AUDIENCE, rounds
                ),
            )


async def of_connections(sizes: Sequence[int], rounds: int, _: bool) -> Any:
    """One topic, and a growing number of connections."""
    for size in sizes:
        messages = max(2, 20_000 // size)
        yield (
            {"connections": size},
            await microseconds([["t"]] * size, ["t"] * messages, size, rounds),
        )


async def of_subscriptions(sizes: Sequence[int], rounds: int, _: bool) -> Any:
    """100 connections with a growing number of topics each; messages to the last of them."""
    for size in sizes:
        topics = [f"t{number}" for number in range(size)]
        yield (
            {"subscriptions": size},
            await microseconds([topics] * 100, topics[-1:] * 200, 100, rounds),
        )


PARTS = {
    "topics": (of_topics, (100, 1000, 10_000, 100_000)),
    "connections": (of_connections, (10, 100, 1000, 10_000)),
    "subscriptions": (of_subscriptions, (1, 10, 100, 1000)),
}


async def measure(parts: Sequence[str], rounds: int, quick: bool) -> None:
    """Print the figures of each part: of all rounds of all passes."""
    for name in parts:
        of, sizes = PARTS[name]
        found: dict[str, list[float]] = {}
        for _ in range(PASSES):
            async for case, figures in of(sizes[:2] if quick else sizes, rounds, quick):
                found.setdefault(json.dumps(case), []).extend(figures)
        for case, figures in found.items():
            row = {"part": name, **json.loads(case), "us": statistics.median(figures)}
            row |= {"us_min": min(figures), "us_max": max(figures)}
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


def rows(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run this in a process of its own."""
    import subprocess

    command = [sys.executable, "-m", "tests.benchmarks.inside", json.dumps(spec)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise SystemExit("the measurement has failed; its error is above")


def main() -> None:
    """Run in uvloop, as servers do."""
    import uvloop

    uvloop.run(measure(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
