"""Server-Sent Events: one connection's frames as an event stream.

The format is WHATWG HTML, section 9.2 ("Server-sent events"). Every frame has `data` on one line
and `id` as its last field, so that a frame cut in half moves no parser past a message.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress

import anyio

from ..asgi_types import Event, Receive, Scope, Send
from ..core.connection import CloseReason, State
from ..runtime.connection import Outbox
from ..runtime.frames import Frame
from ..runtime.inline_send import InlineSender, PeerLost
from .duplex import FINISH_TIMEOUT, DuplexScope, until_gone

_logger = logging.getLogger("holdfast")

Header = tuple[bytes, bytes]

HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
"""What every event stream is answered with."""

RETRY = (1.0, 3.0)
"""Seconds between which `retry` is drawn for each stream, so that clients do not return at once
together. Never 0: with that, Chromium reconnects in a loop without a pause."""


_EVENT = b"data: %b\nid: %b"
_END = b"\n\n"


class _EventStream:
    """The `FrameEncoder` of event streams: everything that goes out at once is one body event."""

    peer_lost: tuple[type[Exception], ...] = (OSError,)

    def head(self, body: bytes, id: str) -> bytes:
        return _EVENT % (body, id.encode("ascii"))

    def tail(self, token: str) -> bytes:
        return token.encode("ascii") + _END

    def common(self, heads: Sequence[bytes]) -> tuple[bytes, ...]:
        return (*heads, b"")

    def events(self, common: tuple[bytes, ...], tail: bytes) -> tuple[Event]:
        return (_body(tail.join(common)),)


def _body(body: bytes) -> Event:
    return {"type": "http.response.body", "body": body, "more_body": True}


_WIRE = _EventStream()


def encode(frames: Iterable[Frame]) -> bytes:
    """The frames as one chunk of the event stream."""
    return _END.join([*[_EVENT % (body, id.encode("ascii")) for body, id in frames], b""])


def headers(scope: Scope, *, token: str | None = None) -> list[Header]:
    """The response headers of an event stream; `token` goes into `X-Reconnect-Token`."""
    out = [*HEADERS]
    if token is not None:
        out.append((b"x-reconnect-token", token.encode("ascii")))
    if scope.get("http_version") == "1.1":
        out.append((b"connection", b"keep-alive"))
    return out


async def serve(
    outbox: Outbox, scope: Scope, receive: Receive, send: Send, *, extra: Iterable[Header] = ()
) -> None:
    """Answer an ASGI `http` request with the stream of `outbox`, until either side ends it.

    Cancellation ends the stream; it leaves nothing open.
    """
    pipe = InlineSender(send, _WIRE, outbox.token)
    async with DuplexScope(outbox, until_gone(receive, outbox)):
        try:
            await _begin(outbox, send, [*headers(scope, token=outbox.token), *extra])
            outbox.pipe = pipe
            while (frames := await outbox.next()) is not None:
                await pipe.send(_body(encode(frames)))
                del frames  # the next may be a long time coming
                outbox.sent()
            if outbox.connection.state is not State.CLOSED:  # somebody is still there
                await _finish(send)
        except PeerLost:
            outbox.lost()
        except Exception:
            # The broker failed under this connection: the client comes back and is told of it.
            _logger.exception("a stream ended by an error")
            outbox.close(CloseReason.FAILED)
            await _finish(send)
        finally:
            outbox.pipe = None
            pipe.close()


async def _begin(outbox: Outbox, send: Send, start: list[Header]) -> None:
    """Send the head of the response, and the first frame with the delay for the next try."""
    frames = await outbox.next()
    retry = b"retry: %d\n" % (random.uniform(*RETRY) * 1000)  # noqa: S311 - jitter
    try:
        await send({"type": "http.response.start", "status": 200, "headers": start})
        await send(_body(retry + encode(frames or [])))
    except OSError as error:
        raise PeerLost from error
    outbox.sent()


async def _finish(send: Send) -> None:
    """End the response cleanly: after an abrupt end, Chromium may lose the last event."""
    with anyio.move_on_after(FINISH_TIMEOUT), suppress(OSError):
        await send({"type": "http.response.body", "body": b"", "more_body": False})
