"""The dashboard in a real browser: numbers move, and no cut loses or repeats one."""

from __future__ import annotations

import pytest

from tests.support.proxy import Proxy

pytestmark = [pytest.mark.xdist_group("dashboard"), pytest.mark.timeout(180)]

CUTS = 5

# The usual code around EventSource, which also records the types and the tokens.
PLAIN_EVENT_SOURCE = """
topics => {
  window.seen = { numbers: [], sessions: [], gaps: 0, others: {} };
  window.source = new EventSource(`/live/stream?metrics=${topics}`);
  window.source.onmessage = event => {
    const frame = JSON.parse(event.data);
    if (frame.type === 'connection_established') window.seen.sessions.push(frame.data);
    else if (frame.type === 'gap') window.seen.gaps += 1;
    else if (frame.topic === 'ticks') window.seen.numbers.push(frame.data.n);
    else if (frame.topic) window.seen.others[frame.topic] = frame.data;
  };
}
"""

PLAIN_WEBSOCKET = """
topics => new Promise((done, fail) => {
  const types = [];
  const socket = new WebSocket(`ws://${location.host}/live/websocket?topics=${topics}`);
  socket.onerror = fail;
  socket.onmessage = event => {
    const frame = JSON.parse(event.data);
    types.push(frame.type);
    if (frame.type === 'message') { socket.close(); done({ types, frame }); }
  };
})
"""


async def test_every_number_arrives_once_across_cuts(dashboard, browser, log_in):
    """The browser's own reconnect, with no code of ours, resumes without loss, five times over."""
    async with Proxy(dashboard) as proxy:
        page = await log_in(browser, proxy.port)
        await page.evaluate(PLAIN_EVENT_SOURCE, "ticks")
        await page.wait_for_function("window.seen.numbers.length >= 3")
        for cut in range(1, CUTS + 1):
            count = await page.evaluate("window.seen.numbers.length")
            assert proxy.cut() > 0
            await page.wait_for_function(
                f"window.seen.sessions.length > {cut} && window.seen.numbers.length > {count} + 2"
            )
        seen = await page.evaluate("window.seen")
        await page.wait_for_function("document.querySelector('#state').dataset.state === 'live'")
        counts = await page.evaluate(
            "Object.fromEntries([...document.querySelectorAll('[data-count]')]"
            ".map(e => [e.dataset.count, Number(e.textContent.replace(/[^0-9]/g, ''))]))"
        )

    numbers = seen["numbers"]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [session["session"] for session in seen["sessions"]] == ["fresh"] + ["resumed"] * CUTS
    assert seen["gaps"] == 0
    assert counts["duplicated"] == counts["silent"] == counts["declared"] == 0
    assert counts["replayed"] > 0
    assert counts["delivered"] > 2 * CUTS


async def test_the_page_shows_this_machine_live(dashboard, browser, log_in):
    """After the login, the cards of CPU, memory, disk and network show numbers that move."""
    page = await log_in(browser, dashboard)
    await page.wait_for_function("document.querySelector('#state').dataset.state === 'live'")
    delivered = "Number(document.querySelector('[data-count=delivered]').textContent)"
    await page.wait_for_function(f"{delivered} > 3")
    await page.wait_for_function("document.querySelectorAll('#processes tr').length > 2")
    text = await page.inner_text("body")
    for card in ("CPU", "Memory", "Disk", "Network", "Processes", "Alerts"):
        assert card in text
    before = await page.evaluate(delivered)
    await page.wait_for_function(f"{delivered} > {before} + 3")


async def test_the_plain_snippets_of_any_user_work(dashboard, browser, log_in):
    """EventSource with `metrics=` and WebSocket read the same frames with JSON.parse."""
    page = await log_in(browser, dashboard)
    await page.evaluate(PLAIN_EVENT_SOURCE, "dashboard,users")
    await page.wait_for_function(
        "'dashboard' in window.seen.others && 'users' in window.seen.others"
    )
    seen = await page.evaluate("window.seen")
    assert len(seen["sessions"][0]["reconnectToken"]) >= 22
    over_websocket = await page.evaluate(PLAIN_WEBSOCKET, "ticks")
    assert over_websocket["types"][0] == "connection_established"
    assert over_websocket["frame"]["topic"] == "ticks"
    assert over_websocket["frame"]["id"]


async def test_nobody_gets_in_without_the_role(dashboard, browser):
    """Without the login there is no stream, and the page leads to the login."""
    page = await (await browser.new_context()).new_page()
    await page.goto(f"http://127.0.0.1:{dashboard}/")
    assert page.url.endswith("/login")
    status = await page.evaluate("fetch('/live/stream?topics=ticks').then(r => r.status)")
    assert status == 401


async def test_a_phone_needs_no_horizontal_scroll(dashboard, browser, log_in):
    """At 390 pixels nothing is wider than the screen, in light and in dark."""
    for scheme in ("light", "dark"):
        page = await log_in(
            browser, dashboard, viewport={"width": 390, "height": 844}, color_scheme=scheme
        )
        await page.wait_for_function("document.querySelector('#state').dataset.state === 'live'")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        await page.context.close()
