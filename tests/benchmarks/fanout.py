"""Fan-out: all contestants keep their connections open, and publish slices in turn."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.benchmarks.readings import pace
from tests.benchmarks.session import Failed, Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.session import Place

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    """A family of cells: `count` messages to `connections` in each round.

    serve.py describes `chunk`, `window` and `rate`. A slow contestant gets its `SHARE` of the
    messages. Ratios are to `base` with the name of the family. `only` has the first parts of the
    names of its contestants.
    """

    about: str
    connections: int
    count: int
    chunk: int = 1
    window: int = 32
    rate: float = 0.0
    samples: int = 10
    base: str = "raw_{}"
    only: tuple[str, ...] = ()


FAN_OUTS = {
    "single": FanOut(
        about="1,000 connections, flat out, one message in each tick of the loop",
        connections=1000,
        count=30,
    ),
    "lockstep": FanOut(
        about="1,000 connections, each message after all clients have the one before: no batching",
        connections=1000,
        count=20,
        window=0,
    ),
    "ten": FanOut(
        about="1,000 connections, flat out, ten messages in each tick of the loop",
        connections=1000,
        count=60,
        chunk=10,
        window=64,
    ),
    "burst": FanOut(
        about="500 connections, 1,000 messages at once",
        connections=500,
        count=1000,
        chunk=1000,
        window=10**9,
        base="raw_{}_batched",
        only=("holdfast", "raw_sse_batched", "raw_ws_batched", "bare"),
    ),
    "latency": FanOut(
        about="1,000 connections, 20 messages per second",
        connections=1000,
        count=40,
        rate=20.0,
        samples=50,
    ),
}


class Contestant:
    """A contestant with its connections open."""

    def __init__(self, name: str, scenario: FanOut, place: Place) -> None:
        self._scenario = scenario
        module = importlib.import_module(f"tests.benchmarks.contestants.{name}")
        share = 1.0 if scenario.rate else getattr(module, "SHARE", 1.0)
        slices = max(1, round(scenario.count * share / scenario.chunk))
        self._count = slices * scenario.chunk
        self.session = Session(name, place)
        try:
            self.session.connect(scenario.connections)
            self.session.warm_up(scenario.connections)
            self.session.client.ask(command="sample", samples=scenario.samples)
        except BaseException:
            self.session.close()
            raise

    def turn(self) -> Row:
        """Publish a slice. Returns its cost."""
        scenario = self._scenario
        before = pace()
        row = self.session.publish(
            scenario.connections,
            self._count,
            chunk=scenario.chunk,
            window=scenario.window,
            rate=scenario.rate,
        )
        return row | {"pace_ms": max(before, pace())}


def run(scenario: FanOut, names: Sequence[str], rounds: int, place: Place) -> Iterator[Row]:
    """Return a row per contestant and round. A contestant that fails leaves, with an error row."""
    if scenario.only:
        names = [name for name in names if name.startswith(scenario.only)]
    ready: dict[str, Contestant] = {}
    try:
        for name in names:
            try:
                ready[name] = Contestant(name, scenario, place)
            except Failed as error:
                yield {"contestant": name, "error": str(error)}
        for number in range(rounds):
            # Every other round has the reverse order, so that no contestant always follows the
            # same one.
            for name in list(ready) if number % 2 == 0 else list(reversed(ready)):
                try:
                    yield {"contestant": name, "round": number, **ready[name].turn()}
                except Failed as error:
                    ready.pop(name).session.close()
                    yield {"contestant": name, "round": number, "error": str(error)}
    finally:
        for contestant in ready.values():
            contestant.session.close()
