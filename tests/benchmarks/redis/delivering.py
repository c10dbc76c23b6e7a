"""Deliveries: the same node and the same 1,000 event streams, on Redis and in memory."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.benchmarks.contestants.holdfast_app import REDIS
from tests.benchmarks.fanout import FAN_OUTS, Contestant
from tests.benchmarks.redis.meter import Meter, Row
from tests.benchmarks.session import Place

if TYPE_CHECKING:
    from collections.abc import Iterator


def deliveries(rounds: int, *, quick: bool) -> Iterator[Row]:
    """Both brokers in turn within each round. The node publishes the messages that it delivers."""
    place = Place.of_machine(polite=True)
    with Meter.running() as meter:
        for name in ("lockstep", "single", "ten"):
            scenario = FAN_OUTS[name]
            if quick:
                scenario = replace(scenario, connections=200)
            brokers = {"memory": _contestant(scenario, place, None)}
            try:
                brokers["Redis"] = _contestant(scenario, place, meter.url)
                for number in range(rounds):
                    order = list(brokers) if number % 2 == 0 else list(reversed(brokers))
                    found = {}
                    for broker in order:
                        before = meter.usage()
                        found[broker] = brokers[broker].turn()
                        used = meter.usage() - before
                        found[broker]["redis_s_per_m"] = (
                            used.cpu / found[broker]["deliveries"] * 1e6
                        )
                    for broker, row in found.items():
                        ratio = row["cpu_s_per_m"] / found["memory"]["cpu_s_per_m"]
                        case = f"{name}, {broker}"
                        yield {"case": case, "round": number, "ratio": ratio, **row}
            finally:
                for contestant in brokers.values():
                    contestant.session.close()


def _contestant(scenario: object, place: Place, url: str | None) -> Contestant:
    if url is not None:
        os.environ[REDIS] = url  # the server process inherits it
    try:
        return Contestant("holdfast_sse", scenario, place)  # type: ignore[arg-type]
    finally:
        os.environ.pop(REDIS, None)
