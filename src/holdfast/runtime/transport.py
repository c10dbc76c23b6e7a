"""What the transports share: the types of ASGI 3.0, and how their two directions run together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .outbox import Outbox

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

FINISH_TIMEOUT = 2.0
"""Seconds for the last send: hypercorn never ends it over HTTP/2 when the client has gone."""


async def converse(
    outbox: Outbox, listening: Coroutine[Any, Any, None], sending: Coroutine[Any, Any, None]
) -> None:
    """Run both directions of a connection, `listening` in a task of its own.

    The end of one ends the other, whatever it waits for, and so does `outbox.abort`. One task
    always sits in `receive`: after the client has gone, `send` succeeds silently on every server.
    """
    listener = asyncio.get_running_loop().create_task(listening)
    life = asyncio.timeout(None)  # a deadline that can be moved to now
    try:
        async with life:
            outbox.abort = partial(_end, life)
            listener.add_done_callback(outbox.abort)
            await sending
    except TimeoutError:
        if not life.expired():
            raise
    finally:
        if not listener.done():
            listener.cancel()
            await asyncio.wait([listener])
    if not listener.cancelled():
        listener.result()


def _end(life: asyncio.Timeout, _: object = None) -> None:
    with suppress(RuntimeError):  # it has ended already
        life.reschedule(0.0)
