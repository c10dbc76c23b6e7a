"""GET /client.js, /tabs.js and /client.d.ts: the browser client, from the package itself."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from ..asgi_types import Send
from ..auth import Request

TYPES = {
    "/client.js": b"text/javascript",
    "/tabs.js": b"text/javascript",
    "/client.d.ts": b"text/plain",
}
"""Content types: HTML, section 2.1.3, wants `text/javascript`; TypeScript has none of its own."""


class ClientFiles:
    """The files, read once. They are public: for them, neither credentials nor origin matter.

    A browser sends `Origin` when it imports a module, from the page's own origin too.
    """

    def __init__(self) -> None:
        folder = files("holdfast") / "browser"
        self._content = {path: (folder / path[1:]).read_bytes() for path in TYPES}

    async def __call__(self, request: Request, path: str, send: Send) -> None:
        """Answer with the file; 304 if the browser has it already (RFC 9110, section 13.1.2).

        `no-cache` is "ask each time": the client must not be older than its server for long.
        """
        content = self._content[path]
        etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        known = request.headers.get("if-none-match", "")
        unchanged = known == "*" or etag in [
            each.strip().removeprefix("W/") for each in known.split(",")
        ]
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", TYPES[path] + b"; charset=utf-8"),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"no-cache"),
            (b"etag", etag.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"access-control-allow-origin", b"*"),
        ]
        if unchanged:
            headers = [header for header in headers if not header[0].startswith(b"content-")]
        status = 304 if unchanged else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if unchanged or request.method == "HEAD" else content
        await send({"type": "http.response.body", "body": body})
