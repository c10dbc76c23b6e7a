"""The application: pages, login, demo endpoints, and the live endpoints of holdfast."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from examples.dashboard import pages
from examples.dashboard.demo import Demo, tick
from examples.dashboard.link import StoppableLinks
from examples.dashboard.login import ALGORITHM, COOKIE, ROLE, Login
from examples.dashboard.settings import Settings
from examples.dashboard.sources import add_sources
from holdfast import Broadcaster, LiveApp, require_role
from holdfast.auth.jwt import JWTAuthenticator

# 100 ticks cover 25 seconds, so that an absence of 30 seconds shows a reported gap. The default
# keeps ten times as many messages.
HISTORY_LIMIT = 100


def create_app(settings: Settings) -> Starlette:
    """Build the dashboard; its Broadcaster runs for as long as the application does."""
    broadcaster = Broadcaster(history_limit=HISTORY_LIMIT)
    login = Login(settings)
    live = LiveApp(
        broadcaster,
        authenticate=JWTAuthenticator(
            settings.secret, algorithms=[ALGORITHM], role=ROLE, cookie=COOKIE
        ),
        authorize=require_role(ROLE),
    )
    links = StoppableLinks(live)
    add_sources(broadcaster)

    def dashboard(request: Request) -> Response:
        if login.user(request) is None:
            return RedirectResponse("/login", status_code=303)
        return pages.dashboard()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with broadcaster, asyncio.TaskGroup() as tasks:
            ticker = tasks.create_task(tick(broadcaster), name="ticks")
            yield
            ticker.cancel()

    return Starlette(
        routes=[
            Route("/", dashboard),
            Route("/login", login.page),
            Route("/login", login.log_in, methods=["POST"]),
            Route("/logout", login.log_out, methods=["POST"]),
            Mount("/demo", routes=Demo(broadcaster, links).routes(login)),
            Mount("/live", app=live),
            Mount("/slow", app=links),
            Mount("/static", app=StaticFiles(directory=pages.STATIC)),
        ],
        lifespan=lifespan,
    )
