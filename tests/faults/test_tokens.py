"""Tokens whose answer is lost, and tokens that two clients present at once."""

from __future__ import annotations

import asyncio
import math
import os
from typing import Any

import pytest

from holdfast import Broadcaster, Refused
from tests.faults.parsers import ParsedEvent, StreamClient
from tests.faults.reconnecting import ReconnectingClient, running
from tests.faults.transport import (
    EXPECTED,
    begin,
    check,
    has_last_message,
    position,
    publish,
    receive,
    reconnect,
    run_concurrently,
)
from tests.support.clients import request
from tests.support.frame_reader import FrameReader
from tests.support.proxy import Fault, Proxy
from tests.support.virtual_loop import run_virtual, wall_clock

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

LONG = os.environ.get("HOLDFAST_LONG") == "1"


async def test_old_id_works_after_the_answer_was_cut_at_any_byte(port: int) -> None:
    """The answer with the new token is lost twice, and the old id still resumes everything.

    The first cut is by RST, the second by FIN after each byte of the head and the first frames.
    """
    topic = "lost"
    at = await position(port, "whole")
    await publish(port, "whole")
    end = await receive(port, StreamClient(port, "whole", at), has_last_message)
    ids: list[tuple[int, str]] = []

    async def prepare(after: int) -> None:
        ids.append((after, await position(port, topic)))

    async def lose(item: tuple[int, str]) -> None:
        after, at = item
        faults = [Fault(cut_after=end - after, how="rst"), Fault(cut_after=after, how="fin")]
        async with Proxy(port, faults.__getitem__) as proxy:
            for _ in faults:
                await receive(proxy.port, StreamClient(proxy.port, topic, at), has_last_message)
        check(await reconnect(port, StreamClient, topic, at))

    await run_concurrently(range(end), prepare)
    await publish(port, topic)
    await run_concurrently(ids, lose)
    assert len(ids) == end > 1000


async def test_old_id_works_after_the_answer_was_lost_on_a_half_open_link(port: int) -> None:
    """The old id works although the server still believes in the connections with the answers."""
    topic = "half-open"
    ids = [await position(port, topic) for _ in range(30)]
    await publish(port, topic)
    # Slow enough that the answer comes in pieces: one part arrives, the rest is dropped.
    async with Proxy(port, lambda _: Fault(rate=20_000)) as proxy:
        for turn, at in enumerate(ids):
            for _ in range(1 + turn % 3):
                client = StreamClient(proxy.port, topic, at)
                wire = await begin(proxy.port, client)
                await wire.wait_until(lambda client: client.accepted)
                list(proxy.links)[-1].discard()
                assert not has_last_message(client)
            check(await reconnect(port, StreamClient, topic, at))
        assert len(proxy.links) == proxy.opened  # none of them has ended


async def everything(port: int, topic: str, id: str) -> list[ParsedEvent]:
    """Read everything, and reconnect as often as the server asks for it."""
    seen: list[ParsedEvent] = []
    for _ in range(10):
        client = StreamClient(port, topic, id)
        await receive(port, client, has_last_message)
        for each in client.events():
            if each.frame["type"] == "closing":
                assert each.frame["data"] == {"reason": "taken_over", "reconnect": True}
            else:
                seen.append(each)
            id = each.id or id
        if has_last_message(client):
            return seen
    raise AssertionError(f"ten connections were not enough: {seen}")


@pytest.mark.timeout(600 if LONG else 120)
async def test_concurrent_presents_of_one_token_lose_nothing(port: int) -> None:
    """A thousand pairs over HTTP: no client is refused, and no client loses a message.

    `HOLDFAST_LONG=1`: ten thousand pairs.
    """
    topic = "two"
    ids: list[str] = []

    async def prepare(_: int) -> None:
        ids.append(await position(port, topic))

    async def race(id: str) -> None:
        both = await asyncio.gather(everything(port, topic, id), everything(port, topic, id))
        for seen in both:
            check(seen)

    await run_concurrently(range(10_000 if LONG else 1000), prepare)
    await publish(port, topic)
    await run_concurrently(ids, race)
    stats = (await request(port, "GET", "/connection-stats")).json()["statistics"]
    assert stats["tokens_refused"] == 0
    assert stats["gaps"] == 0


class Tab:
    """A client without a transport that reconnects for ever with its own last event id."""

    def __init__(self, broadcaster: Broadcaster, id: str, pause: float = 0.0) -> None:
        self.id = id
        self.got: list[Any] = []
        self.sessions: list[str] = []
        self._broadcaster = broadcaster
        self._pause = pause

    async def read(self, count: float = math.inf) -> None:
        """Read until `count` messages have arrived."""
        while len(self.got) < count:
            try:
                await self._visit(count)
            except Refused as refused:
                if refused.reason.word != "taken_over":  # during the handshake: reconnect
                    raise
            await asyncio.sleep(self._pause)

    async def _visit(self, count: float) -> None:
        connecting = self._broadcaster.connect(topics=["t"], last_event_id=self.id)
        async with connecting as connection:
            reader = FrameReader(connection, timeout=100.0)
            self.sessions.append((await reader.first_frame()).data["session"])
            self.id = reader.last_id
            while len(self.got) < count and (seen := await reader.frame()) is not None:
                self.id = seen.id
                if seen.type == "message":
                    self.got.append(seen.data)


async def test_concurrent_presents_of_one_token_in_process_lose_nothing() -> None:
    """Ten thousand pairs call `Broadcaster.connect`, the second some loop steps after the first."""
    async with Broadcaster(max_connections=1000) as broadcaster:
        ids = [await broadcaster.position(["t"]) for _ in range(10_000)]
        for n in range(3):
            await broadcaster.publish("t", n)

        async def later(tab: Tab, steps: int) -> None:
            for _ in range(steps):
                await asyncio.sleep(0)
            await tab.read(3)

        for turn, id in enumerate(ids):
            tabs = Tab(broadcaster, id), Tab(broadcaster, id)
            await asyncio.gather(tabs[0].read(3), later(tabs[1], turn % 25))
            for tab in tabs:
                assert tab.got == [0, 1, 2]
                assert set(tab.sessions) == {"resumed"}
        assert broadcaster.statistics().tokens_refused == 0


def test_duplicated_tabs_stay_connected_for_an_hour() -> None:
    """Three tabs continue from one last id while one is connected: each moves at most once.

    A second later, no tab takes over another, and for an hour each receives everything once.
    """

    async def main() -> None:
        async with Broadcaster(clock=wall_clock, idle_timeout=None) as broadcaster:
            first = Tab(broadcaster, await broadcaster.position(["t"]), pause=2.0)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(first.read())]
                await asyncio.sleep(10)
                tabs = [first, Tab(broadcaster, first.id, 2.0), Tab(broadcaster, first.id, 2.0)]
                tasks += [group.create_task(tab.read()) for tab in tabs[1:]]
                for n in range(350):
                    await broadcaster.publish("t", n)
                    await asyncio.sleep(10)
                for task in tasks:
                    task.cancel()
            for tab in tabs:
                assert tab.got == list(range(350))
                assert set(tab.sessions) == {"resumed"}
            assert sorted(len(tab.sessions) for tab in tabs) in ([1, 1, 2], [1, 2, 2])

    run_virtual(main())


def test_old_id_works_until_the_client_detects_silence() -> None:
    """A client may need 2.5 heartbeats to notice a half-open link (docs/protocol.md, section 11).

    The old id has to work then, if the answer with the new token was lost on that link.
    """

    async def main() -> None:
        async with Broadcaster(clock=wall_clock) as broadcaster:
            id = await broadcaster.position(["t"])
            interval = broadcaster.options.heartbeat_interval
            assert interval is not None
            async with broadcaster.connect(topics=["t"], last_event_id=id):
                await broadcaster.publish("t", "while it waited")
                await asyncio.sleep(2.5 * interval)
                async with broadcaster.connect(topics=["t"], last_event_id=id) as connection:
                    reader = FrameReader(connection)
                    assert (await reader.first_frame()).data["session"] == "resumed"
                    assert await reader.take(1) == ["while it waited"]

    run_virtual(main())


async def test_duplicated_tabs_stay_connected_over_http(port: int) -> None:
    """Over HTTP, where `retry` sets the delay, both tabs stay connected after the first exchange.

    If both lose their link then, each resumes its own session.
    """
    path = "/stream?topics=tabs"
    async with Proxy(port) as proxy:
        one = ReconnectingClient(proxy.port, path, last_event_id=await position(port, "tabs"))
        async with running(one):
            await one.wait_until(lambda one: one.connected)
            two = ReconnectingClient(proxy.port, path, last_event_id=one.last_event_id)
            async with running(two):
                await two.wait_until(lambda two: two.connected)
                await one.wait_until(lambda one: len(one.connections) == 2)
                await publish(port, "tabs")
                for tab in (one, two):
                    await tab.wait_until(lambda tab: tab.messages == EXPECTED)
                await asyncio.sleep(3.5)  # longer than any `retry`, so a third exchange shows
                assert (one.attempts, two.attempts) == (2, 1)
                assert proxy.cut() == 2
                await publish(port, "tabs")
                for tab in (one, two):
                    await tab.wait_until(lambda tab: tab.messages == EXPECTED * 2)
    assert one.sessions == ["resumed"] * 3
    assert two.sessions == ["resumed"] * 2


def visible_part(first: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a first frame that are neither random nor of the clock."""
    random_or_of_the_clock = {"connectionId", "reconnectToken", "resumableUntil"}
    assert random_or_of_the_clock <= set(first)
    return {name: value for name, value in first.items() if name not in random_or_of_the_clock}
