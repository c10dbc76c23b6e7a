"""GET /client.js, /tabs.js and /client.d.ts: the browser client, from the package itself."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..asgi_types import Send
    from ..auth import Request

TYPES = {
    "/client.js": b"text/javascript",
    "/tabs.js": b"text/javascript",
    "/client.d.ts": b"text/plain",
}
"""Content types: HTML, section 2.1.3, wants `text/javascript`; TypeScript has none of its own."""


@dataclass(frozen=True, slots=True)
class _Representation:
    """The bytes of a file in one content coding, and their headers."""

    body: bytes
    etag: bytes
    content_headers: tuple[tuple[bytes, bytes], ...]


class ClientFiles:
    """The files, read and compressed once, and sent to any client.

    Credentials and origin do not matter: the files are public, and a browser sends `Origin` when
    it imports a module, from the page's own origin too.
    """

    def __init__(self) -> None:
        folder = files("holdfast") / "browser"
        contents = {path: (folder / path[1:]).read_bytes() for path in TYPES}
        self._plain = {path: _represent(path, body) for path, body in contents.items()}
        # Without a time in its header, the same file has the same ETag on each node.
        self._compressed = {
            path: _represent(path, gzip.compress(body, mtime=0), coding=b"gzip")
            for path, body in contents.items()
        }

    async def __call__(self, request: Request, path: str, send: Send) -> None:
        """Send the file; 304 if the browser has it already (RFC 9110, section 13.1.2).

        `no-cache` makes browsers ask each time, so that the client is as new as its server.
        """
        compressed = accepts_gzip(request.headers.get("accept-encoding", ""))
        chosen = (self._compressed if compressed else self._plain)[path]
        unchanged = _matches(request.headers.get("if-none-match", ""), chosen.etag.decode())
        headers = [
            (b"cache-control", b"no-cache"),
            (b"etag", chosen.etag),
            (b"vary", b"accept-encoding"),
            (b"x-content-type-options", b"nosniff"),
            (b"access-control-allow-origin", b"*"),
        ]
        if not unchanged:
            headers += chosen.content_headers
        status = 304 if unchanged else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if unchanged or request.method == "HEAD" else chosen.body
        await send({"type": "http.response.body", "body": body})


def accepts_gzip(accept_encoding: str) -> bool:
    """Return True if the client accepts gzip, and prefers nothing else (RFC 9110, 12.5.3).

    A client that sends no Accept-Encoding would have to take any coding, but many cannot.
    """
    weights = {"identity": 0.0}
    for element in accept_encoding.lower().split(","):
        coding, _, parameter = element.partition(";")
        name = coding.strip()
        weights["gzip" if name == "x-gzip" else name] = _weight(parameter)
    gzip_weight = weights.get("gzip", weights.get("*", 0.0))
    return gzip_weight > 0 and gzip_weight >= weights["identity"]


def _weight(parameter: str) -> float:
    """The weight in `q=0.5`; 1 without a parameter, 0 for any that is malformed."""
    if not parameter.strip():
        return 1.0
    name, _, value = parameter.partition("=")
    try:
        weight = float(value) if name.strip() == "q" else 0.0
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def _represent(path: str, body: bytes, *, coding: bytes | None = None) -> _Representation:
    etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'.encode()
    headers = [
        (b"content-type", TYPES[path] + b"; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    if coding:
        headers.append((b"content-encoding", coding))
    return _Representation(body, etag, tuple(headers))


def _matches(if_none_match: str, etag: str) -> bool:
    known = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return if_none_match.strip() == "*" or etag in known
