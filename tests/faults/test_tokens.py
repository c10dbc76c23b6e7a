"""Tokens whose answer is lost, and that two present at once."""

from __future__ import annotations

import asyncio
import math
import os
from typing import Any

import pytest

from holdfast import Broadcaster, Refused
from tests.faults.parsers import Seen, StreamClient
from tests.faults.returning import Returning, running
from tests.faults.wire import (
    EXPECTED,
    begin,
    by_fifties,
    check,
    come_back,
    has_end,
    position,
    publish,
    receive,
)
from tests.support.clients import request
from tests.support.proxy import Fault, Proxy
from tests.support.reading import Reader
from tests.support.virtual import run_virtual, wall_clock

LONG = os.environ.get("HOLDFAST_LONG") == "1"


async def test_answer_is_lost_after_any_byte(port: int) -> None:
    """The answer with the new token is lost twice: the old id works again, and has everything.

    Once after each byte of head and first frames, by FIN; before, as far from the end, by RST.
    """
    topic = "lost"
    at = await position(port, "whole")
    await publish(port, "whole")
    end = await receive(port, StreamClient(port, "whole", at), has_end)
    ids: list[tuple[int, str]] = []

    async def prepare(after: int) -> None:
        ids.append((after, await position(port, topic)))

    async def lose(item: tuple[int, str]) -> None:
        after, at = item
        faults = [Fault(cut_after=end - after, how="rst"), Fault(cut_after=after, how="fin")]
        async with Proxy(port, faults.__getitem__) as proxy:
            for _ in faults:
                await receive(proxy.port, StreamClient(proxy.port, topic, at), has_end)
        check(await come_back(port, StreamClient, topic, at))

    await by_fifties(range(end), prepare)
    await publish(port, topic)
    await by_fifties(ids, lose)
    assert len(ids) == end > 1000


async def test_answer_is_lost_on_a_half_open_link(port: int) -> None:
    """The same where the server goes on believing in the connections that got the answers."""
    topic = "half-open"
    ids = [await position(port, topic) for _ in range(30)]
    await publish(port, topic)
    # So slow that the answer comes in pieces: a part arrives, the rest is swallowed.
    async with Proxy(port, lambda _: Fault(rate=20_000)) as proxy:
        for turn, at in enumerate(ids):
            for _ in range(1 + turn % 3):
                client = StreamClient(proxy.port, topic, at)
                wire = await begin(proxy.port, client)
                await wire.until(lambda client: client.answered)
                list(proxy.links)[-1].swallow()
                assert not has_end(client)
            check(await come_back(port, StreamClient, topic, at))
        assert len(proxy.links) == proxy.opened  # none of them has ended


async def everything(port: int, topic: str, id: str) -> list[Seen]:
    """Read all, and come back when told to, as often as it takes."""
    seen: list[Seen] = []
    for _ in range(10):
        client = StreamClient(port, topic, id)
        await receive(port, client, has_end)
        for each in client.seen():
            if each.frame["type"] == "closing":
                assert each.frame["data"] == {"reason": "taken_over", "reconnect": True}
            else:
                seen.append(each)
            id = each.id or id
        if has_end(client):
            return seen
    raise AssertionError(f"ten connections were not enough: {seen}")


@pytest.mark.timeout(600 if LONG else 120)
async def test_two_present_one_token_at_once(port: int) -> None:
    """A thousand times over HTTP: nobody is refused, and nobody loses anything.

    ``HOLDFAST_LONG=1``: ten thousand times.
    """
    topic = "two"
    ids: list[str] = []

    async def prepare(_: int) -> None:
        ids.append(await position(port, topic))

    async def race(id: str) -> None:
        both = await asyncio.gather(everything(port, topic, id), everything(port, topic, id))
        for seen in both:
            check(seen)

    await by_fifties(range(10_000 if LONG else 1000), prepare)
    await publish(port, topic)
    await by_fifties(ids, race)
    stats = (await request(port, "GET", "/connection-stats")).json()["statistics"]
    assert stats["tokens_refused"] == 0
    assert stats["gaps"] == 0


class Tab:
    """A client without a transport that comes back for ever with its own last id."""

    def __init__(self, broadcaster: Broadcaster, id: str, pause: float = 0.0) -> None:
        self.id = id
        self.got: list[Any] = []
        self.sessions: list[str] = []
        self._broadcaster = broadcaster
        self._pause = pause

    async def read(self, count: float = math.inf) -> None:
        """Until so many messages are there."""
        while len(self.got) < count:
            try:
                await self._visit(count)
            except Refused as refused:
                if refused.reason.word != "taken_over":  # in the middle of connecting: come back
                    raise
            await asyncio.sleep(self._pause)

    async def _visit(self, count: float) -> None:
        connecting = self._broadcaster.connect(topics=["t"], last_event_id=self.id)
        async with connecting as outbox:
            reader = Reader(outbox, patience=100.0)
            self.sessions.append((await reader.hello()).data["session"])
            self.id = reader.last_id
            while len(self.got) < count and (seen := await reader.frame()) is not None:
                self.id = seen.id
                if seen.type == "message":
                    self.got.append(seen.data)


async def test_two_present_one_token_at_once_ten_thousand_times() -> None:
    """The same at `Broadcaster.connect`, the second some steps of the loop after the first."""
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


def test_duplicated_tab_for_an_hour() -> None:
    """Three tabs go on from one last id, of which one is connected: each moves over once at most.

    A second later nobody throws anybody out, and for an hour each has everything, once.
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


def test_silence_after_the_answer_was_lost() -> None:
    """A client may take 2.5 heartbeats to notice that its link is half-open (protocol.md, 11).

    If the answer with its new token was lost on that link, its old id still has to work then.
    """

    async def main() -> None:
        async with Broadcaster(clock=wall_clock) as broadcaster:
            id = await broadcaster.position(["t"])
            interval = broadcaster.options.heartbeat_interval
            assert interval is not None
            async with broadcaster.connect(topics=["t"], last_event_id=id):
                await broadcaster.publish("t", "while it waited")
                await asyncio.sleep(2.5 * interval)
                async with broadcaster.connect(topics=["t"], last_event_id=id) as outbox:
                    reader = Reader(outbox)
                    assert (await reader.hello()).data["session"] == "resumed"
                    assert await reader.take(1) == ["while it waited"]

    run_virtual(main())


async def test_duplicated_tab_over_http(port: int) -> None:
    """Over HTTP, where `retry` says when: after the first exchange both stay connected.

    When both lose their link then, each goes on where it was.
    """
    path = "/stream?topics=tabs"
    async with Proxy(port) as proxy:
        one = Returning(proxy.port, path, last_event_id=await position(port, "tabs"))
        async with running(one):
            await one.until(lambda one: one.connected)
            two = Returning(proxy.port, path, last_event_id=one.last_event_id)
            async with running(two):
                await two.until(lambda two: two.connected)
                await one.until(lambda one: len(one.visits) == 2)
                await publish(port, "tabs")
                for tab in (one, two):
                    await tab.until(lambda tab: tab.messages == EXPECTED)
                await asyncio.sleep(3.5)  # longer than any `retry`: a third exchange would be here
                assert (one.tries, two.tries) == (2, 1)
                assert proxy.cut() == 2
                await publish(port, "tabs")
                for tab in (one, two):
                    await tab.until(lambda tab: tab.messages == EXPECTED * 2)
    assert one.sessions == ["resumed"] * 3
    assert two.sessions == ["resumed"] * 2


def outside(first: dict[str, Any]) -> dict[str, Any]:
    """What a first frame gives away, without what is random or of the clock."""
    random_or_of_the_clock = {"connectionId", "reconnectToken", "resumableUntil"}
    assert random_or_of_the_clock <= set(first)
    return {name: value for name, value in first.items() if name not in random_or_of_the_clock}
