"""The cost of opening and of resuming, and its effect on other clients."""

from __future__ import annotations

import select
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.benchmarks.readings import resident_bytes
from tests.benchmarks.session import Failed, Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.session import Place

Row = dict[str, Any]

BEFORE = 100
"""Connections that are open before the measurement."""
SETTLE = 0.5
"""Seconds for the work that remains after connections were opened."""
MISSED = 100
WATCHED_RATE = 20.0


def run_opening(
    names: Sequence[str], rounds: int, place: Place, *, connections: int
) -> Iterator[Row]:
    """Measure CPU and memory of more idle connections, on a fresh server each time."""
    for number in range(rounds):
        for name in names:
            try:
                row = _open(name, connections, place)
            except Failed as error:
                row = {"error": str(error)}
            yield {"contestant": name, "round": number, **row}


def _open(name: str, connections: int, place: Place) -> Row:
    with Session(name, place) as session:
        session.connect(BEFORE)
        session.warm_up(BEFORE)
        session.server.ask(command="collect")
        time.sleep(SETTLE)
        memory = resident_bytes(session.server.pid)
        used = session.connect(connections, others=BEFORE)
        time.sleep(SETTLE)
        memory = resident_bytes(session.server.pid) - memory
    return {"cpu_ms": used.cpu / connections * 1e3, "kib": memory / connections / 1024}


def run_resuming(rounds: int, place: Place, *, connections: int) -> Iterator[Row]:
    """Measure a resume of 100 missed messages, a fresh start, and the same 100 messages live."""
    for number in range(rounds):
        with Session("holdfast_sse", place) as session:
            session.connect(BEFORE)
            session.warm_up(BEFORE)
            session.client.ask(command="close")
            session.wait_subscribers(0)

            session.connect(connections, until="id")
            session.client.ask(command="close")
            session.wait_subscribers(0)
            first = session.start_publishing(0, MISSED)
            session.server.hear()
            resumed = session.connect(connections, until=MISSED, resume=True)
            session.check(first, MISSED)
            session.client.ask(command="close")
            session.wait_subscribers(0)

            opened = session.connect(connections)
            session.client.ask(command="sample", samples=10)
            sent = session.publish(connections, MISSED, chunk=MISSED, window=10**9)
            live = sent["cpu_s_per_m"] * MISSED / 1e3
        resume, fresh = (used.cpu / connections * 1e3 for used in (resumed, opened))
        yield {
            "contestant": "holdfast_sse",
            "round": number,
            "resume_ms": resume,
            "open_ms": fresh,
            "live_ms": live,
            "ratio": resume / (fresh + live),
        }


def run_storm(place: Place, *, connections: int, watchers: int = 100) -> Iterator[Row]:
    """Measure `connections` that resume at once, while others get 20 messages per second."""
    with Session("holdfast_sse", replace(place, polite=True)) as session:
        crowd = session.add_client()
        session.connect(connections, until="id", client=crowd)
        crowd.ask(command="close")
        session.wait_subscribers(0)
        session.start_publishing(0, MISSED)
        session.server.hear()
        session.connect(watchers, path="/stream?topics=watched")
        session.client.ask(command="sample", samples=watchers)
        quiet = [_watch(session, watchers, 40)]
        began = time.monotonic()
        crowd.tell(
            command="connect",
            connections=connections,
            until=MISSED,
            resume=True,
            at_once=256,
            path=None,
        )
        during = []
        while not select.select([crowd.channel], [], [], 0)[0]:
            during.append(_watch(session, watchers, 10))
        crowd.hear()
        yield {
            "contestant": "holdfast_sse",
            "round": 0,
            "connections": connections,
            "seconds": time.monotonic() - began,
            "p50_before_ms": quiet[0]["p50_ms"],
            "p99_before_ms": quiet[0]["p99_ms"],
            "p50_during_ms": sorted(row["p50_ms"] for row in during)[len(during) // 2],
            "p99_during_ms": max(row["p99_ms"] for row in during),
        }


def _watch(session: Session, watchers: int, count: int) -> Row:
    return session.publish(watchers, count, rate=WATCHED_RATE, topic="watched")
