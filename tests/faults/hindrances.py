"""What keeps a client from reading, or its link from carrying, without ending it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .clients import Client


def stall(client: Client) -> None:
    """Read nothing for a while."""
    link = client.link
    if link is None or link.ended.done() or client.was_cut is not None:
        return
    client.held, client.was_cut = True, "stalled"
    client.site.ledger.happened["stalled readers"] += 1
    link.pause()

    async def go_on() -> None:
        await asyncio.sleep(client.rng.uniform(0.5, 5))
        link.resume()
        if client.link is link and client.was_cut == "stalled":
            client.held, client.was_cut = False, None
            inbox, now = client.inbox, asyncio.get_running_loop().time()
            inbox.heard_at = now
            if inbox.good_since is not None:
                inbox.good_since = now

    client.do(go_on())


def swallow(client: Client) -> None:
    """Half-open: nothing arrives any more; come back before the server has noticed."""
    assert client.proxy is not None
    client.held = True
    for link in client.proxy.links:
        link.swallow()
    client.later(client.rng.uniform(0, 2), lambda: client.cut("half-open"))
