"""Server-Sent Events: the frames of one connection as an event stream.

The format is that of WHATWG HTML, section 9.2 ("Server-sent events"). Each frame has `data` on one
line, and `id` as its last field, because a frame that is cut in half must not change the last event
id of a client.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress

import anyio

from ..asgi_types import Event, Receive, Scope, Send
from ..core.frames import Frame
from ..reasons import Reason
from ..runtime.connection import Connection
from ..runtime.inline_send import InlineSender, PeerLost
from .duplex import FINISH_TIMEOUT, DuplexScope, until_disconnect

_logger = logging.getLogger("holdfast")

Header = tuple[bytes, bytes]

HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
"""The response headers of every event stream."""

RETRY_RANGE = (1.0, 3.0)
"""The range of `retry` in seconds. Each stream draws its own, so that clients do not all return at
once. The minimum is above 0, because Chromium would reconnect in a loop without a pause."""

_EVENT = b"data: %b\nid: %b"
_END = b"\n\n"


class _EventStreamEncoder:
    """The `FrameEncoder` of event streams. Frames that are sent at once are one ASGI event."""

    peer_lost: tuple[type[Exception], ...] = (OSError,)

    def prefix(self, body: bytes, id: str) -> bytes:
        return _EVENT % (body, id.encode("ascii"))

    def suffix(self, token: str) -> bytes:
        return token.encode("ascii") + _END

    def join(self, prefixes: Sequence[bytes]) -> tuple[bytes, ...]:
        return (*prefixes, b"")

    def events(self, joined: tuple[bytes, ...], suffix: bytes) -> tuple[Event]:
        return (_body(suffix.join(joined)),)


def _body(body: bytes) -> Event:
    return {"type": "http.response.body", "body": body, "more_body": True}


_ENCODER = _EventStreamEncoder()


def encode(frames: Iterable[Frame]) -> bytes:
    """Return the frames as one chunk of the event stream, in UTF-8."""
    return _END.join([*[_EVENT % (body, id.encode("ascii")) for body, id in frames], b""])


def headers(scope: Scope, *, reconnect_token: str | None = None) -> list[Header]:
    """Return the response headers of an event stream.

    Args:
        scope: The ASGI scope of the request.
        reconnect_token: The value of `X-Reconnect-Token`; `None` omits this header.
    """
    out = [*HEADERS]
    if reconnect_token is not None:
        out.append((b"x-reconnect-token", reconnect_token.encode("ascii")))
    if scope.get("http_version") == "1.1":
        out.append((b"connection", b"keep-alive"))
    return out


async def serve(
    connection: Connection,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    extra_headers: Iterable[Header] = (),
) -> None:
    """Answer an ASGI `http` request with an event stream, until the client or the server ends it.

    Args:
        connection: From `Broadcaster.connect`.
        scope: The ASGI scope of the request.
        receive: The ASGI receive callable.
        send: The ASGI send callable.
        extra_headers: Further response headers, such as those of CORS.

    Cancellation:
        The stream ends, and no task is left.
    """
    sender = InlineSender(send, _ENCODER, connection.token)
    async with DuplexScope(connection, until_disconnect(receive, connection)):
        try:
            start = [*headers(scope, reconnect_token=connection.token), *extra_headers]
            await _send_head(connection, send, start)
            connection.attach_sender(sender)
            while (frames := await connection.next_frames()) is not None:
                await sender.send(_body(encode(frames)))
                del frames  # frees the memory, because the next frames may be hours away
                connection.mark_sent()
            if not connection.is_over:
                await _send_end(send)
        except PeerLost:
            connection.mark_lost()
        except Exception:
            # The broker raised an unexpected error. The client resumes.
            _logger.exception("the event stream of connection %s failed", connection.id)
            connection.close(Reason.FAILED)
            await _send_end(send)
        finally:
            connection.detach_sender()


async def _send_head(connection: Connection, send: Send, start: list[Header]) -> None:
    """Send the head of the response and the first frame, with the `retry` field before it."""
    frames = await connection.next_frames()
    retry = b"retry: %d\n" % (random.uniform(*RETRY_RANGE) * 1000)  # noqa: S311 - jitter
    try:
        await send({"type": "http.response.start", "status": 200, "headers": start})
        await send(_body(retry + encode(frames or [])))
    except OSError as error:
        raise PeerLost from error
    connection.mark_sent()


async def _send_end(send: Send) -> None:
    """End the response cleanly, because Chromium may lose the last event after an abrupt end."""
    with anyio.move_on_after(FINISH_TIMEOUT), suppress(OSError):
        await send({"type": "http.response.body", "body": b"", "more_body": False})
