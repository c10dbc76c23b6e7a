"""Read the bodies that the page posts."""

from __future__ import annotations

from starlette.requests import Request

MAX_BODY_BYTES = 4096


async def small_body(request: Request) -> str | None:
    """Return the body as text, or None if it is too long or not UTF-8."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
