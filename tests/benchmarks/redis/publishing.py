"""Publishing: messages per second, and the cost of each for Redis and the publisher."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.benchmarks.redis.meter import Meter, Row, worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.session import Child

FEED = 20_000
"""Messages that the feed holds. Beyond them, publishing also trims the feed."""
PROCESSES = 4

WAYS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("one caller awaits each", 1000, {"command": "publish", "way": "each"}),
    ("50 tasks", 5000, {"command": "publish", "way": "tasks"}),
    ("1,000 at once", 10_000, {"command": "publish", "way": "burst"}),
    ("SyncPublisher", 1000, {"command": "sync"}),
    ("peer: XADD MAXLEN ~, awaiting each", 1000, {"command": "xadd", "way": "each"}),
    ("peer: XADD MAXLEN ~, 50 tasks", 5000, {"command": "xadd", "way": "tasks"}),
    ("peer: XADD MAXLEN ~, pipelines of 100", 10_000, {"command": "xadd", "way": "pipeline"}),
    ("peer: PUBLISH, awaiting each", 1000, {"command": "pubsub", "way": "each"}),
    ("peer: PUBLISH, 50 tasks", 5000, {"command": "pubsub", "way": "tasks"}),
)

SHAPES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("100 topics, no log full", {"topics": 100}, {"limit": 1_000_000}),
    ("the same, every log full", {"topics": 100}, {"limit": 100}),
    ("the same, no bound by age", {"topics": 100}, {"limit": 100, "age": None}),
    ("a key, superseding the last value", {"topics": 100, "keyed": True}, {"limit": 100}),
    ("an idempotency key", {"topics": 100, "once": True}, {"limit": 100}),
    ("4 KiB", {"topics": 100, "size": 4096}, {"limit": 100}),
    ("100,000 topics", {"topics": 100_000}, {"limit": 100}),
)


def ways(rounds: int, *, quick: bool) -> Iterator[Row]:
    """All ways in turn, within each round."""
    share = 5 if quick else 1
    with Meter.running() as meter, ExitStack() as stack:
        publishers = [stack.enter_context(worker(meter)) for _ in range(PROCESSES)]
        first = publishers[0]
        first.ask(command="configure", namespace="ways")
        if not quick:
            first.ask(command="publish", namespace="ways", way="burst", number=FEED)
        for number in range(rounds):
            for case, count, spec in WAYS:
                row = measure(meter, count // share, partial(ask, first, **aim(spec)))
                yield {"case": case, "round": number, **row}
            case = f"{PROCESSES} processes, 50 tasks each"
            row = measure(meter, 10_000 // share, partial(together, publishers))
            yield {"case": case, "round": number, **row}


def aim(spec: dict[str, Any]) -> dict[str, Any]:
    """The target of each command."""
    target = {"publish": "namespace", "sync": "namespace", "xadd": "key", "pubsub": "channel"}
    return {**spec, target[spec["command"]]: "ways"}


def ask(child: Child, number: int, **spec: Any) -> Row:
    """Let a child run a command `number` times."""
    return child.ask(within=300.0, number=number, **spec)


def together(publishers: list[Child], number: int) -> dict[str, Any]:
    """Several processes at once."""
    share = number // len(publishers)
    for each in publishers:
        each.tell(command="publish", namespace="ways", way="tasks", number=share)
    answers = [each.hear() for each in publishers]
    seconds = max(each["seconds"] for each in answers)
    return {
        "seconds": seconds,
        "rate": number / seconds,
        "client_us": sum(each["client_us"] for each in answers) / len(answers),
    }


def measure(meter: Meter, number: int, work: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Return the answer of `work`, and its cost for Redis per one of `number`."""
    before = meter.usage()
    answer = work(number)
    used = meter.usage() - before
    calls = sum(used.calls.values())
    return {
        **answer,
        "redis_us": used.cpu / number * 1e6,
        "commands": calls / number,
        "round_trips": used.round_trips / number,
        "ranges": used.calls.get("xrange", 0),
        "share": used.cpu / answer["seconds"],
    }


def shapes(rounds: int, *, quick: bool) -> Iterator[Row]:
    """All shapes in turn, within each round, each on a log whose feed is full."""
    share = 10 if quick else 1
    with Meter.running() as meter, worker(meter) as publisher:
        for place, (_, spec, retention) in enumerate(SHAPES):
            fill = max(spec["topics"], FEED) // share
            publisher.ask(command="configure", namespace=f"h{place}", **retention)
            publisher.ask(
                within=300.0,
                command="publish",
                namespace=f"h{place}",
                way="burst",
                number=fill,
                **spec,
            )
        for number in range(rounds):
            for place, (case, spec, _) in enumerate(SHAPES):
                row: Row = {"case": case, "round": number}
                for way, count in (("burst", 5000), ("each", 500)):
                    aimed = {**spec, "command": "publish", "namespace": f"h{place}", "way": way}
                    found = measure(meter, count // share, partial(ask, publisher, **aimed))
                    row |= {f"{way}_{key}": value for key, value in found.items()}
                yield row
