"""The endpoints of the "Break it" panels, and the numbers that prove the delivery."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.dashboard.alerts import Alert
from examples.dashboard.link import StoppableLinks
from examples.dashboard.login import Login
from examples.dashboard.requests import small_body
from holdfast import Broadcaster, Priority

TICK_INTERVAL = 0.25
FLOOD_MESSAGES = 20_000
FLOOD_SLICE = 50  # half of HISTORY_LIMIT, so that a reader that keeps up loses nothing
FLOOD_PAUSE = 0.003
FLOOD_TEXT = "x" * 500


async def tick(broadcaster: Broadcaster) -> None:
    """Publish 1, 2, 3, … without end, with or without subscribers.

    The messages have no key, so each number counts. A page that was away must get the numbers of
    that time, too. `Broadcaster.periodic` does not publish them: it pauses without a subscriber.
    """
    n = 0
    while True:
        n += 1
        await broadcaster.publish("ticks", {"n": n})
        await asyncio.sleep(TICK_INTERVAL)


class Demo:
    """The endpoints under ``/demo``."""

    def __init__(self, broadcaster: Broadcaster, links: StoppableLinks) -> None:
        self._broadcaster = broadcaster
        self._links = links
        self._flooding = False
        self._flooded = 0

    def routes(self, login: Login) -> list[Route]:
        """Return all routes, each guarded by the login."""
        endpoints = {
            "cut": self.cut,
            "flood": self.flood,
            "alert": self.alert,
            "stop": self._links.stop,
            "go": self._links.go,
        }
        return [
            Route(f"/{name}", login.required(endpoint), methods=["POST"])
            for name, endpoint in endpoints.items()
        ]

    async def cut(self, request: Request) -> Response:
        """End one connection from the server's side, as a proxy or a deploy would."""
        body = await small_body(request)
        found = body is not None and self._broadcaster.disconnect(body)
        return JSONResponse({"cut": found}, status_code=200 if found else 404)

    async def flood(self, request: Request) -> Response:
        """Publish a flood in the lowest lane, in slices with a pause after each."""
        if self._flooding:
            return JSONResponse({"error": "a flood is already running"}, status_code=409)
        self._flooding = True
        started = time.monotonic()
        try:
            for count in range(1, FLOOD_MESSAGES + 1):
                self._flooded += 1
                data = {"n": self._flooded, "text": FLOOD_TEXT}
                await self._broadcaster.publish("flood", data, priority=Priority.LOW)
                if count % FLOOD_SLICE == 0:
                    await asyncio.sleep(FLOOD_PAUSE)
        finally:
            self._flooding = False
        seconds = round(time.monotonic() - started, 2)
        return JSONResponse({"published": FLOOD_MESSAGES, "seconds": seconds})

    async def alert(self, request: Request) -> Response:
        """Publish a test alert, which overtakes all waiting messages."""
        alert = Alert(source="test", state="test", text="This is a test alert")
        await self._broadcaster.publish("alerts", asdict(alert), priority=Priority.CRITICAL)
        return JSONResponse({"published": 1})
