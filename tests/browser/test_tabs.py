"""One stream per browser: tabs that share it over HTTP/1.1, and tabs that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.browser.tab import Site, Tab
from tests.support.polling import wait_until
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(60)]

PLAIN = "fetch('/plain', { signal: AbortSignal.timeout(3000) }).then(r => r.text())"


async def shared_tabs(open_tab, site, topics: list[str], count: int) -> list[Tab]:
    """Open `count` tabs of one browser that share a stream."""
    tabs = []
    for _ in range(count):
        tab = await open_tab(site.port)
        await tab.start(topics, shared=True)
        tabs.append(tab)
    for tab in tabs:
        await tab.open()
    return tabs


async def test_eight_tabs_share_one_connection(site, user, open_tab):
    """Over HTTP/1.1 a browser has six connections: eight tabs need one, and fetch still works."""
    tabs = await shared_tabs(open_tab, site, [user], 8)
    assert len(await site.connections(user)) == 1
    assert await tabs[7].run(PLAIN) == "plain"
    await site.publish(*range(20), topic=user)
    for tab in tabs:
        assert await tab.received(20) == list(range(20))
        assert await tab.seen("errors") == []
    assert len(await site.requests(user, "/stream")) == 1


async def test_two_clients_of_one_page_share_as_two_tabs_do(site, user, open_tab):
    """Each client gets all messages once, also when the one that leads is closed."""
    tab = await open_tab(site.port)
    await tab.start([user], shared=True)
    await tab.open()
    begin = """async ([name, topic, shared]) => {
        const { connect } = await import("/live/client.js");
        const live = connect("/live", { topics: [topic], shared });
        const got = [];
        live.on("*", (data) => got.push(data));
        window[name] = { live, got };
    }"""
    for name, shared in (("second", True), ("alone", False)):
        await tab.run(begin, [name, user, shared])
        await tab.until(f"{name}.live.status === 'open'")
    assert len(await site.connections(user)) == 2
    await site.publish(*range(20), topic=user)
    assert await tab.received(20) == list(range(20))
    await tab.run("live.close()")
    await site.publish(*range(20, 40), topic=user)
    for name in ("second", "alone"):
        await tab.until(f"{name}.got.length >= 40")
        assert await tab.run(f"{name}.got") == list(range(40))


@asynccontextmanager
async def steady(site: Site, topic: str) -> AsyncIterator[list[int]]:
    """Publish 0, 1, 2 … all the time; yields the list of the published numbers."""
    numbers: list[int] = []
    over = False

    async def go_on() -> None:
        while not over:
            await site.publish(len(numbers), topic=topic)
            numbers.append(len(numbers))

    task = asyncio.create_task(go_on())
    try:
        yield numbers
    finally:
        over = True
        await task


async def check_all(tabs: list[Tab], numbers: list[int]) -> None:
    """Each tab has each number once, in order, and no gap."""
    for tab in tabs:
        assert await tab.received(len(numbers)) == numbers
        assert await tab.seen("gap") == []
        assert await tab.seen("errors") == []


@pytest.mark.parametrize("how", ["end", "close", "navigate", "crash"])
async def test_a_leader_that_leaves_costs_no_tab_a_message(how, site, user, open_tab):
    """Tabs leave one after the other during the stream; the others miss and repeat nothing."""
    tabs = await shared_tabs(open_tab, site, [user], 3)
    async with steady(site, user) as numbers:
        for leaving in tabs[:2]:
            await leaving.received(len(numbers) + 10)
            if how == "end":
                await leaving.run("live.close()")
            elif how == "close":
                await leaving.close()
            elif how == "navigate":
                await leaving.page.goto("about:blank")
            else:
                cdp = await leaving.page.context.new_cdp_session(leaving.page)
                crashed = leaving.page.wait_for_event("crash")
                crashing = asyncio.ensure_future(cdp.send("Page.crash"))
                await crashed
                crashing.cancel()
        await tabs[2].received(len(numbers) + 10)
    await check_all(tabs[2:], numbers)
    assert len(await site.requests(user, "/stream")) >= 3


async def test_a_cut_is_resumed_for_all_tabs(site, user, open_tab):
    """One reconnect of the leader serves all; none of them sees a gap or a repetition."""
    async with Proxy(site.port) as proxy:
        tabs = await shared_tabs(open_tab, Site(proxy.port), [user], 3)
        await site.publish(*range(10), topic=user)
        await tabs[0].received(5)
        proxy.cut()
        await site.publish(*range(10, 20), topic=user)
        for tab in tabs:
            await tab.received(20, hurry=True)
        await check_all(tabs, list(range(20)))
        assert len(await site.connections(user)) == 1


async def test_each_tab_gets_its_own_topics(site, user, open_tab):
    """Tabs with different topics share the stream; a tab gets its own topics only."""
    a, b, c = (f"{user}.{name}" for name in "abc")
    first, second = await open_tab(site.port), await open_tab(site.port)
    await first.start([a], shared=True)
    await first.open()
    await second.start([b], shared=True)
    await second.open()
    assert await second.run("topic => live.subscribe(topic).then(r => r.accepted)", c) == [c]
    assert len(await site.connections(user)) == 1
    for topic in (a, b, c):
        await site.publish(topic, topic=topic)
    assert await first.received(1) == [a]
    assert await second.received(2) == [b, c]
    await second.run("topic => live.unsubscribe(topic)", b)
    await site.publish("late", topic=b)
    await site.publish("later", topic=c)
    assert await second.received(3) == [b, c, "later"]
    assert await first.seen("messages") == await first.run("seen.messages.slice(0, 1)")


async def test_a_tab_that_leaves_takes_its_topics_along(site, user, open_tab):
    """The topic of a closed tab is unsubscribed at the server; the other topics stay."""
    a, b = f"{user}.a", f"{user}.b"
    first, second = await open_tab(site.port), await open_tab(site.port)
    await first.start([a], shared=True)
    await first.open()
    await second.start([b], shared=True)
    await second.open()
    await second.run("live.close()")

    async def one_topic() -> bool:
        # Beside the personal topic.
        return [entry["topics"] for entry in await site.connections(user)] == [2]

    await wait_until(one_topic)
    await site.publish("still", topic=a)
    assert await first.received(1) == ["still"]


async def test_a_tab_that_comes_later_starts_from_then_on(site, user, open_tab):
    """A second tab gets the messages that are published after it is open, and no earlier one."""
    [first] = await shared_tabs(open_tab, site, [user], 1)
    await site.publish("before", topic=user)
    await first.received(1)
    [second] = await shared_tabs(open_tab, site, [user], 1)
    await site.publish("after", topic=user)
    assert await second.received(1) == ["after"]
    assert await first.received(2) == ["before", "after"]
