"""The benchmark itself works. No figure is compared here: what CI may judge is in test_cost.py."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks import fanout, tables, wire
from tests.benchmarks.contestants import FAMILIES
from tests.benchmarks.fanout import FanOut
from tests.benchmarks.micro.cases import CLASSES
from tests.benchmarks.micro.timing import Case, measure
from tests.benchmarks.redis import returning
from tests.benchmarks.session import Failed, Place, Session
from tests.support.requirements import require

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.needs(module="uvloop", reason="contestants run on uvicorn with uvloop")

PEERS = ("fastapi", "litestar", "socketio", "sse_starlette", "starlette", "websockets")

ANYWHERE = Place(server=None, client=None, polite=True)
SMALL = FanOut(about="a smoke test", connections=20, count=20, chunk=10, samples=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_measured_and_verified(family: str) -> None:
    """Two tiny rounds: every sampled connection had every message once and in order."""
    names = [f"holdfast_{family}", f"raw_{family}"]
    rows = list(fanout.run(SMALL, names, 2, ANYWHERE))
    assert [row.get("error") for row in rows] == [None] * 4
    assert [row["contestant"] for row in rows] == [*names, *reversed(names)]
    assert all(row["sampled"] == 4 for row in rows)
    assert all(row["deliveries"] == 400 for row in rows)
    assert all(row["cpu_s_per_m"] > 0 for row in rows)
    # All messages are equally long: the content is padded by the size of the envelope.
    assert all(190 <= row["bytes_per_delivery"] <= 235 for row in rows)
    table = tables.versus(rows, "raw_{}", tables.FAN_OUT)
    assert f"| {names[0]} | " in table
    assert f"| {names[1]} | " in table


def test_ten_messages_in_a_tick_are_one_system_call() -> None:
    """All messages that wait for a connection leave in one write, as Linux counts writes."""
    rows = list(fanout.run(SMALL, ["holdfast_sse"], 1, ANYWHERE))
    assert [row.get("error") for row in rows] == [None]
    # The control channel and the loop itself write now and then.
    assert rows[0]["writes_per_delivery"] < 0.15


def test_resume_is_measured_and_verified() -> None:
    """Connections that come back with their last event id get what they missed."""
    with Session("holdfast_sse", ANYWHERE) as session:
        session.connect(10, until="id")
        session.client.ask(command="close")
        session.wait_subscribers(0)
        first = session.start_publishing(0, 30)
        session.server.hear()
        session.connect(10, until=30, resume=True)
        assert session.check(first, 30)["sampled"] == 10


@pytest.mark.parametrize(
    "wrong",
    [
        lambda stream: stream.replace(b'"i":2', b'"i":1').replace(b"id: 2", b"id: 1"),
        lambda stream: stream.replace(b"id: 2", b"id: 3"),
        lambda stream: stream[:-1],
        lambda stream: stream + stream,
    ],
    ids=["doubled", "wrong id", "cut off", "all twice"],
)
def test_verification_notices(wrong: Callable[[bytes], bytes]) -> None:
    """A stream that is not what was published does not pass for it."""
    stream = b"".join(
        b"id: %d\ndata: %b\n\n" % (n, wire.to_json(wire.make_message(n, 100)).encode())
        for n in (1, 2, 3)
    )
    assert wire.numbers_of_events(stream) == [1, 2, 3]
    try:
        numbers = wire.numbers_of_events(wrong(stream))
    except ValueError:
        return
    assert numbers != [1, 2, 3]


def test_what_was_not_published_fails_the_run() -> None:
    """The samples of a run do not pass for other messages than those that were published."""
    with Session("raw_sse", ANYWHERE) as session:
        session.connect(5)
        session.client.ask(command="sample", samples=2)
        assert session.publish(5, 10)["sampled"] == 2
        with pytest.raises(Failed, match="10 of 9 messages"):
            session.check(2, 9)


@pytest.mark.parametrize("name", [name for family in FAMILIES.values() for name in family])
def test_contestant_has_its_face(name: str) -> None:
    """A contestant has the parts that README.md requires."""
    for package in filter(name.startswith, PEERS):
        require(module=package, reason="the benchmarks compare with it")
    module = importlib.import_module(f"tests.benchmarks.contestants.{name}")
    assert module.KIND in ("sse", "ws", "sio")
    assert module.PATH.startswith("/")
    assert hasattr(module, "app") or hasattr(module, "serve")
    assert callable(module.publish)
    assert callable(module.decode)
    assert module.subscribers() == 0


def test_redis_is_measured() -> None:
    """Clients connect and resume one after the other: one call to connect, two to resume."""
    rows = list(returning.alone(1, quick=True))
    assert [row["case"] for row in rows] == ["open", "resume"]
    # Beside these calls, the node reads the feed, and the end of the log once a second.
    assert 1 <= rows[0]["round_trips"] < 3
    assert 2 <= rows[1]["round_trips"] < 4
    assert all(row["redis_us"] > 0 for row in rows)


@pytest.mark.parametrize("name", CLASSES)
def test_micro_benchmark_runs(name: str) -> None:
    """Every operation can be done, at the smallest size."""
    cases: list[Case] = []
    for case in CLASSES[name]():
        if cases and case.size > cases[0].size:
            break
        cases.append(case)
    assert all(time.least > 0 for _, time in measure(cases, 1))
