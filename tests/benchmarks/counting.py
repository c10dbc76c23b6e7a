"""Counts of the work of a fan-out, which are equal on every machine where times are not.

The counts are those of one more delivery: the same messages go to two fleets of different size, and
the difference is divided by the additional deliveries. The cost of a message regardless of its
receivers is excluded.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVarTuple, Unpack

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth import anonymous
from tests.benchmarks.fleet import Fleet
from tests.benchmarks.wire import make_message

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

Transport = Literal["sse", "websocket"]
Ts = TypeVarTuple("Ts")
Counts = dict[str, float]
Meter = Callable[[Counts], AbstractContextManager[None]]

SIZE = 100
TICKS = 10
WARM_UP = 3
AT_ONCE = ("peak", "kept")
"""The messages of one tick, and their deliveries."""


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts each step of a task and each callback of a future."""

    steps = 0

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Any = None
    ) -> asyncio.Handle:
        """Count and run the callback."""
        self.steps += 1
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Any = None,
    ) -> asyncio.TimerHandle:
        """Count timers, too: a timer per delivery would be a cost of its own."""
        self.steps += 1
        return super().call_at(when, callback, *args, context=context)


def run(work: Coroutine[Any, Any, Counts]) -> Counts:
    """Run it in a counting loop, without a garbage collection at a random time."""
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=CountingLoop) as runner:
            return runner.run(work)
    finally:
        gc.enable()


@contextmanager
def counted(counts: Counts) -> Iterator[None]:
    """Count calls of functions (Python's and C's) and steps of the loop."""
    loop: Any = asyncio.get_running_loop()
    calls = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        if event in ("call", "c_call"):
            calls += 1

    steps = loop.steps
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
    counts |= {"calls": calls, "steps": loop.steps - steps}


@contextmanager
def stepped(counts: Counts) -> Iterator[None]:
    """Count instructions of Python's virtual machine, which also include a loop without calls.

    The number depends on the version of Python.
    """
    instructions = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal instructions
        frame.f_trace_opcodes = True
        instructions += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)
    counts["instructions"] = instructions


@contextmanager
def traced(counts: Counts) -> Iterator[None]:
    """Measure bytes: how much more memory was in use at most, and how much remains.

    `fan_out` starts to trace before the warm-up, so that replaced objects are accounted for.
    """
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    try:
        yield
    finally:
        after, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    counts |= {"peak": peak - before, "kept": after - before}


async def publish(
    broadcaster: Broadcaster, fleet: Fleet, *, ticks: int, chunk: int, audience: int
) -> None:
    """Publish `chunk` messages to `hot` in each of `ticks` ticks, until all are delivered."""
    for tick in range(ticks):
        for number in range(chunk):
            await broadcaster.publish("hot", make_message(100 + tick * chunk + number, SIZE))
        await fleet.until(fleet.received + chunk * audience)


async def fan_out(
    transport: Transport, topics: Sequence[Sequence[str]], audience: int, chunk: int, meter: Meter
) -> Counts:
    """Measure ten ticks of messages to `hot`, which `audience` of the fleet subscribe to."""
    counts: Counts = {}
    broadcaster = Broadcaster(heartbeat_interval=None, send_timeout=None, idle_timeout=None)
    async with broadcaster, Fleet(broadcaster, transport) as fleet:
        if meter is traced:
            tracemalloc.start()
        await fleet.open(topics)
        await publish(broadcaster, fleet, ticks=WARM_UP, chunk=chunk, audience=audience)
        sends = fleet.sends
        with meter(counts):
            await publish(broadcaster, fleet, ticks=TICKS, chunk=chunk, audience=audience)
        counts["sends"] = fleet.sends - sends
    return counts


def per_delivery(
    transport: Transport, chunk: int, meter: Meter, *, between: tuple[int, int] = (20, 120)
) -> Counts:
    """Return the cost of one more delivery, between fleets of these two sizes."""
    few, many = (run(fan_out(transport, [["hot"]] * size, size, chunk, meter)) for size in between)
    deliveries = (between[1] - between[0]) * TICKS * chunk
    return {
        name: (many[name] - few[name]) / deliveries * (TICKS if name in AT_ONCE else 1)
        for name in many
    }


async def opening(connections: int) -> Counts:
    """Count calls and steps of opening `connections` event streams, from the request on."""
    counts: Counts = {}
    broadcaster = Broadcaster(heartbeat_interval=None, send_timeout=None, idle_timeout=None)
    app = LiveApp(broadcaster, authenticate=anonymous)
    async with broadcaster, Fleet(broadcaster) as fleet:
        await fleet.request(app, 1)
        with counted(counts):
            await fleet.request(app, connections)
    return counts


def per_opening(*, between: tuple[int, int] = (20, 120)) -> Counts:
    """Return the cost of one more opening."""
    few, many = (run(opening(size)) for size in between)
    return {name: (many[name] - few[name]) / (between[1] - between[0]) for name in many}


async def replay(missed: int) -> Counts:
    """Count the calls of a resume with `missed` messages."""
    counts: Counts = {}
    broadcaster = Broadcaster(heartbeat_interval=None, send_timeout=None, idle_timeout=None)
    async with broadcaster, Fleet(broadcaster) as fleet:
        position = await broadcaster.position(["hot"])
        for number in range(missed):
            await broadcaster.publish("hot", make_message(100 + number, SIZE))
        with counted(counts):
            await fleet.open([["hot"]], last_event_id=position)
            await fleet.until(missed)
    return counts


async def kept_by_resumed(transport: Transport, missed: int, connections: int = 50) -> Counts:
    """Measure the bytes of an idle connection that has resumed with `missed` messages."""
    counts: Counts = {}
    broadcaster = Broadcaster(heartbeat_interval=None, send_timeout=None, idle_timeout=None)
    async with broadcaster, Fleet(broadcaster, transport) as fleet:
        positions = [await broadcaster.position(["hot"]) for _ in range(connections)]
        for number in range(missed):
            await broadcaster.publish("hot", make_message(100 + number, 600))
        tracemalloc.start()
        with traced(counts):
            for position in positions:
                await fleet.open([["hot"]], last_event_id=position)
            await fleet.until(missed * connections)
            await publish(broadcaster, fleet, ticks=1, chunk=1, audience=connections)
            gc.collect()
    return {name: count / connections for name, count in counts.items()}
