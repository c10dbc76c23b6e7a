"""The cost of a delivery, counted instead of timed, and its independence of the load.

`python -m tests.benchmarks.test_cost` prints the table below with the current counts.
"""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.counting import (
    TICKS,
    Counts,
    Transport,
    counted,
    fan_out,
    kept_by_resumed,
    per_delivery,
    per_opening,
    replay,
    run,
    stepped,
    traced,
)

# The cost of one delivery: (measured, at most). The bound is a little above the measured count,
# for other versions of Python. A change that lowers the cost lowers both.
#   calls: of functions, Python's and C's, from publish to the server's send
#   steps: of tasks and callbacks of the event loop
#   sends: events for the server
#   peak: bytes in use until the message is sent
#   kept: bytes that remain afterwards, without the message itself, which all connections share
COSTS: dict[tuple[Transport, int], dict[str, tuple[float, float]]] = {
    # Transport, messages in one tick of the loop
    ("sse", 1): {
        "calls": (25.5, 28.0),
        "steps": (0.02, 0.03),
        "sends": (1.0, 1.0),
        "peak": (0.0, 16.0),
        "kept": (0.0, 16.0),
    },
    ("sse", 10): {
        "calls": (2.6, 3.0),
        "steps": (0.002, 0.003),
        "sends": (0.1, 0.1),
        "peak": (0.0, 16.0),
        "kept": (0.0, 16.0),
    },
    ("websocket", 1): {
        "calls": (24.5, 27.0),
        "steps": (0.02, 0.03),
        "sends": (1.0, 1.0),
        "peak": (0.0, 16.0),
        "kept": (0.0, 16.0),
    },
    ("websocket", 10): {
        "calls": (10.6, 12.0),
        "steps": (0.002, 0.003),
        "sends": (1.0, 1.0),
        "peak": (0.0, 16.0),
        "kept": (0.0, 16.0),
    },
}
PER_OPENING = {"calls": (241.0, 252.0), "steps": (2.0, 2.0)}
"""Opening an event stream, from the request to the first frame: (measured, at most)."""
CALLS_PER_PUBLISH = (94.5, 102.0)
"""A message without subscribers: (measured, at most)."""
CALLS_PER_REPLAYED = (8.5, 10.0)
"""A message that a resume reads from the history, of 1,000: (measured, at most)."""

KEPT_AFTER_REPLAY = 4096
"""Bytes: dicts that have grown do not shrink; 60 messages of 600 bytes are ten times as large."""

GROWTH = 1.03
"""The maximum ratio of a delivery's cost with ten times as much of everything."""
GROWTH_OF_SLICES = 1.10
"""The same for a larger fleet that is served in slices: each slice costs a turn of the loop."""


def measure(transport: Transport, chunk: int) -> Counts:
    """Return everything that `COSTS` bounds."""
    return {**per_delivery(transport, chunk, traced), **per_delivery(transport, chunk, counted)}


def cost_of_publishing(topics: int, *, patterns: bool = False, audience: int = 10) -> Counts:
    """Return the cost of a message to `audience` subscribers among `topics` other topics."""
    others = [
        [f"{first + k}.*" if patterns else f"{first + k}" for k in range(100)]
        for first in range(0, topics, 100)
    ]
    fleet = [*others, *[["hot"]] * audience]
    counts = {
        **run(fan_out("sse", fleet, audience, 1, counted)),
        **run(fan_out("sse", fleet, audience, 1, stepped)),
    }
    return {name: count / TICKS for name, count in counts.items()}


@pytest.mark.parametrize(("transport", "chunk"), COSTS)
def test_delivery_costs_no_more_than_it_did(transport: Transport, chunk: int) -> None:
    """A delivery keeps every bound of the table."""
    measured = measure(transport, chunk)
    bounds = {name: at_most for name, (_, at_most) in COSTS[transport, chunk].items()}
    # Half a per cent: the cost of the whole fleet does not cancel out exactly.
    over = {name: measured[name] for name in bounds if measured[name] > bounds[name] * 1.005}
    assert not over, f"over {bounds}"


def test_opening_costs_no_more_than_it_did() -> None:
    """An opening keeps its bounds."""
    measured = per_opening()
    over = {
        name: measured[name] for name, (_, most) in PER_OPENING.items() if measured[name] > most
    }
    assert not over, f"over {PER_OPENING}"


def test_opening_costs_the_same_where_a_thousand_are_open() -> None:
    """The thousandth connection costs as much as the tenth."""
    few, many = per_opening(between=(2, 10)), per_opening(between=(500, 1000))
    assert many["calls"] <= few["calls"] * GROWTH
    assert many["steps"] <= PER_OPENING["steps"][1]


def test_publishing_to_nobody_costs_no_more_than_it_did() -> None:
    """A message without subscribers keeps its bound."""
    assert cost_of_publishing(0, audience=0)["calls"] <= CALLS_PER_PUBLISH[1]


def test_delivery_costs_the_same_to_a_thousand_connections_as_to_ten() -> None:
    """The thousandth connection adds as much to a delivery as the tenth."""
    few = per_delivery("sse", 1, counted, between=(2, 10))
    many = per_delivery("sse", 1, counted, between=(100, 1000))
    assert many["calls"] <= few["calls"] * GROWTH_OF_SLICES
    assert many["steps"] <= COSTS["sse", 1]["steps"][1]


@pytest.mark.parametrize("patterns", [False, True], ids=["topics", "patterns"])
def test_publish_costs_the_same_whatever_else_is_subscribed_to(patterns: bool) -> None:
    """A message to ten costs the same with a hundred times as many topics or patterns."""
    few, many = (cost_of_publishing(size, patterns=patterns) for size in (100, 10_000))
    assert many["calls"] <= few["calls"] * GROWTH
    assert many["instructions"] <= few["instructions"] * GROWTH


def test_delivery_costs_the_same_with_two_hundred_topics_as_with_one() -> None:
    """Other subscriptions of a connection add no cost to a delivery."""
    many = [["hot", *(f"other.{number}" for number in range(199))]] * 20
    for meter, name in ((counted, "calls"), (stepped, "instructions")):
        one = run(fan_out("sse", [["hot"]] * 20, 20, 1, meter))[name]
        assert run(fan_out("sse", many, 20, 1, meter))[name] <= one * GROWTH


def test_replay_costs_as_much_as_there_is_to_replay() -> None:
    """A replayed message keeps its bound, and costs the same in a replay ten times as long."""
    few, many = (run(replay(missed))["calls"] / missed for missed in (100, 1000))
    assert many <= few * GROWTH
    assert many <= CALLS_PER_REPLAYED[1]


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_resumed_connection_keeps_nothing_of_what_it_was_sent(transport: Transport) -> None:
    """An idle connection has the same size after a long replay as after a short one."""
    short, long = (run(kept_by_resumed(transport, missed))["kept"] for missed in (1, 60))
    assert long <= short + KEPT_AFTER_REPLAY


def main() -> None:
    """Print the current counts in the form of `COSTS`."""
    for (transport, chunk), bounds in COSTS.items():
        counts = measure(transport, chunk)
        line = ", ".join(f"{name} {counts[name]:.3f}" for name in bounds)
        sys.stdout.write(f"{transport}, {chunk} in a tick: {line}\n")
    counts = per_opening()
    line = ", ".join(f"{name} {counts[name]:.1f}" for name in PER_OPENING)
    sys.stdout.write(f"opening: {line}\n")
    sys.stdout.write(f"publish to nobody: {cost_of_publishing(0, audience=0)['calls']:.1f} calls\n")
    sys.stdout.write(f"replayed message: {run(replay(1000))['calls'] / 1000:.1f} calls\n")


if __name__ == "__main__":
    main()
