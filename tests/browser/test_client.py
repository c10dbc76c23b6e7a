"""The browser client on a stable link: delivery, acknowledgements, positions and events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.conftest import PAGES
from tests.browser.tab import Site, Tab
from tests.support import ServerProcess
from tests.support.polling import wait_until
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(60)]

TRANSPORTS = ["sse", "websocket", "poll"]
PRIORITIES = ["CRITICAL", "HIGH", "NORMAL", "LOW"]

THREE_LINES = """
import { connect } from "/live/client.js";
const live = connect("/live", { topics: ["orders"] });
live.on("orders", (data, message) => seen.messages.push(message));
window.live = live;
"""


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn", "granian"])
async def test_three_lines_go_live(kind, user, open_tab):
    """The three lines of the README are all that a page needs, on each of the servers."""
    with ServerProcess(kind, PAGES) as server:
        tab = await open_tab(server.port)
        await tab.page.add_script_tag(type="module", content=THREE_LINES)
        await tab.until("window.live && live.status === 'open'")
        await Site(server.port).publish({"id": 7}, topic="orders", key="7")
        await tab.received(1)
        [message] = await tab.seen("messages")
        assert message["topic"] == "orders"
        assert message["data"] == {"id": 7}
        assert message["priority"] == "normal"
        assert message["key"] == "7"
        assert message["timestamp"] > 1.7e9
        assert message["id"] == await tab.run("live.position")
        await tab.page.close()  # granian waits for open streams


async def test_a_page_loads_at_most_seven_kilobytes(site, open_tab):
    """A real browser gets the client compressed, and nothing else of it by default."""
    tab = await open_tab(site.port)
    await tab.start()
    await tab.open()
    loaded = await tab.run(
        """() => performance.getEntriesByType("resource")
            .filter(({ name }) => name.endsWith("js"))
            .map(({ name, encodedBodySize, decodedBodySize }) =>
                [new URL(name).pathname, encodedBodySize, decodedBodySize])"""
    )
    [(path, compressed, plain)] = loaded
    assert path == "/live/client.js"
    assert compressed <= 7_000 < plain


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_transport_delivers_the_same(transport, site, user, open_tab):
    """All values, topics, patterns and priorities arrive unchanged over each transport alone."""
    tab = await open_tab(site.port)
    await tab.start(["a", f"{user}.*"], transports=[transport])
    await tab.open(transport)
    large = "é\U0001f600" * 50_000  # comes in many pieces, which end inside characters
    values = [{"n": 1}, [1, 2.5], "Grüße \u2028 \r\n", large, None, False, 0, ""]
    await site.publish(*values, topic=f"{user}.values")
    await tab.received(len(values))
    for number, priority in enumerate(PRIORITIES):
        await site.publish(number, topic=f"{user}.{priority}", priority=priority)
    await tab.received(len(values) + len(PRIORITIES))  # or what comes next overtakes the LOW one
    await site.publish("nobody's", topic=f"{user}.values.deeper")
    await site.publish("mine", topic="$user", to_user=user)
    got = await tab.received(len(values) + len(PRIORITIES) + 1)
    seen = await tab.seen("messages")
    assert got == [*values, 0, 1, 2, 3, "mine"]
    assert [m["priority"].upper() for m in seen[len(values) : -1]] == PRIORITIES
    assert seen[-1]["topic"] == "$user"
    assert len({m["id"] for m in seen}) == len(seen)
    assert await tab.seen("errors") == []


async def test_handlers_get_the_messages_of_their_topic(site, user, open_tab):
    """Handlers of a topic and of patterns are called; a handler that was removed is not."""
    tab = await open_tab(site.port)
    await tab.start([f"{user}.**"], transports=["sse"])
    await tab.open()
    await tab.run(
        """user => {
            window.got = { exact: [], one: [], deep: [], off: [] };
            live.on(`${user}.a`, data => got.exact.push(data));
            live.on(`${user}.*`, data => got.one.push(data));
            live.on(`${user}.**`, data => got.deep.push(data));
            live.on(`${user}.a`, data => got.off.push(data))();
        }""",
        user,
    )
    for topic in ("a", "b", "a.b"):
        await site.publish(topic, topic=f"{user}.{topic}")
    await tab.received(3)
    got = await tab.run("window.got")
    assert got == {"exact": ["a"], "one": ["a", "b"], "deep": ["a", "b", "a.b"], "off": []}


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_slow_handler_holds_messages_back_at_the_server(transport, site, user, open_tab):
    """The window moves with the acknowledgements, so the server holds unhandled messages back."""
    tab = await open_tab(site.port)
    await tab.start([user], transports=[transport])
    await tab.open(transport)
    await site.publish("first", topic=user)
    await tab.received(1)

    await tab.run("() => { hold = new Promise(go => { window.release = go; }); }")
    for _ in range(8):
        await site.publish(*["x" * 1000] * 50, topic=user)

    async def held() -> bool:
        [connection] = await site.connections(user)
        assert connection["unacknowledged"] is not None  # or there would be no window
        return not connection["live"]  # messages wait for room

    await wait_until(held)
    [connection] = await site.connections(user)
    assert connection["frames_sent"] < 100
    assert len(await tab.seen("messages")) == 1
    await tab.run("release()")
    await tab.received(401)
    assert await tab.seen("gap") == []


async def test_a_critical_message_overtakes_what_is_held_back(site, user, open_tab):
    """While a handler is slow, an urgent message is sent before those that wait at the server."""
    tab = await open_tab(site.port)
    await tab.start([user], transports=["websocket"])
    await tab.open()
    await tab.run("() => { hold = new Promise(go => { window.release = go; }); }")
    for _ in range(4):
        await site.publish(*["x" * 1000] * 50, topic=user, priority="LOW")
    await site.publish("urgent", topic=user, priority="CRITICAL")
    await tab.run("release()")
    got = await tab.received(201)
    assert got.index("urgent") < 150


async def test_topics_come_and_go_while_it_is_open(site, user, open_tab):
    """`subscribe` and `unsubscribe` take effect at once, and return the accepted topics."""
    a, b = f"{user}.a", f"{user}.b"
    for transport in TRANSPORTS:
        tab = await open_tab(site.port)
        await tab.start([a], transports=[transport])
        await tab.open(transport)
        await site.publish("early", topic=b)
        answer = await tab.run("topics => live.subscribe(...topics)", [b, "secret.plans"])
        assert answer["accepted"] == [b]
        assert answer["rejected"] == ["secret.plans"]
        await site.publish("b1", topic=b)
        await tab.received(1)
        await tab.run("topic => live.unsubscribe(topic)", a)
        await site.publish("a1", topic=a)
        await site.publish("b2", topic=b)
        assert await tab.received(2) == ["b1", "b2"]
        assert set(await tab.run("[...live.topics]")) - {"secret.plans"} == {b}
        assert await tab.seen("errors") == []
        await tab.close()


async def test_a_rejected_topic_is_reported(site, user, open_tab):
    """A topic that the user may not read causes a `rejected` event; the others continue."""
    tab = await open_tab(site.port)
    await tab.start([user, "secret.plans"])
    await tab.open()
    await site.publish("a secret", topic="secret.plans")
    await site.publish("no secret", topic=user)
    assert await tab.received(1) == ["no secret"]
    rejected = await tab.seen("rejected")
    assert [event["topics"] for event in rejected] == [["secret.plans"]]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_it_begins_where_the_page_was_rendered(transport, site, user, open_tab):
    """A message that is published between the rendering and the connection is not missed."""
    await site.publish("before", topic=user)
    position = await site.position(user, user)
    await site.publish("between", topic=user)
    tab = await open_tab(site.port)
    await tab.start([user], position=position, transports=[transport])
    await tab.open()
    await site.publish("after", topic=user)
    assert await tab.received(2) == ["between", "after"]
    assert await tab.seen("gap") == []
    assert await tab.seen("resumed") == [{"replay": 1}]


@pytest.mark.parametrize("stream", [*TRANSPORTS, "shared"])
async def test_it_keeps_its_position_over_a_reload(stream, site, user, open_tab):
    """After a reload, `persist` continues at the position of the page, and nothing is lost."""
    tab = await open_tab(site.port)
    options = {"persist": "here", "shared": stream == "shared"}
    if stream in TRANSPORTS:
        options["transports"] = [stream]
    await tab.start([user], **options)
    await tab.open()
    await site.publish(1, 2, topic=user)
    assert await tab.received(2) == [1, 2]
    await tab.page.goto("about:blank")
    await site.publish(3, 4, topic=user)
    await tab.page.goto(f"http://127.0.0.1:{site.port}/")
    await tab.until("window.ready")
    await tab.start([user], **options)
    await site.publish(5, topic=user)
    assert await tab.received(3) == [3, 4, 5]
    assert await tab.seen("gap") == []


async def test_a_closed_client_stays_closed(site, user, open_tab):
    """After `close` the server has no connection of the client, and no event reconnects it."""
    for transport in TRANSPORTS:
        tab = await open_tab(site.port)
        await tab.start([user], transports=[transport])
        await tab.open()

        async def waits() -> bool:
            return [each["path"] for each in await site.requests(user)].count("/poll") > 1

        if transport == "poll":
            await wait_until(waits)  # or what is under way would be noted after the end
        await tab.run("live.close()")

        async def gone() -> bool:
            return not await site.connections(user)

        if transport != "poll":  # its connection outlives it at the server, for a while
            await wait_until(gone)
        asked = len(await site.requests(user))
        await tab.run("window.dispatchEvent(new Event('online'))")
        await site.publish("unheard", topic=user)
        assert await tab.run("live.status") == "closed"
        assert len(await site.requests(user)) == asked
        assert await tab.seen("messages") == []
        await tab.close()


async def test_a_gap_has_cause_count_and_topic(user, open_tab):
    """A client that returns after the history was trimmed gets a gap with all three."""
    env = {"HOLDFAST_OPTIONS": json.dumps({"history_limit": 3})}
    with ServerProcess("uvicorn", PAGES, env=env) as server:
        site, tab = Site(server.port), await open_tab(server.port)
        await tab.start([user], persist="here")
        await tab.open()
        await site.publish(0, topic=user)
        await tab.received(1)
        await tab.page.goto("about:blank")
        await site.publish(*range(1, 9), topic=user)
        await tab.page.goto(f"http://127.0.0.1:{site.port}/")
        await tab.until("window.ready")
        await tab.start([user], persist="here")
        assert await tab.received(3) == [6, 7, 8]
        gaps = await tab.seen("gap")
        assert all(gap["cause"] == "trimmed" and gap["count"] == 5 for gap in gaps)
        assert [gap["topics"] for gap in gaps if gap.get("priority")] == [[user]]
        assert len(gaps) == 2  # the first frame's, and the one in its place


async def test_a_handler_that_fails_stops_nothing(site, user, open_tab):
    """The page sees an error that a handler throws or rejects with; the others continue."""
    tab = await open_tab(site.port)
    await tab.start([user])
    await tab.run(
        """topic => {
            live.on(topic, () => { throw new Error("at once"); });
            live.on(topic, async () => { throw new Error("later"); });
            live.on(topic, (data) => { (window.after ??= []).push(data); });
        }""",
        user,
    )
    await tab.open()
    await site.publish(1, 2, topic=user)
    assert await tab.received(2) == [1, 2]
    await tab.until("window.after?.length === 2")
    assert await tab.seen("errors") == ["at once", "later"] * 2
    assert await tab.run("live.status") == "open"


async def test_a_duplicated_tab_goes_on_by_itself(site, user, open_tab):
    """A tab with a copy of the kept position ends no other tab, and misses nothing."""
    tab = await open_tab(site.port)
    await tab.start([user], persist="here")
    await tab.open()
    await site.publish(1, topic=user)
    await tab.received(1)
    async with tab.page.expect_popup() as opening:
        await tab.run("() => { window.open('/'); }")
    double = Tab(await opening.value, user)
    await double.until("window.ready")
    await site.publish(2, topic=user)
    await double.start([user], persist="here")
    await double.open()
    await site.publish(3, topic=user)
    assert await double.received(2) == [2, 3]
    assert await tab.received(3, hurry=True) == [1, 2, 3]
    assert await tab.seen("gap") == await double.seen("gap") == []


async def test_a_page_of_another_origin(site, user, open_tab):
    """From an allowed origin all transports work, by cookie or by token, and resume."""
    env = {"HOLDFAST_ORIGINS": f"http://127.0.0.1:{site.port}"}
    with ServerProcess("uvicorn", PAGES, env=env) as server:
        other = Site(server.port)
        async with Proxy(server.port) as proxy:
            url, tabs = f"http://127.0.0.1:{proxy.port}/live", []
            logins: tuple[dict[str, Any], ...]
            logins = ({"credentials": "include"}, {"tokens": [user]}, {"tokens": [user]})
            for transport, login in zip(TRANSPORTS, logins, strict=True):
                tab = await open_tab(site.port, user=None if "tokens" in login else user)
                await tab.start([user], url=url, transports=[transport], **login)
                tabs.append(tab)
            for tab in tabs:
                await tab.open()
            await other.publish(*["x" * 1000] * 40, topic=user)
            for tab in tabs:
                await tab.received(40)
            proxy.cut()
            await other.publish("after", topic=user)
            for tab in tabs:
                assert (await tab.received(41, hurry=True))[40] == "after"
                assert await tab.seen("gap") == []
                assert await tab.run("t => live.subscribe(t)", f"{user}.b") == {
                    "accepted": [f"{user}.b"],
                    "rejected": [],
                }
