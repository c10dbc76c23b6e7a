"""The feed: the cost of a node that reads it, idle and under load."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.benchmarks.readings import Reading
from tests.benchmarks.redis.meter import Meter, Row, node, worker
from tests.benchmarks.redis.publishing import FEED, ask, measure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.session import Child

RATE = 500.0
PACED: Row = {"command": "paced", "rate": RATE, "topic": "t"}


def idle(rounds: int, *, quick: bool) -> Iterator[Row]:
    """Without publishers: one node, and one that keeps presence."""
    seconds = 3.0 if quick else 10.0
    with Meter.running() as meter:
        for case, presence in (("a node", False), ("a node that keeps presence", True)):
            with node(meter, "idle", presence=presence) as child:
                for number in range(rounds):
                    before, own = meter.usage(), Reading.of(child.pid)
                    time.sleep(seconds)
                    used, of_node = meter.usage() - before, Reading.of(child.pid) - own
                    yield {
                        "case": case,
                        "round": number,
                        "redis_ms": used.cpu / seconds * 1e3,
                        "node_ms": of_node.cpu / seconds * 1e3,
                        "calls": used.round_trips / seconds,
                    }
        for number in range(rounds):
            before = meter.usage()
            time.sleep(seconds)
            used = meter.usage() - before
            redis_ms = used.cpu / seconds * 1e3
            yield {"case": "no node", "round": number, "redis_ms": redis_ms, "calls": 0.0}


def nodes(rounds: int, *, quick: bool) -> Iterator[Row]:
    """None, one, two and four nodes read the messages: by the clock, and as fast as possible."""
    flat, paced = (2000, 500) if quick else (10_000, 2000)
    with Meter.running() as meter, worker(meter) as publisher:
        publisher.ask(command="configure", namespace="feed")
        publisher.ask(within=120, command="publish", namespace="feed", way="burst", number=FEED)
        for number in range(rounds):
            for count in (0, 1, 2, 4):
                with ExitStack() as stack:
                    children = [stack.enter_context(node(meter, "feed")) for _ in range(count)]
                    for case, messages, spec in (
                        ("flat out", flat, {"command": "publish", "way": "burst"}),
                        (f"{RATE:.0f} per second", paced, PACED),
                    ):
                        before = [Reading.of(child.pid) for child in children]
                        work = partial(_read_by, children, publisher, **spec)
                        row = measure(meter, messages, work)
                        own = [
                            (Reading.of(child.pid) - first).cpu / messages * 1e6
                            for child, first in zip(children, before, strict=True)
                        ]
                        row["node_us"] = sum(own) / count if count else None
                        yield {"case": f"{case}, nodes: {count}", "round": number, **row}


def _read_by(children: Sequence[Child], publisher: Child, number: int, **spec: Any) -> Row:
    """Publish, and wait until every node has read it."""
    start = time.monotonic()
    publisher.ask(within=120.0, namespace="feed", number=number, **spec)
    if children:
        end = children[0].ask(command="head")["offset"]
        for child in children:
            child.ask(within=120.0, command="reached", offset=end)
    seconds = time.monotonic() - start
    return {"seconds": seconds, "rate": number / seconds}


def catching_up(rounds: int, *, quick: bool) -> Iterator[Row]:
    """A node starts on a full feed and reads it; redis-py alone reads a stream beside it."""
    messages = FEED // 10 if quick else FEED
    with Meter.running() as meter, worker(meter) as publisher:
        publisher.ask(command="configure", namespace="feed")
        publisher.ask(within=120, command="publish", namespace="feed", way="burst", number=messages)
        (key,) = meter.keys("holdfast:1:*:feed")
        peers: tuple[tuple[str, Row], ...] = (
            ("peer: XREAD COUNT 256 by redis-py", {"command": "xread", "key": key}),
            ("peer: pubsub, with its publisher", {"command": "listen", "channel": "c"}),
        )
        for number in range(rounds):
            before = meter.usage()
            with node(meter, "feed") as child:
                began = child.began  # type: ignore[attr-defined]
            used = meter.usage() - before
            yield {
                "case": "a node starts, and has read the feed",
                "round": number,
                "rate": messages / began["seconds"],
                "reader_us": began["cpu"] / messages * 1e6,
                "redis_us": used.cpu / messages * 1e6,
            }
            for case, spec in peers:
                row = measure(meter, messages, partial(ask, publisher, **spec))
                yield {"case": case, "round": number, "reader_us": row["client_us"], **row}


def readers(rounds: int, *, quick: bool) -> Iterator[Row]:
    """The cost of many nodes for Redis: connections that only read the feed."""
    rate, messages = 100.0, 100 if quick else 500
    with Meter.running() as meter, worker(meter) as publisher, worker(meter) as crowd:
        publisher.ask(command="configure", namespace="feed")
        publisher.ask(command="publish", namespace="feed", way="burst", number=1000)
        (key,) = meter.keys("holdfast:1:*:feed")
        paced: Row = {**PACED, "namespace": "feed", "rate": rate}
        for number in range(rounds):
            for count in (0, 1, 10, 50):
                if count:
                    crowd.ask(command="readers", key=key, number=count)
                row = measure(meter, messages, partial(_paced, publisher, **paced))
                if count:
                    crowd.ask(command="stop_readers")
                case = f"{rate:.0f} per second, readers: {count}"
                yield {"case": case, "round": number, **row}


def _paced(publisher: Child, number: int, **spec: Any) -> Row:
    start = time.monotonic()
    publisher.ask(number=number, **spec)
    return {"seconds": time.monotonic() - start}
