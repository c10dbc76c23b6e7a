"""Opening and resuming: the cost of a reconnect, and a reconnect storm on one node."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.benchmarks.redis.meter import Meter, Row, node, worker
from tests.benchmarks.redis.publishing import FEED, ask, measure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.session import Child

MISSED = 10
WATCHERS = 10
RATE = 50.0

KINDS = (
    ("position in the feed", "topics", False, False),
    ("in the feed, each its own user", "topics", True, False),
    ("older than the feed, topics", "topics", False, True),
    ("older than the feed, a pattern", "pattern", False, True),
    ("older than the feed, each its own user", "topics", True, True),
)
"""A name, the subscriptions, whether each client is a user, whether the feed has moved on."""


def storms(rounds: int, *, quick: bool) -> Iterator[Row]:
    """Clients of one node disconnect, miss messages, and all connect to a node that has started.

    Another process publishes meanwhile; clients of the new node and of a third one receive that.
    """
    connections = 1000 if quick else 10_000
    for number in range(rounds):
        for case, kind, users, older in KINDS:
            with Meter.running() as meter, worker(meter) as publisher:
                for row in _storm(meter, publisher, connections, kind, users=users, older=older):
                    yield {"round": number, "case": f"{row.pop('step')}: {case}", **row}


def _storm(
    meter: Meter, publisher: Child, connections: int, kind: str, *, users: bool, older: bool
) -> Iterator[Row]:
    with tempfile.NamedTemporaryFile() as file, node(meter, "storm") as quiet:
        with node(meter, "storm") as before:
            # Each topic has messages, as in practice.
            publisher.ask(
                command="publish", namespace="storm", way="burst", number=1000, areas=True
            )
            spec: Row = {"kind": kind, "users": users}
            yield {
                "step": "open",
                **measure(
                    meter,
                    connections,
                    lambda n: before.ask(within=120.0, command="open", number=n, **spec),
                ),
            }
            yield {
                "step": "leave",
                **measure(
                    meter,
                    connections,
                    lambda _: before.ask(within=120.0, command="leave", ids=file.name),
                ),
            }
        publisher.ask(command="publish", namespace="storm", way="burst", number=MISSED, name="all")
        if older:
            publisher.ask(
                within=120.0,
                command="publish",
                namespace="storm",
                way="burst",
                number=FEED,
                name="other",
            )
        quiet.ask(command="watch", number=WATCHERS)
        yield {
            "step": "resume",
            **_resume(meter, publisher, quiet, connections, ids=file.name, **spec),
        }


def _resume(meter: Meter, publisher: Child, quiet: Child, connections: int, **spec: Any) -> Row:
    with node(meter, "storm") as after:
        after.ask(command="watch", number=WATCHERS)
        publisher.ask(command="start_live", namespace="storm", rate=RATE, topic="watched")
        time.sleep(0.5)  # leave out the first few
        for each in (quiet, after):
            each.ask(command="seen")
        row = measure(
            meter,
            connections,
            lambda _: after.ask(within=150.0, command="resume", truncated=MISSED, **spec),
        )
        published = publisher.ask(command="stop_live")
        if row["resumed"] != connections or row["surplus"]:
            raise SystemExit(f"not all were resumed: {row}")
        here, there = after.ask(command="seen"), quiet.ask(command="seen")
    return {
        **row,
        "ack_p99": published["p99"],
        "here_p99": here["p99"],
        "there_p99": there["p99"],
    }


def alone(rounds: int, *, quick: bool) -> Iterator[Row]:
    """Clients open and close one after the other, so they share no call."""
    connections = 50 if quick else 300
    with Meter.running() as meter, node(meter, "alone") as child:
        for number in range(rounds):
            for step in ("open", "leave", "resume", "leave"):
                work = partial(ask, child, command="alone", step=step.partition(" ")[0])
                row = measure(meter, connections, work)
                if number or step != "leave":
                    yield {"case": step, "round": number, **row}


def refreshing(rounds: int, *, quick: bool) -> Iterator[Row]:
    """The cost of a sweep per session with a connection."""
    sessions = 1000 if quick else 10_000
    with Meter.running() as meter, node(meter, "storm") as child:
        child.ask(within=60.0, command="open", number=sessions, kind="topics", users=False)
        for number in range(rounds):
            row = measure(meter, sessions, lambda _: child.ask(command="refresh"))
            yield {"case": "a session refreshed, every 5 minutes", "round": number, **row}


def presence(rounds: int, *, quick: bool) -> Iterator[Row]:
    """Users join and leave, reported by a node in one step, and presence queries."""
    users = 1000 if quick else 10_000
    with Meter.running() as meter, node(meter, "room") as child:
        for number in range(rounds):
            before = meter.memory()
            steps = (
                ("a user comes", {"command": "presence", "come": True}),
                ("who is on a topic", {"command": "who"}),
                ("a user goes", {"command": "presence", "come": False}),
            )
            for case, spec in steps:
                row = measure(meter, users, partial(ask, child, **spec))
                if case == "a user comes":
                    row["bytes"] = (meter.memory() - before) / users
                yield {"case": case, "round": number, **row}
