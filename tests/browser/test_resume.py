"""The browser client on links and servers that fail: every message once, in order, or declared."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from tests.browser.conftest import PAGES
from tests.browser.tab import Site, Tab
from tests.support import ServerProcess, free_port
from tests.support.polling import wait_until
from tests.support.proxy import Fault, Proxy

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(60)]

TRANSPORTS = ["sse", "websocket", "poll"]
LANES = ["CRITICAL", "HIGH", "NORMAL", "LOW"]

# The longest wait that the jitter can draw, so that only what is tested can end it early.
LONGEST_WAITS = "() => { Math.random = () => 0.999999; }"


async def publish_lanes(site: Site, topic: str, numbers: range) -> None:
    """Publish the numbers, from one priority to the next; one request for each ten."""
    for start in range(numbers.start, numbers.stop, 10):
        for number in range(start, min(start + 10, numbers.stop)):
            await site.publish(number, topic=topic, priority=LANES[number % 4])


async def check_lanes(tab: Tab, total: int) -> None:
    """Each number exactly once, and in order inside each priority; no gap was declared."""
    got = await tab.received(total)
    assert sorted(got) == list(range(total))
    for lane in range(4):
        own = [number for number in got if number % 4 == lane]
        assert own == sorted(own)
    assert await tab.seen("gap") == []
    assert await tab.seen("errors") == []


async def open_each(open_tab, port: int, topics: list[str], **options: Any) -> list[Tab]:
    """A tab for each transport, open over that one alone."""
    tabs = [await open_tab(port) for _ in TRANSPORTS]
    for tab, transport in zip(tabs, TRANSPORTS, strict=True):
        await tab.start(topics, transports=[transport], **options)
    for tab, transport in zip(tabs, TRANSPORTS, strict=True):
        await tab.open(transport)
    return tabs


async def test_a_server_that_dies_or_ends_loses_nothing(tmp_path, user, open_tab):
    """Killed with -9 or ended in order, with a log that survives: the client resumes by itself."""
    env, port = {"HOLDFAST_LOG": str(tmp_path / "log")}, free_port()
    site = Site(port)
    with ServerProcess("uvicorn", PAGES, env=env, port=port):
        tabs = await open_each(open_tab, port, [user])
        await publish_lanes(site, user, range(20))
        for tab in tabs:
            await tab.received(10)
    with ServerProcess("uvicorn", PAGES, env=env, port=port) as server:
        await publish_lanes(site, user, range(20, 40))
        for tab in tabs:
            await tab.received(30)
        await asyncio.to_thread(server.terminate)
    with ServerProcess("uvicorn", PAGES, env=env, port=port):
        await publish_lanes(site, user, range(40, 60))
        for tab in tabs:
            await tab.received(60, hurry=True)
            await check_lanes(tab, 60)
            assert len(await tab.seen("resumed")) >= 2


async def test_a_log_that_is_lost_is_declared(user, open_tab):
    """A new process with the memory broker is a new log: a gap is reported first."""
    port = free_port()
    site = Site(port)
    with ServerProcess("uvicorn", PAGES, port=port):
        tab = await open_tab(port)
        await tab.start([user])
        await tab.open()
        await site.publish("old", topic=user)
        await tab.received(1)
    with ServerProcess("uvicorn", PAGES, port=port):
        await tab.until("seen.gap.length == 1", hurry=True)
        await site.publish("new", topic=user)
        assert await tab.received(2) == ["old", "new"]
        [gap] = await tab.seen("gap")
        assert gap["cause"] == "restart"
        assert gap["count"] is None


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_cut_links_lose_and_repeat_nothing(transport, site, user, open_tab):
    """Links break at many different bytes: each message arrives once, in order."""
    # Each cut falls on another place: before, in and after the first frame, and later.
    sizes = (700, 1500, 100, 450, 2300, 500, 0, 550, 1900, 600, 400)
    faults = [Fault(cut_after=size) for size in sizes]

    async with Proxy(site.port) as proxy:
        tab = await open_tab(proxy.port)
        await tab.start([user], transports=[transport])
        await tab.open()
        opened = proxy.opened
        proxy.fault = lambda n: faults[n - opened] if n - opened < len(faults) else Fault()
        proxy.cut()
        total = 0
        while proxy.opened - opened <= len(faults):  # until all of them have happened
            assert total < 400
            await publish_lanes(site, user, range(total, total + 6))
            await tab.received(total, hurry=True)
            total += 6
        await check_lanes(tab, total)


async def test_a_silent_link_is_replaced(user, open_tab):
    """A connection without frames fails after 2.5 heartbeats, and no message is lost."""
    heartbeat = 0.6
    env = {"HOLDFAST_OPTIONS": json.dumps({"heartbeat_interval": heartbeat})}
    with ServerProcess("uvicorn", PAGES, env=env) as server:
        site = Site(server.port)
        async with Proxy(server.port) as proxy:
            # A poll ends by itself after a while, heard or unheard.
            tabs = (await open_each(open_tab, proxy.port, [user]))[:2]
            await site.publish(1, topic=user)
            for tab in tabs:
                await tab.received(1)
            for link in list(proxy.links):
                link.discard()
            began = time.monotonic()
            await site.publish(2, topic=user)
            for tab in tabs:
                await tab.until("seen.status.length > 2")  # beyond connecting and open
            assert time.monotonic() - began < 2.5 * heartbeat + 3.0
            for tab in tabs:
                assert await tab.received(2, hurry=True) == [1, 2]
                assert await tab.seen("gap") == []


async def test_it_comes_back_after_errors(site, user, open_tab):
    """The client waits and reconnects after a status that ends an EventSource for good."""
    tabs = {}
    for status in (429, 500, 503):
        name = f"{user}-{status}"
        tab = tabs[name] = await open_tab(site.port, user=name)
        await site.fail(name, "/stream", status, 1)
        await tab.start([user], transports=["sse"])
    for name, tab in tabs.items():
        await tab.open()
        assert len(await site.requests(name, "/stream")) == 2
        assert "waiting" in [event["status"] for event in await tab.seen("status")]
    await site.publish("here", topic=user)
    for tab in tabs.values():
        assert await tab.received(1) == ["here"]


async def test_errors_in_mid_stream_lose_nothing(site, user, open_tab):
    """A proxy that answers 502 for a while between two lives of a stream costs no message."""
    async with Proxy(site.port) as proxy:
        tab = await open_tab(proxy.port)
        await tab.start([user], transports=["sse"])
        await tab.open()
        await site.publish(1, topic=user)
        await tab.received(1)
        await site.fail(user, "/stream", 502, 2)
        proxy.cut()
        await site.publish(2, topic=user)
        assert await tab.received(2, hurry=True) == [1, 2]
        assert await tab.seen("gap") == []


async def test_an_expired_token_is_replaced_and_the_stream_goes_on(site, user, open_tab):
    """The stream ends with its token; a new one is requested, and no message is lost."""
    tabs = []
    for transport in TRANSPORTS:
        tab = await open_tab(site.port, user=None)
        tokens = [f"{user}~1.5~{transport}", user]
        await tab.start([user], transports=[transport], tokens=tokens)
        await tab.open()
        tabs.append(tab)
    await site.publish(1, topic=user)
    for tab in tabs:
        await tab.received(1)
    for tab in tabs:
        await tab.until("tokens.length >= 2")
    await site.publish(2, topic=user)
    for tab in tabs:
        assert await tab.received(2) == [1, 2]
        assert await tab.seen("gap") == []
        assert await tab.run("tokens.length") == 2


async def test_a_refused_token_is_asked_for_again(site, user, open_tab):
    """A 401 at the first request leads to another token, and to no other transport."""
    tab = await open_tab(site.port, user=None)
    await tab.start([user], tokens=[f"{user}~0", f"{user}~0", user])
    await tab.open()
    requests = await site.requests(user)
    assert {entry["path"] for entry in requests} <= {"/stream", "/ack"}
    sent = [entry["authorization"] for entry in requests if entry["path"] == "/stream"]
    assert sent == [f"Bearer {user}~0", f"Bearer {user}~0", f"Bearer {user}"]
    assert await tab.run("live.transport") == "sse"


async def test_nothing_is_fallen_back_to_without_a_login(site, user, open_tab):
    """A 401 is reported, and does not fall back to another transport."""
    tab = await open_tab(site.port, user=None)
    before = len(await site.requests(""))
    await tab.start([user], firstFrameTimeout=0.5)
    await tab.until("seen.status.some(s => s.status === 'waiting' || s.status === 'closed')")
    # The next attempt uses SSE too.
    await tab.run("window.dispatchEvent(new Event('online'))")
    await tab.until("live.status === 'waiting' || live.status === 'closed'")
    paths = {entry["path"] for entry in (await site.requests(""))[before:]}
    assert paths == {"/stream"}
    # Once logged in, it works.
    cookie = {"name": "user", "value": user, "domain": "127.0.0.1", "path": "/"}
    await tab.page.context.add_cookies([cookie])
    await tab.run("window.dispatchEvent(new Event('online'))")
    await tab.open("sse")


@pytest.mark.parametrize("event", ["online", "visible"])
async def test_a_sign_that_it_may_work_ends_the_wait(event, site, user, open_tab):
    """`online` and a visible page end even a long pause at once."""
    fire = {
        "online": "window.dispatchEvent(new Event('online'))",
        "visible": "document.dispatchEvent(new Event('visibilitychange'))",
    }[event]
    async with Proxy(site.port) as proxy:
        tab = await open_tab(proxy.port)
        await tab.run(LONGEST_WAITS)
        await tab.start([user], transports=["sse"])
        await tab.open()
        proxy.target = free_port()  # no server listens there
        proxy.cut()
        await tab.until("live.status === 'waiting'")
        for _ in range(10):
            if (await tab.seen("status"))[-1]["retryIn"] > 9:
                break
            count = len(await tab.seen("status"))
            await tab.run(fire)
            await tab.until(f"seen.status.length > {count} && live.status === 'waiting'")
        assert (await tab.seen("status"))[-1]["retryIn"] > 9
        proxy.target = site.port
        await tab.run(fire)
        await tab.open(seconds=6)


async def test_topics_change_while_it_is_away(site, user, open_tab):
    """Topics that change without a connection change on the next connection."""
    a, b = f"{user}.a", f"{user}.b"
    async with Proxy(site.port) as proxy:
        tab = await open_tab(proxy.port)
        await tab.start([a], transports=["sse"])
        await tab.open()
        proxy.target = free_port()
        proxy.cut()
        await tab.until("live.status === 'waiting'")
        await tab.run(
            "([a, b]) => { window.done = Promise.all([live.subscribe(b), live.unsubscribe(a)]); }",
            [a, b],
        )
        proxy.target = site.port
        await tab.run("window.dispatchEvent(new Event('online'))")
        [subscribed, _] = await asyncio.wait_for(tab.run("window.done"), 10)
        assert subscribed["accepted"] == [b]
        await tab.open()
        await site.publish("a", topic=a)
        await site.publish("b", topic=b)
        assert await tab.received(1) == ["b"]
        assert await tab.run("[...live.topics]") == [b]


async def test_a_change_survives_the_next_cut(site, user, open_tab):
    """A reconnect neither undoes a subscription nor loses messages of its topic."""
    a, b = f"{user}.a", f"{user}.b"
    async with Proxy(site.port) as proxy:
        tab = await open_tab(proxy.port)
        await tab.start([a], transports=["sse"])
        await tab.open()
        await tab.run("topic => live.subscribe(topic)", b)
        await site.publish("b1", topic=b)
        await tab.received(1)
        proxy.cut()
        await site.publish("b2", topic=b)
        await site.publish("a1", topic=a)
        assert sorted(await tab.received(3, hurry=True)) == ["a1", "b1", "b2"]
        assert await tab.seen("gap") == []


async def test_unload_frees_the_connection(site, user, open_tab):
    """The server soon has no connection of a page that was left."""
    tab = await open_tab(site.port)
    await tab.start([user])
    await tab.open()
    await tab.page.goto("about:blank")

    async def gone() -> bool:
        return not await site.connections(user)

    await wait_until(gone)


async def test_who_is_replaced_does_not_come_back(user, open_tab):
    """Above the user's limit the oldest connection is closed for good, over any transport."""
    env = {"HOLDFAST_OPTIONS": json.dumps({"max_connections_per_user": 1})}
    with ServerProcess("uvicorn", PAGES, env=env) as server:
        site, tabs = Site(server.port), []
        for transport in ("sse", "websocket", "sse"):
            tab = await open_tab(server.port)
            await tab.start([user], transports=[transport])
            await tab.open()
            tabs.append(tab)
        for tab in tabs[:2]:
            await tab.until("live.status === 'closed'")
            assert (await tab.seen("status"))[-1]["reason"] == "replaced"
        await site.publish("last", topic=user)
        assert await tabs[2].received(1) == ["last"]
        assert len(await site.requests(user, "/stream", "/websocket")) == 3
