"""The dashboard as its README starts it, and a page of real Chromium logged in to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support import require
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


@pytest.fixture
def dashboard() -> Iterator[int]:
    """The port of a running dashboard."""
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


@pytest.fixture
async def browser() -> AsyncIterator[object]:
    """A real Chromium."""
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
