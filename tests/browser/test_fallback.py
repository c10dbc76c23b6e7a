"""Fall back from one transport to the next, behind a real nginx with usual configurations."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.browser.conftest import PAGES
from tests.browser.tab import Site
from tests.support import ServerProcess, free_port, needs
from tests.support.nginx import (
    BUFFERED,
    EXECUTABLES,
    HELD_BACK,
    HOST_HEADER,
    LOOKS_CONNECTED,
    WEBSOCKET,
    Nginx,
)
from tests.support.proxy import Proxy

pytestmark = [
    pytest.mark.xdist_group("fallback"),
    pytest.mark.timeout(60),
    needs(executable=EXECUTABLES, reason="a real nginx stands in front"),
]

FIRST_FRAME = 1.2  # seconds: enough for a busy machine, too few for what is held back
ORDER = ["/stream", "/websocket", "/poll"]


def tried(requests: list) -> list[str]:
    """The transports that were requested, in the order of their first requests."""
    return list(dict.fromkeys(entry["path"] for entry in requests if entry["path"] in ORDER))


async def test_the_default_configuration_needs_no_fall_back(site, user, open_tab):
    """Behind a plain `proxy_pass`, SSE works, and continues past the window's 16 KiB."""
    with Nginx(site.port) as nginx:
        tab = await open_tab(nginx.port)
        await tab.start([user], firstFrameTimeout=5)
        await tab.open("sse")
        for start in range(0, 60, 20):
            await site.publish(*[f"{n} {'x' * 1000}" for n in range(start, start + 20)], topic=user)
        got = await tab.received(60)
        assert [int(text.split()[0]) for text in got] == list(range(60))
        # Its POSTs are refused, for the Host that nginx sends: another request does it, too.
        more = await tab.run("topic => live.subscribe(topic)", f"{user}.more")
        assert more == {"accepted": [f"{user}.more"], "rejected": []}
        await site.publish("more", topic=f"{user}.more")
        assert (await tab.received(61))[60] == "more"
        assert tried(await site.requests(user)) == ["/stream"]
        assert await tab.seen("gap") == []


async def test_buffering_alone_needs_no_fall_back(site, user, open_tab):
    """A current nginx passes frames on even with `proxy_buffering on`."""
    with Nginx(site.port, BUFFERED + HOST_HEADER) as nginx:
        tab = await open_tab(nginx.port)
        await tab.start([user], firstFrameTimeout=5)
        await tab.open("sse")
        await site.publish("here", topic=user)
        assert await tab.received(1) == ["here"]


@pytest.mark.parametrize(
    ("directives", "winner"),
    [
        (LOOKS_CONNECTED + HOST_HEADER + WEBSOCKET, "websocket"),
        (HELD_BACK + HOST_HEADER + WEBSOCKET, "websocket"),
        (LOOKS_CONNECTED + HOST_HEADER, "poll"),
    ],
    ids=["looks connected", "no headers", "no upgrade"],
)
async def test_no_first_frame_leads_to_the_next_transport(directives, winner, site, user, open_tab):
    """A stream that is held back times out, and the transport that works is kept."""
    with Nginx(site.port, directives) as nginx:
        tab = await open_tab(nginx.port)
        await tab.start([user], firstFrameTimeout=FIRST_FRAME)
        await tab.open(winner)
        await site.publish(1, 2, topic=user)
        assert await tab.received(2) == [1, 2]
        expected = ORDER[: ["sse", "websocket", "poll"].index(winner) + 1]
        assert tried(await site.requests(user)) == expected
        # The winner is remembered, also by the next page.
        before = len(await site.requests(user))
        await tab.page.reload()
        await tab.until("window.ready")
        await tab.start([user], firstFrameTimeout=FIRST_FRAME)
        await tab.open(winner)
        assert tried((await site.requests(user))[before:]) == [f"/{winner}"]


async def test_a_fall_back_in_mid_stream_loses_and_repeats_nothing(site, user, open_tab):
    """The path changes under an open stream: the next transport continues at its position."""
    with (
        Nginx(site.port, LOOKS_CONNECTED + HOST_HEADER + WEBSOCKET) as held_back,
        Nginx(site.port, LOOKS_CONNECTED + HOST_HEADER) as without_upgrade,
    ):
        async with Proxy(site.port) as proxy:
            tab = await open_tab(proxy.port)
            await tab.start([user], firstFrameTimeout=FIRST_FRAME)
            await tab.open("sse")
            await site.publish(*range(10), topic=user)
            await tab.received(5)
            proxy.target = held_back.port
            proxy.cut()
            await site.publish(*range(10, 20), topic=user)
            await tab.open("websocket", hurry=True)
            await site.publish(*range(20, 30), topic=user)
            await tab.received(25)
            proxy.target = without_upgrade.port
            proxy.cut()
            await site.publish(*range(30, 40), topic=user)
            await tab.open("poll", hurry=True)
            await site.publish(*range(40, 50), topic=user)
            assert await tab.received(50) == list(range(50))
            assert await tab.seen("gap") == []
            assert await tab.seen("errors") == []


async def test_an_idle_timeout_costs_no_message(user, open_tab):
    """A proxy cuts every stream because heartbeats are rarer than `proxy_read_timeout`."""
    env = {"HOLDFAST_OPTIONS": json.dumps({"heartbeat_interval": 60.0})}
    with ServerProcess("uvicorn", PAGES, env=env) as server:
        site = Site(server.port)
        with Nginx(server.port, HOST_HEADER + WEBSOCKET, read_timeout=10) as nginx:
            tabs = {kind: await open_tab(nginx.port) for kind in ("sse", "websocket", "poll")}
            for kind, tab in tabs.items():
                await tab.start([user], transports=[kind])
                await tab.open()
            await site.publish(1, topic=user)
            for tab in tabs.values():
                await tab.received(1)
                await tab.until("seen.status.some(({ status }) => status === 'waiting')")
            await site.publish(2, topic=user)
            for tab in tabs.values():
                assert await tab.received(2, hurry=True) == [1, 2]
                assert await tab.seen("gap") == []


async def test_an_upstream_that_restarts_costs_no_message(tmp_path, user, open_tab):
    """While nginx answers 502 the client waits, and then resumes."""
    env, port = {"HOLDFAST_LOG": str(tmp_path / "log")}, free_port()
    site = Site(port)
    with Nginx(port, HOST_HEADER + WEBSOCKET) as nginx:
        tabs = {}
        with ServerProcess("uvicorn", PAGES, env=env, port=port):
            for kind in ("sse", "websocket", "poll"):
                tabs[kind] = await open_tab(nginx.port)
                await tabs[kind].start([user], transports=[kind])
                await tabs[kind].open()
            await site.publish(1, 2, topic=user)
            for tab in tabs.values():
                await tab.received(2)
        for tab in tabs.values():  # at least one try ends with a 502
            await tab.until(
                "seen.status.filter(s => s.status === 'waiting').length >= 2", hurry=True
            )
        with ServerProcess("uvicorn", PAGES, env=env, port=port):
            await site.publish(3, topic=user)
            for tab in tabs.values():
                assert await tab.received(3, hurry=True) == [1, 2, 3]
                assert await tab.seen("gap") == []


async def test_both_ends_of_the_order_are_the_callers(site, user, open_tab):
    """`transports` is an order: an unnamed transport is not tried, a failing one is skipped."""
    with Nginx(site.port, HOST_HEADER) as nginx:
        tab = await open_tab(nginx.port)
        await tab.start([user], transports=["websocket", "poll"], firstFrameTimeout=FIRST_FRAME)
        await tab.open("poll")
        assert "/stream" not in tried(await site.requests(user))
        await asyncio.wait_for(site.publish("here", topic=user), 5)
        assert await tab.received(1) == ["here"]
