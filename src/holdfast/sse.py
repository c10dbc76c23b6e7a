"""Server-Sent Events: one connection's frames as an event stream.

The format is WHATWG HTML, section 9.2 ("Server-sent events"). Every frame has `data` on one line
and `id` as its last field, so that a frame cut in half moves no parser past a message.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable

import anyio

from .core.connection import CloseReason
from .runtime.outbox import Frame, Outbox
from .runtime.transport import FINISH_TIMEOUT, Receive, Scope, Send

_logger = logging.getLogger("holdfast")

Header = tuple[bytes, bytes]

RETRY = (1.0, 3.0)
"""Seconds between which `retry` is drawn for each stream, so that clients do not return at once
together. Never 0: with that, Chromium reconnects in a loop without a pause."""


def encode(frames: Iterable[Frame]) -> bytes:
    """The frames as one chunk of the event stream."""
    return b"".join(
        [b"data: %b\nid: %b\n\n" % (frame.body, frame.id.encode("ascii")) for frame in frames]
    )


def headers(scope: Scope, *, token: str | None = None) -> list[Header]:
    """The response headers of an event stream; `token` goes into `X-Reconnect-Token`."""
    out = [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    ]
    if token is not None:
        out.append((b"x-reconnect-token", token.encode("ascii")))
    if scope.get("http_version") == "1.1":
        out.append((b"connection", b"keep-alive"))
    return out


async def serve(
    outbox: Outbox, scope: Scope, receive: Receive, send: Send, *, extra: Iterable[Header] = ()
) -> None:
    """Answer an ASGI `http` request with the stream of `outbox`, until either side ends it.

    One task always sits in `receive`, because after the client has gone `send` succeeds silently
    on every server. Cancellation ends the stream; it leaves nothing open.
    """
    async with anyio.create_task_group() as tasks:
        outbox.abort = tasks.cancel_scope.cancel
        tasks.start_soon(_watch, receive, outbox, tasks.cancel_scope)
        try:
            start = [*headers(scope, token=outbox.token), *extra]
            await send({"type": "http.response.start", "status": 200, "headers": start})
            retry = b"retry: %d\n" % int(random.uniform(*RETRY) * 1000)  # noqa: S311 - jitter
            while (frames := await outbox.next()) is not None:
                body = retry + encode(frames)
                retry = b""
                await send({"type": "http.response.body", "body": body, "more_body": True})
                outbox.sent()
            await _finish(send)
        except OSError:
            outbox.lost()
        except Exception:
            # The broker failed under this connection: the client comes back and is told of it.
            _logger.exception("a stream ended by an error")
            outbox.close(CloseReason.FAILED)
            await _finish(send)
        tasks.cancel_scope.cancel()


async def _finish(send: Send) -> None:
    """End the response cleanly: after an abrupt end, Chromium may lose the last event."""
    with anyio.move_on_after(FINISH_TIMEOUT):
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _watch(receive: Receive, outbox: Outbox, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    outbox.lost()
    scope.cancel()
