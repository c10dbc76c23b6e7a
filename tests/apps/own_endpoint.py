"""An application with an endpoint of its own, and without LiveApp."""

from __future__ import annotations

from typing import Any

from holdfast import Broadcaster
from holdfast.transports import sse

broadcaster = Broadcaster()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Run the Broadcaster in the lifespan, and serve one event stream at every path."""
    if scope["type"] == "lifespan":
        await receive()
        async with broadcaster:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    async with broadcaster.connect(topics=["t"]) as connection:
        await sse.serve(connection, scope, receive, send)
