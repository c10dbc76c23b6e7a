"""GET /poll: long polling, for clients behind what lets no stream through."""

from __future__ import annotations

import asyncio
import json
import random
import re

from ..asgi_types import Receive, Send
from ..auth import Request
from ..core.connection import State
from ..errors import BroadcasterFailed, Refused
from ..runtime.broadcaster import Broadcaster
from ..runtime.connection import Outbox
from ..runtime.frames import Frame
from ..transports import websocket
from ..transports.duplex import DuplexScope, until_gone
from .access import Access, failed, presented
from .http import Header, answer, error_body
from .stream import PREFETCH_HEADERS

LONGEST_WAIT = 25.0
"""Seconds that a poll waits for frames; proxies give up on a silent answer after 30 to 60."""

PAUSE = 0.01
"""Seconds without another frame after which what has been gathered is answered."""

LINGER = 0.1
"""Seconds after which it is answered though more keeps coming."""

DEGRADED_WAIT = 5.0
"""Seconds that a poll waits at least that can but say `degraded`: or polls would follow each other
as fast as the network allows, of all clients, while the store behind the server is in trouble."""

ANSWER_BYTES = 256 * 1024
"""About so much goes into one answer; the rest is for the next poll."""

_SECONDS = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,6})?", re.ASCII)


class Polls:
    """The long polling endpoint: a resume that waits.

    The connection has ended, and its session waits for the next poll, *before* the answer leaves.
    So the next poll takes nothing over, and whoever never got the answer presents the id from
    before it again: the token of that is the previous one, good within its grace time.
    """

    def __init__(self, broadcaster: Broadcaster, access: Access) -> None:
        self._broadcaster = broadcaster
        self._access = access

    async def serve(
        self, request: Request, cors: list[Header], receive: Receive, send: Send
    ) -> None:
        """Authenticate, connect, gather frames, answer; raises `Refused` for what cannot work."""
        request.check_query()
        wait = _wait(request)
        try:
            user = await self._access.user(request, "poll")
            if request.method == "HEAD" or any(h in request.headers for h in PREFETCH_HEADERS):
                # Nothing is consumed: whoever only looks must not use up a token.
                await answer(send, 200, {"frames": []}, cors, head=request.method == "HEAD")
                return
            last_event_id, token = presented(request)
            frames = list[Frame]()
            async with self._access.connect(
                request, user, "poll", last_event_id=last_event_id, token=token
            ) as outbox:
                async with DuplexScope(outbox, until_gone(receive, outbox)):
                    await _gather(outbox, wait, frames)
                is_gone = outbox.connection.state is State.CLOSED
        except Refused as error:
            if error.status != 503:
                raise
            await _come_back(error, cors, send)
        except BroadcasterFailed:
            await _come_back(failed(), cors, send)
        else:
            if not is_gone:
                await _answer(frames, cors, send)


def _wait(request: Request) -> float:
    """The seconds that the field `wait` asks for, at most `LONGEST_WAIT`."""
    text = request.query.get("wait")
    if text is None:
        return LONGEST_WAIT
    if _SECONDS.fullmatch(text) is None:
        raise Refused("invalid_query", '"wait" must be a number of seconds', status=400)
    return min(LONGEST_WAIT, float(text))


async def _gather(outbox: Outbox, wait: float, frames: list[Frame]) -> None:
    """Fill `frames`: the first one, and what is pending; for a resumed session, wait for some.

    A fresh one, or one with a gap, is not made to wait: the client is to know at once.
    """
    first = await outbox.next()
    if first is None:
        return
    frames += first
    outbox.sent()
    hello, *others = [json.loads(frame.body) for frame in first]
    patience = wait if hello.get("data", {}).get("session") == "resumed" else 0.0
    if others:
        is_degraded = all(other["type"] == "degraded" for other in others)
        patience = min(patience, DEGRADED_WAIT) if is_degraded else 0.0
    clock = asyncio.get_running_loop().time
    size, until = 0, clock() + max(patience, PAUSE)
    while size < ANSWER_BYTES:
        try:
            async with asyncio.timeout_at(until if not size else min(until, clock() + PAUSE)):
                more = await outbox.next()
        except TimeoutError:
            return
        if more is None:
            return
        if not size:
            until = clock() + LINGER
        frames += more
        outbox.sent()
        size += sum(len(frame.body) for frame in more)


async def _answer(frames: list[Frame], cors: list[Header], send: Send) -> None:
    body = f'{{"frames":[{",".join(map(websocket.encode, frames))}]}}'.encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
        *cors,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _come_back(error: Refused, cors: list[Header], send: Send) -> None:
    """Say when, with jitter, so that they do not all come back together."""
    seconds = str(random.randint(2, 10)).encode()  # noqa: S311 - jitter
    await answer(send, 503, error_body(error), [(b"retry-after", seconds), *cors])
