"""Reading HTTP requests and writing answers, in plain ASGI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import anyio

from ..asgi_types import Receive, Send
from ..errors import Refused
from ..runtime import frames

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT = 10.0
"""Seconds for a whole request body; h11's servers have no limit of their own."""

LOOK_UP = 0.5
"""Seconds after which a reader of a body looks whether the process is to stop."""

Header = tuple[bytes, bytes]


class ClientGone(Exception):
    """The client left before its request was complete; nobody is there to answer."""


async def read_json(receive: Receive, is_open: Callable[[], bool]) -> dict[str, object]:
    """The request body as a JSON object, `{}` for none; raises `Refused` or `ClientGone`.

    It is given up when `is_open` turns false: an upload must not keep the process from stopping.
    """
    body = bytearray()
    try:
        with anyio.fail_after(BODY_TIMEOUT):
            while True:
                event = None
                while event is None:
                    if not is_open():
                        raise Refused("drain", "shutting down", status=503)
                    with anyio.move_on_after(LOOK_UP):
                        event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientGone
                body += event.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise Refused("too_large", f"at most {MAX_BODY_BYTES} bytes", status=413)
                if not event.get("more_body", False):
                    break
    except TimeoutError:
        raise Refused("too_slow", "the request body did not come", status=408) from None
    if not body:
        return {}
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=frames.no_constant)
    except (ValueError, RecursionError):
        raise Refused("not_json", "the body is not JSON", status=400) from None
    if not isinstance(value, dict):
        raise Refused("not_json", "the body is not a JSON object", status=400)
    return cast("dict[str, object]", value)


async def answer(
    send: Send,
    status: int,
    body: Mapping[str, object] | None,
    headers: Iterable[Header] = (),
    *,
    head: bool = False,
) -> None:
    """Send a whole JSON response; `head` leaves the body out, `None` is no body at all."""
    content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    start = [(b"cache-control", b"no-store"), *headers]
    if body is not None:
        start.append((b"content-type", b"application/json"))
    if status != 204:
        start.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": b"" if head else content})


def error_body(error: Refused) -> dict[str, object]:
    """What an error answers with."""
    return {"error": {"code": error.code, "detail": error.detail}}
