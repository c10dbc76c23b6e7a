"""Real Chromium; the dashboard as its README starts it; the page that imports the client."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.tab import Site, Tab
from tests.support import ServerProcess, require
from tests.support.processes import free_port, wait_listening

PASSWORD = "correct horse battery staple"
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
ROOT = Path(__file__).parents[2]
PAGES = "tests.apps.pages:app"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def dashboard() -> Iterator[int]:
    """The port of a running dashboard, the same for all of its tests."""
    port = free_port()
    environment = os.environ | {"DASHBOARD_PASSWORD": PASSWORD}
    command = [sys.executable, "-m", "examples.dashboard", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            wait_listening(port, alive=lambda: process.poll() is None)
            yield port
        finally:
            process.terminate()
            try:
                # uvicorn ends its streams, then lets the signal do what it does by default.
                assert process.wait(3) in (0, -signal.SIGTERM)
            finally:
                process.kill()


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Any]:
    """A real Chromium, the same for all tests of a file.

    Not of the session: the event loop of an asynchronous fixture is that of every test that runs
    meanwhile, and those whose time is virtual need another.
    """
    executable = require(
        module="playwright",
        executable=["chromium", "chromium-browser", "google-chrome"],
        reason="the page runs in a real browser",
    )
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=CHROMIUM)
        yield browser
        await browser.close()


@pytest.fixture
async def browser(chromium) -> AsyncIterator[Any]:
    """The browser; what a test opened in it is closed at its end."""
    yield chromium
    for context in chromium.contexts:
        await context.close()


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A server of the pages that every test may use which leaves it as it is."""
    with ServerProcess("uvicorn", PAGES) as server:
        yield Site(server.port)


@pytest.fixture
def user() -> str:
    """A name that no other test has."""
    return f"user{next(_numbers)}"


@pytest.fixture
def open_tab(browser, user) -> Callable[..., Awaitable[Tab]]:
    """A function that opens the page at a port in a new tab, as this test's user.

    Tabs of one test share a context: cookies, storage, and the six connections of HTTP/1.1. If
    `user` is None, no user is logged in.
    """
    contexts: dict[str | None, Any] = {}

    async def open_tab(port: int, *, user: str | None = user) -> Tab:
        if user not in contexts:
            contexts[user] = await browser.new_context()
            if user is not None:
                cookie = {"name": "user", "value": user, "domain": "127.0.0.1", "path": "/"}
                await contexts[user].add_cookies([cookie])
        page = await contexts[user].new_page()
        page.set_default_timeout(15_000)
        await page.goto(f"http://127.0.0.1:{port}/")
        tab = Tab(page, user or "")
        await tab.until("window.ready || seen.errors.length")
        assert await tab.seen("errors") == []
        return tab

    return open_tab


@pytest.fixture
def log_in():
    """A function that opens the dashboard at a port in a new page, and returns the page."""

    async def log_in(browser, port: int, **context):
        page = await (await browser.new_context(bypass_csp=True, **context)).new_page()
        page.set_default_timeout(15_000)
        await page.goto(f"http://127.0.0.1:{port}/")
        await page.fill("input[name=username], input[name=user]", "admin")
        await page.fill("input[name=password]", PASSWORD)
        await page.click("button[type=submit]")
        await page.wait_for_selector("#state")
        return page

    return log_in
