"""Request: what a hook may look at, read only."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from ..errors import Refused

MAX_QUERY_BYTES = 64 * 1024
MAX_QUERY_FIELDS = 100


class Request:
    """An ASGI `http` or `websocket` scope (ASGI HTTP and WebSocket specification 2.5).

    Header names are in lower case and values are decoded as Latin-1. Of a header or a query
    field that comes several times, the first counts.
    """

    __slots__ = ("_query_is_readable", "headers", "query", "scope")

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.scope = scope
        self.headers: dict[str, str] = {}
        for name, value in scope.get("headers", ()):
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            if key == "cookie" and key in self.headers:
                self.headers[key] += f"; {text}"  # HTTP/2 splits it (RFC 9113, section 8.2.3)
            else:
                self.headers.setdefault(key, text)
        self.query: dict[str, str] = {}
        self._query_is_readable = True
        raw: bytes = scope.get("query_string", b"")
        try:
            if len(raw) > MAX_QUERY_BYTES:
                raise ValueError
            fields = parse_qsl(
                raw.decode("latin-1"),
                keep_blank_values=True,
                encoding="latin-1",
                max_num_fields=MAX_QUERY_FIELDS,
            )
        except ValueError:
            self._query_is_readable = False
            return
        for name, value in fields:
            self.query.setdefault(_utf8(name), _utf8(value))

    def check_query(self) -> None:
        """Raise `Refused` if the query was too long, and therefore read as empty."""
        if not self._query_is_readable:
            limits = f"{MAX_QUERY_BYTES} bytes, {MAX_QUERY_FIELDS} fields"
            raise Refused("invalid_query", f"the query is too long: at most {limits}", status=400)

    @property
    def method(self) -> str:
        """The HTTP method; a WebSocket handshake is a GET."""
        return str(self.scope.get("method", "GET"))

    @property
    def client(self) -> str | None:
        """The peer's address as the server says it."""
        peer = self.scope.get("client")
        return str(peer[0]) if peer else None

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies (RFC 6265, section 5.4); one that is malformed hides no other."""
        found: dict[str, str] = {}
        for pair in self.headers.get("cookie", "").split(";"):
            name, separator, value = pair.partition("=")
            if separator:
                found.setdefault(name.strip(), value.strip().strip('"'))
        return found

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.scope.get('path')!r}>"


def _utf8(text: str) -> str:
    """Bytes that were read as Latin-1, whether they came escaped or not (curl does not)."""
    return text.encode("latin-1").decode("utf-8", "replace")
