"""Reading HTTP requests and writing answers, in plain ASGI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import anyio

from ..asgi_types import Receive, Send
from ..core import frames
from ..errors import Refused
from ..reasons import Reason

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT = 10.0
"""Seconds for a whole request body; servers on h11 have no limit of their own."""

DRAIN_CHECK = 0.5
"""Seconds after which the reader of a body checks whether the process drains."""

Header = tuple[bytes, bytes]


class ClientGone(Exception):
    """The client left before its request was complete, so there is no one to answer."""


async def read_json(receive: Receive, is_accepting: Callable[[], bool]) -> dict[str, object]:
    """Return the request body as a JSON object, `{}` if there is no body.

    The reader gives up when `is_accepting` returns False, because an upload must not keep the
    process from stopping.

    Raises:
        Refused: the body is not a JSON object, too large or too slow, or the server drains.
        ClientGone: the client left.
    """
    body = bytearray()
    try:
        with anyio.fail_after(BODY_TIMEOUT):
            while True:
                event = None
                while event is None:
                    if not is_accepting():
                        raise Refused(Reason.DRAIN, "the server is shutting down")
                    with anyio.move_on_after(DRAIN_CHECK):
                        event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientGone
                body += event.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise Refused(Reason.TOO_LARGE, f"a body has at most {MAX_BODY_BYTES} bytes")
                if not event.get("more_body", False):
                    break
    except TimeoutError:
        raise Refused(Reason.TOO_SLOW, "the request body did not arrive in time") from None
    if not body:
        return {}
    try:
        value = frames.decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Refused(Reason.NOT_JSON, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise Refused(Reason.NOT_JSON, "the body is not a JSON object")
    return cast("dict[str, object]", value)


async def answer(
    send: Send,
    status: int,
    body: Mapping[str, object] | None,
    headers: Iterable[Header] = (),
    *,
    head: bool = False,
) -> None:
    """Send a whole JSON response; `None` is no body at all, and `head` omits the body."""
    content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    start = [(b"cache-control", b"no-store"), *headers]
    if body is not None:
        start.append((b"content-type", b"application/json"))
    if status != 204:
        start.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": b"" if head else content})


def error_body(error: Refused) -> dict[str, object]:
    """Return the body of the answer to a refused request."""
    return {"error": {"code": error.reason.word, "detail": error.detail}}


async def answer_refusal(
    send: Send, error: Refused, headers: Iterable[Header] = (), *, head: bool = False
) -> None:
    """Answer a refused request with its status and its reason."""
    await answer(send, error.reason.status or 400, error_body(error), headers, head=head)
