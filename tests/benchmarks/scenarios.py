"""All scenarios by name: the measurement of each, its duration, and its table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tests.benchmarks import fanout, inside, opening, tables
from tests.benchmarks.contestants import GREETING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.benchmarks.session import Place

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command line. `quick`: a first impression in a fraction of the time."""

    contestants: Sequence[str]
    rounds: int
    place: Place
    quick: bool

    @property
    def few(self) -> int:
        """Rounds of measurements that take long and vary little."""
        return max(1, min(3, self.rounds))

    @property
    def has_holdfast(self) -> bool:
        """True: also measure the operations that only holdfast has."""
        return any(name.startswith("holdfast") for name in self.contestants)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A line about the scenario, the rows of a run, and their table."""

    about: str
    rows: Callable[[Options], Iterator[Row]]
    table: Callable[[Sequence[Row]], str]


def _fan_out(scenario: fanout.FanOut) -> Scenario:
    def rows(run: Options) -> Iterator[Row]:
        count = scenario.count if not run.quick else scenario.count * 3 // 10
        less = replace(scenario, count=max(scenario.chunk, count))
        rounds = run.few if scenario.rate else run.rounds
        names = [name for name in run.contestants if name != GREETING]
        return fanout.run(less, names, rounds, run.place)

    def table(found: Sequence[Row]) -> str:
        return tables.versus(found, scenario.base, tables.FAN_OUT)

    return Scenario(scenario.about, rows, table)


def _opening(run: Options) -> Iterator[Row]:
    connections = 300 if run.quick else 1000
    return opening.run_opening(run.contestants, run.few, run.place, connections=connections)


def _resuming(run: Options) -> Iterator[Row]:
    if run.has_holdfast:
        connections = 100 if run.quick else 200
        yield from opening.run_resuming(run.few, run.place, connections=connections)


def _storm(run: Options) -> Iterator[Row]:
    if run.has_holdfast:
        yield from opening.run_storm(run.place, connections=1000 if run.quick else 10_000)


def _inside(*parts: str) -> Callable[[Options], Iterator[Row]]:
    def rows(run: Options) -> Iterator[Row]:
        if run.has_holdfast:
            yield from inside.rows({"parts": parts, "rounds": run.few, "quick": run.quick})

    return rows


SCENARIOS = {
    **{name: _fan_out(scenario) for name, scenario in fanout.FAN_OUTS.items()},
    "opening": Scenario(
        "the cost of one more idle connection for the server, in CPU and in resident memory",
        _opening,
        lambda rows: tables.versus(rows, "raw_{}", tables.OPENING),
    ),
    "resuming": Scenario(
        "holdfast over SSE: a resume with 100 missed messages, beside a new connection that gets "
        "the same 100 messages live; CPU ms per connection",
        _resuming,
        tables.figures(
            {
                "resume_ms": ("resume", 3),
                "open_ms": ("open", 3),
                "live_ms": ("100 messages, live", 3),
                "ratio": ("resume / (open + live)", 2),
            }
        ),
    ),
    "storm": Scenario(
        "holdfast over SSE: clients that all resume at once, with 100 missed messages each, and "
        "the delays of 100 others that get 20 messages per second",
        _storm,
        tables.figures(
            {
                "connections": ("clients that resume", 0),
                "seconds": ("seconds until all have everything", 1),
                "p50_before_ms": ("the others' p50 before, ms", 1),
                "p99_before_ms": ("their p99 before, ms", 1),
                "p50_during_ms": ("their p50 meanwhile, ms", 1),
                "p99_during_ms": ("their p99 in the worst half second, ms", 1),
            }
        ),
    ),
    "topics": Scenario(
        "holdfast in one process: 10,000 connections with 10 topics each; messages go to 10 "
        "topics, each with 100 subscribers, at each number of topics",
        _inside("topics"),
        tables.growth,
    ),
    "growth": Scenario(
        "holdfast in one process: connections of one topic; topics of each of 100 connections",
        _inside("connections", "subscriptions"),
        tables.growth,
    ),
}
