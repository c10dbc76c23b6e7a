"""Memory of Redis per message, topic and session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.benchmarks.redis.meter import Meter, Row, node, worker
from tests.benchmarks.redis.publishing import FEED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.session import Child


def held(rounds: int, *, quick: bool) -> Iterator[Row]:
    """Return bytes. Each step uses the server as the previous step has left it."""
    messages, topics, sessions = (2000, 2000, 1000) if quick else (50_000, 50_000, 10_000)
    for number in range(rounds):
        with Meter.running() as meter, worker(meter) as publisher:
            publisher.ask(command="configure", namespace="m", limit=1)
            steps: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
                ("a message in the feed, 200 bytes", "m", FEED, {"way": "burst"}),
                ("a message in a log, 200 bytes", "m", messages, {"way": "burst", "topics": 10}),
                ("a topic with one message of 200 bytes", "m", topics, {"topics": topics}),
            )
            for place, (case, namespace, count, spec) in enumerate(steps):
                if place == 1:
                    publisher.ask(command="configure", namespace="m", limit=1_000_000)
                size = _published(meter, publisher, namespace, count, name=f"n{place}", **spec)
                yield {"case": case, "round": number, "bytes": size}
            with node(meter, "m") as child:
                child.ask(command="issue", number=10, attached=True)
                for case, attached in (
                    ("a session with a connection", True),
                    ("a session whose client is gone", False),
                ):
                    before = meter.memory()
                    child.ask(command="issue", number=sessions, attached=attached)
                    size = (meter.memory() - before) / sessions
                    yield {"case": case, "round": number, "bytes": size}
        with Meter.running() as meter, worker(meter) as publisher:
            publisher.ask(command="configure", namespace="m", limit=1_000_000)
            _published(meter, publisher, "m", FEED, topics=10, name="n")
            large = {"topics": 10, "name": "n", "size": 4096}
            size = _published(meter, publisher, "m", messages // 5, **large)
            yield {"case": "a message of 4 KiB in a log", "round": number, "bytes": size}


def _published(meter: Meter, publisher: Child, namespace: str, count: int, **spec: Any) -> float:
    before = meter.memory()
    spec.setdefault("way", "burst")
    publisher.ask(within=300.0, command="publish", namespace=namespace, number=count, **spec)
    return (meter.memory() - before) / count
