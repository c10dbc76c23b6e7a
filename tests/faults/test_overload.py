"""More messages than a reader can take: urgent ones overtake, the rest is delivered or reported."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import Broadcaster, Priority
from tests.support.clients import EventStream, open_socket, open_stream, request
from tests.support.frame_reader import FrameReader
from tests.support.live_server import serve
from tests.support.proxy import Fault, Proxy
from tests.support.virtual_loop import run_virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

PADDING = "x" * 20_000
"""Messages of 20 kB: about 200 of them fill the buffers between server and stalled reader."""


async def publish(port: int, data: Iterable[Any], **more: Any) -> None:
    """Publish each item as one message, all in one request."""
    messages = [{"data": [each, PADDING], **more} for each in data]
    assert (await request(port, "POST", "/publish", {"messages": messages})).status == 200


class ReceivedLane:
    """The numbers of one client in one lane: each from `begin` on was received or is in a gap."""

    def __init__(self, begin: int = 0) -> None:
        self.next = begin
        self.numbers: list[int] = []
        self.lost = 0
        self._gap = 0

    def message(self, number: int) -> None:
        """Check a message: the gap before it has exactly the missing messages."""
        assert number == self.next + self._gap, (
            f"{number} after {self.next - 1} and a gap of {self._gap}"
        )
        self.numbers.append(number)
        self.next, self._gap = number + 1, 0

    def gap(self, count: int) -> None:
        """Record a gap frame."""
        self._gap += count
        self.lost += count


class ReceivedFrames:
    """The frames of one client per lane, and their order."""

    def __init__(self) -> None:
        self.lanes = {priority.name.lower(): ReceivedLane() for priority in Priority}
        self.order: list[tuple[str, int]] = []

    def record(self, frame: Any) -> None:
        """Record one frame."""
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
        """Return whether each named lane has reached its end."""
        return all(self.lanes[lane].next == end for lane, end in ends.items())


async def read_until(
    next_frame: Callable[[], Awaitable[Any]], frames: ReceivedFrames, **ends: int
) -> None:
    """Read until every named lane has reached its end."""
    while not frames.complete(**ends):
        frames.record(await next_frame())


def frames_of(stream: EventStream) -> Callable[[], Awaitable[Any]]:
    """Return a function that waits for the next frame of the stream."""

    async def frame() -> Any:
        return (await stream.event()).json()

    return frame


async def flood_until_stuck(port: int) -> int:
    """Publish LOW until the stalled reader takes no more. Returns the number of messages."""
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
    raise AssertionError("a client that reads nothing took 40 MB")


async def test_critical_messages_overtake_a_flood() -> None:
    """Critical messages overtake at a stalled reader and at fast ones; each lane is complete."""
    with serve(history_limit=150) as server:
        port = server.port
        async with (
            open_stream(port, headers={"x-user": "slow"}) as slow,
            open_stream(port, headers={"x-user": "fast"}) as fast,
            open_socket(port) as socket,
        ):
            received = [ReceivedFrames() for _ in range(3)]
            async with asyncio.TaskGroup() as tasks:
                stuck = 0

                async def read_all(next_frame: Any, frames: ReceivedFrames) -> None:
                    while not (ended.is_set() and frames.complete(low=stuck + 400, critical=40)):
                        frames.record(await next_frame())

                ended = asyncio.Event()
                reading = [
                    tasks.create_task(read_all(frames_of(fast), received[1])),
                    tasks.create_task(read_all(socket.frame, received[2])),
                ]
                stuck = await flood_until_stuck(port)
                for n in range(40):
                    await publish(port, range(stuck + 10 * n, stuck + 10 * n + 10), priority="LOW")
                    await publish(port, [n], priority="CRITICAL")
                ended.set()
                await publish(port, [0], priority="HIGH")  # wakes readers that have everything
                await asyncio.wait(reading)
            await read_until(frames_of(slow), received[0], low=stuck + 400, critical=40, high=1)
            assert "Traceback" not in server.output()
    late = received[0]
    criticals = [at for at, (lane, _) in enumerate(late.order) if lane == "critical"]
    assert criticals[-1] - criticals[0] == 39, "other messages lie between the critical ones"
    assert late.order[criticals[-1] + 1] == ("high", 0)
    assert late.lanes["low"].lost > 100, (
        "too few messages are lost: the history keeps 150 of about 600"
    )
    before = [number for lane, number in late.order[: criticals[0]] if lane == "low"]
    assert before[-1] < stuck, "a LOW message of the same time precedes them"


async def test_trim_during_a_replay_is_reported_where_it_happened() -> None:
    """A reader that stalls during a replay gets each gap at its place, with its count.

    One topic is busy, one is quiet, and each keeps its last 600 messages per lane. Messages of the
    quiet topic lie inside the gap of the busy one.
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
            frames = ReceivedFrames()
            await read_until(frames_of(stream), frames, normal=10)
            await publish_both(range(650, 2000))  # the reader takes nothing meanwhile
            await read_until(frames_of(stream), frames, normal=2000)
    lane = frames.lanes["normal"]
    assert len(lane.numbers) + lane.lost == 2000
    assert lane.lost > 500, "too few messages are lost"


async def test_slow_link_gets_the_latest_values_of_a_hot_key() -> None:
    """A slow reader gets ever newer values up to the last, and at most one value waits."""
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
    assert after - before < 16_000_000, "memory grew with the values, which have 60 MB together"
    assert at_the_end < updates / 4, "the link is not slow enough for this test"
    assert len(got) > 50, "too few values of the changing key were sent"


def test_hot_key_keeps_its_place() -> None:
    """A key that changes faster than its lane drains has its turn like any other key."""
    others, reads = 30, 300

    async def main() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        async with (
            Broadcaster(buffer_bytes=8 * 1024 * 1024) as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
        ):
            reader, number, turns = (
                FrameReader(connection),
                0,
                itertools.cycle(range(1, others + 1)),
            )
            await reader.first_frame()
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
