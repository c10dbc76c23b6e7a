"""Request: the headers, the query and the scope of a request, for the hooks."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from ..errors import Refused
from ..reasons import Reason

MAX_QUERY_BYTES = 64 * 1024
"""Bytes of a query, at most. A longer query is read as empty."""

MAX_QUERY_FIELDS = 100
"""Fields of a query, at most. A query with more fields is read as empty."""


class Request:
    """An HTTP request or WebSocket handshake, for the hooks to read.

    The first of several headers or query fields with one name counts.

    Args:
        scope: An ASGI `http` or `websocket` scope (ASGI HTTP and WebSocket specification 2.5).

    Attributes:
        scope: The ASGI scope.
        method: The HTTP method, such as "GET". A WebSocket handshake is a GET.
        headers: The headers, with names in lower case and values decoded as Latin-1.
        query: The fields of the query, decoded as those of a form (URL standard, section 5.1). Text
            that the client did not escape is accepted, too, because curl sends it.
    """

    __slots__ = ("_query_is_readable", "headers", "method", "query", "scope")

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.scope = scope
        self.method = str(scope.get("method", "GET"))
        self.headers: dict[str, str] = (headers := {})
        for name, value in scope.get("headers", ()):
            key = name.decode("latin-1").lower()
            if key not in headers:
                headers[key] = value.decode("latin-1")
            elif key == "cookie":  # HTTP/2 splits it (RFC 9113, section 8.2.3)
                headers[key] += f"; {value.decode('latin-1')}"
        self.query: dict[str, str] = {}
        raw: bytes = scope.get("query_string", b"")
        self._query_is_readable = len(raw) <= MAX_QUERY_BYTES and raw.count(b"&") < MAX_QUERY_FIELDS
        if self._query_is_readable:
            is_escaped = b"%" in raw
            for field in filter(None, raw.replace(b"+", b" ").split(b"&")):
                name, _, value = field.partition(b"=")
                if is_escaped:
                    name, value = unquote_to_bytes(name), unquote_to_bytes(value)
                text = value.decode("utf-8", "replace")
                self.query.setdefault(name.decode("utf-8", "replace"), text)

    def check_query(self) -> None:
        """Raise `Refused` if the query was too long, and was read as empty."""
        if not self._query_is_readable:
            limits = f"{MAX_QUERY_BYTES} bytes, {MAX_QUERY_FIELDS} fields"
            raise Refused(Reason.INVALID_QUERY, f"the query is too long: at most {limits}")

    @property
    def client(self) -> str | None:
        """The address of the client, as the server has it in the scope."""
        peer = self.scope.get("client")
        return str(peer[0]) if peer else None

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies by name, without malformed ones (RFC 6265, section 5.4)."""
        found: dict[str, str] = {}
        for pair in self.headers.get("cookie", "").split(";"):
            name, separator, value = pair.partition("=")
            if separator:
                found.setdefault(name.strip(), value.strip().strip('"'))
        return found

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.scope.get('path')!r}>"
