"""Reads HTTP request bodies and writes answers, in plain ASGI."""

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
"""Bytes of a request body, at most."""

BODY_TIMEOUT = 10.0
"""Seconds for a whole request body, because servers on h11 have no limit of their own."""

DRAIN_CHECK = 0.5
"""Seconds between two checks of `is_accepting` while a body arrives."""

Header = tuple[bytes, bytes]


class ClientGone(Exception):
    """The client disconnected before its request was complete, so there is no answer."""


async def read_json(receive: Receive, is_accepting: Callable[[], bool]) -> dict[str, object]:
    """Return the request body as a JSON object, `{}` if there is no body.

    Args:
        receive: The ASGI receive callable.
        is_accepting: Returns False while the node drains. The request is refused then, because an
            upload must not keep the process from stopping.

    Raises:
        Refused: The body is not a JSON object, too large or too slow, or the node drains.
        ClientGone: The client has disconnected.
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
    """Send a complete JSON response.

    Args:
        send: The ASGI send callable.
        status: The HTTP status.
        body: The JSON object of the body; `None` for a response without one.
        headers: Further response headers.
        head: True for a HEAD request, whose response has the headers only.
    """
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
    """Answer a refused request with the status and the word of its reason."""
    await answer(send, error.reason.status or 400, error_body(error), headers, head=head)
