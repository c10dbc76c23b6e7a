"""More than a reader can take: what is better overtakes, and all else is delivered or declared."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

from holdfast import Broadcaster, Priority
from tests.support import ServerProcess
from tests.support.clients import EventStream, open_socket, open_stream, request
from tests.support.proxy import Fault, Proxy
from tests.support.reading import Reader
from tests.support.virtual import run_virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

PADDING = "x" * 20_000
"""Messages of 20 kB: some 200 of them fill what lies between the server and who does not read."""


def serve(**options: Any) -> ServerProcess:
    """A real server."""
    return ServerProcess(
        "uvicorn",
        "tests.apps.live:app",
        args=["--log-level", "warning"],
        env={"HOLDFAST_OPTIONS": json.dumps(options)},
    )


async def publish(port: int, data: Iterable[Any], **more: Any) -> None:
    """Publish each as one message, all with one request."""
    messages = [{"data": [each, PADDING], **more} for each in data]
    assert (await request(port, "POST", "/publish", {"messages": messages})).status == 200


class Lane:
    """What one client got on one lane: each number from ``begin`` on, or a gap that counts it."""

    def __init__(self, begin: int = 0) -> None:
        self.next = begin
        self.got: list[int] = []
        self.declared = 0
        self._gap = 0

    def message(self, number: int) -> None:
        """A message: all between it and what came before it has been declared, and no more."""
        assert number == self.next + self._gap, (
            f"{number} after {self.next - 1} and a gap of {self._gap}"
        )
        self.got.append(number)
        self.next, self._gap = number + 1, 0

    def gap(self, count: int) -> None:
        """A gap frame."""
        self._gap += count
        self.declared += count


class Account:
    """A client's frames, lane by lane, and the order in which they came."""

    def __init__(self) -> None:
        self.lanes = {priority.name.lower(): Lane() for priority in Priority}
        self.order: list[tuple[str, int]] = []

    def see(self, frame: Any) -> None:
        """Enter one frame."""
        match frame["type"]:
            case "message":
                lane, number = frame["priority"], frame["data"][0]
                self.lanes[lane].message(number)
                self.order.append((lane, number))
            case "gap":
                assert frame["data"]["cause"] == "trimmed"
                self.lanes[frame["data"]["priority"]].gap(frame["data"]["count"])
            case "closing":
                raise AssertionError(frame)

    def complete(self, **ends: int) -> bool:
        """Whether each lane named has got so far."""
        return all(self.lanes[lane].next == end for lane, end in ends.items())


async def read_on(next_frame: Callable[[], Awaitable[Any]], account: Account, **ends: int) -> None:
    """Read until every lane named is complete; bounded by the patience of the client."""
    while not account.complete(**ends):
        account.see(await next_frame())


def frames_of(stream: EventStream) -> Callable[[], Awaitable[Any]]:
    """What waits for the stream's next frame."""

    async def frame() -> Any:
        return (await stream.event()).json()

    return frame


async def flood_until_stuck(port: int) -> int:
    """Publish LOW until the one who does not read is handed nothing more; how many that were."""
    number, handed, same = 0, -1, 0
    while number < 2000:
        await publish(port, range(number, number + 50), priority="LOW")
        number += 50
        report = (await request(port, "GET", "/connection-stats")).json()
        [slow] = [each for each in report["connections"] if each["user"] == "slow"]
        same = same + 1 if slow["frames_sent"] == handed else 0
        if same == 2:
            return number
        handed = slow["frames_sent"]
    raise AssertionError("a client that reads nothing takes 40 MB")


async def test_critical_overtakes_a_flood() -> None:
    """At one who reads too late, and at those who keep up; each lane is in order and complete."""
    with serve(history_limit=150) as server:
        port = server.port
        async with (
            open_stream(port, headers={"x-user": "slow"}) as slow,
            open_stream(port, headers={"x-user": "fast"}) as fast,
            open_socket(port) as socket,
        ):
            accounts = [Account() for _ in range(3)]
            async with asyncio.TaskGroup() as tasks:
                stuck = 0

                async def everything(next_frame: Any, account: Account) -> None:
                    while not (ended.is_set() and account.complete(low=stuck + 400, critical=40)):
                        account.see(await next_frame())

                ended = asyncio.Event()
                reading = [
                    tasks.create_task(everything(frames_of(fast), accounts[1])),
                    tasks.create_task(everything(socket.frame, accounts[2])),
                ]
                stuck = await flood_until_stuck(port)
                for n in range(40):
                    await publish(port, range(stuck + 10 * n, stuck + 10 * n + 10), priority="LOW")
                    await publish(port, [n], priority="CRITICAL")
                ended.set()
                await publish(port, [0], priority="HIGH")  # wakes who has everything by now
                await asyncio.wait(reading)
            await read_on(frames_of(slow), accounts[0], low=stuck + 400, critical=40, high=1)
            assert "Traceback" not in server.output()
    late = accounts[0]
    criticals = [at for at, (lane, _) in enumerate(late.order) if lane == "critical"]
    assert criticals[-1] - criticals[0] == 39, "one after the other, and nothing between"
    assert late.order[criticals[-1] + 1] == ("high", 0)
    assert late.lanes["low"].declared > 100, "the history keeps 150 of some 600"
    before = [number for lane, number in late.order[: criticals[0]] if lane == "low"]
    assert before[-1] < stuck, "they went ahead of every LOW that was published beside them"


async def test_history_trimmed_under_a_replay() -> None:
    """A reader that stalls in the middle of a replay is told every hole where it is, and counted.

    One topic is busy, one is quiet, and each keeps its last 150: the hole in the busy one is
    interrupted by messages of the other.
    """
    with serve(history_limit=600) as server:
        port = server.port

        async def publish_both(numbers: range) -> None:
            for first in numbers[::50]:
                messages = [
                    {"topic": "ab"[n % 10 == 0], "data": [n, PADDING]}
                    for n in range(first, first + 50)
                ]
                assert (
                    await request(port, "POST", "/publish", {"messages": messages})
                ).status == 200

        headers, path = {"x-user": "slow"}, "/stream?topics=a,b"
        async with open_stream(port, path, headers=headers) as stream:
            at = (await stream.event()).last_event_id
        await publish_both(range(650))
        async with open_stream(port, path, last_event_id=at, headers=headers) as stream:
            hello = (await stream.event()).json()["data"]
            assert (hello["session"], hello["replay"]) == ("resumed", 650)
            account = Account()
            await read_on(frames_of(stream), account, normal=10)
            await publish_both(range(650, 2000))  # it takes nothing meanwhile
            await read_on(frames_of(stream), account, normal=2000)
    lane = account.lanes["normal"]
    assert len(lane.got) + lane.declared == 2000
    assert lane.declared > 500, "there was to be a hole"


async def test_hot_key_over_a_slow_link() -> None:
    """Ever newer values, the last one among them, and never more than one of them waits."""
    updates = 3000
    with serve() as server:
        port = server.port
        async with (
            Proxy(port, lambda _: Fault(rate=2_000_000)) as proxy,
            open_stream(proxy.port, headers={"x-user": "slow"}) as stream,
        ):
            before = (await request(port, "GET", "/internals")).json()["resident_bytes"]
            got: list[int] = []

            async def read() -> None:
                while not got or got[-1] < updates - 1:
                    frame = (await stream.event()).json()
                    assert frame["type"] not in ("gap", "closing"), frame
                    if frame["type"] == "message":
                        got.append(frame["data"][0])

            reading = asyncio.ensure_future(read())
            for n in range(0, updates, 10):
                await publish(port, range(n, n + 10), key="hot")
            report = (await request(port, "GET", "/connection-stats")).json()
            at_the_end, most = len(got), report["connections"][0]["buffer"]["high_water"]
            await reading
            after = (await request(port, "GET", "/internals")).json()["resident_bytes"]
    assert got == sorted({*got})
    assert most <= 2
    assert after - before < 16_000_000, "all values together have 60 MB"
    assert at_the_end < updates / 4, "the link was to be far slower"
    assert len(got) > 50, "it is sent although it changes all the time"


def test_hot_key_keeps_its_place() -> None:
    """A key that changes faster than its lane drains has its turn like any other."""
    others, reads = 30, 300

    async def main() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        async with (
            Broadcaster(buffer_bytes=8 * 1024 * 1024) as broadcaster,
            broadcaster.connect(topics=["t"]) as outbox,
        ):
            reader, number, turns = Reader(outbox), 0, itertools.cycle(range(1, others + 1))
            await reader.hello()
            padding = "x" * 65_536  # one message at a time
            for _ in range(reads):
                for _ in range(5):
                    for key in (0, next(turns)):
                        number += 1
                        await broadcaster.publish("t", [key, number, padding], key=str(key))
                await asyncio.sleep(0.01)
                [[key, at, _]] = await reader.take(1)
                seen.append((key, at))
        return seen

    seen = run_virtual(main())
    hot = [turn for turn, (key, _) in enumerate(seen) if key == 0]
    assert max(b - a for a, b in itertools.pairwise(hot)) <= others + 1
    for key in range(others + 1):
        values = [at for each, at in seen if each == key]
        assert values == sorted({*values})
        assert len(values) >= reads // (others + 2)
