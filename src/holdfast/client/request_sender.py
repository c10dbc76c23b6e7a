"""RequestSender: the HTTP requests to one server, and the replies that are not streams."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import anyio
import httpx

from ..errors import ConfigurationError, RequestRefused
from .bearer_token import BearerToken

_logger = logging.getLogger("holdfast.client")

REQUEST_TIMEOUT = 10.0
"""Seconds for connecting, for sending, and for the reply to a POST."""

MAX_REPLY_BYTES = 65_536
"""The client reads no more of a reply. The replies of holdfast are far shorter."""

_RETRYABLE_STATUSES = {408, 425, 429}


class TokenUnavailable(Exception):
    """The application's function has raised instead of returning a token. The error is logged."""


RETRYABLE_ERRORS = (httpx.RequestError, TimeoutError, TokenUnavailable)
"""The errors of a POST after which another attempt may succeed."""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """A response that is not a stream.

    Attributes:
        status: The HTTP status.
        body: The JSON object, or `{}` if the body is not a JSON object.
        code: The error code of the protocol (docs/protocol.md, section 14), or None. A proxy's
            error page has none.
        detail: The explanation beside `code`, or "".
    """

    status: int
    body: Mapping[str, object]
    code: str | None
    detail: str

    @property
    def is_retryable(self) -> bool:
        """True if the same request may succeed later: 5xx, 408, 425 and 429."""
        return self.status in _RETRYABLE_STATUSES or self.status >= 500

    def as_error(self) -> RequestRefused:
        """Return the error that reports this reply."""
        reason = f"{self.code}: {self.detail}" if self.code else "without an error code"
        return RequestRefused(
            self.code or "http_error",
            f"the server answered {self.status}, {reason}",
            status=self.status,
        )


async def read_reply(response: httpx.Response) -> ServerReply:
    """Read a response of at most MAX_REPLY_BYTES bytes, and close it. Raises httpx's errors."""
    content = bytearray()
    try:
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > MAX_REPLY_BYTES:
                break
    finally:
        await response.aclose()
    try:
        parsed = cast("object", json.loads(bytes(content)))
    except (ValueError, RecursionError):
        parsed = None
    body = _object(parsed)
    error = _object(body.get("error"))
    code, detail = error.get("code"), error.get("detail")
    return ServerReply(
        response.status_code,
        body,
        quote(code, 100) if isinstance(code, str) else None,
        quote(detail, 300) if isinstance(detail, str) else "",
    )


def quote(text: str, max_length: int) -> str:
    """Return text from the server for an error or a log line: short, ASCII, on one line."""
    return ascii(text[:max_length])[1:-1]


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


class RequestSender:
    """Sends requests to the paths below `base`, with the headers and the token of the stream.

    The application's `http` client decides about redirects, proxies, cookies and certificates.
    Only its timeouts are replaced, because a stream is silent for a long time.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        base: httpx.URL,
        *,
        token: BearerToken,
        headers: Mapping[str, str],
    ) -> None:
        self._http = http
        self._base = base
        self._token = token
        self._headers = headers

    async def open_stream(
        self, topics: Sequence[str], last_event_id: str, *, acknowledges: bool
    ) -> httpx.Response:
        """Request the stream, and return the response with its body unread.

        `acknowledges` announces acknowledgements (docs/protocol.md, section 12). Raises httpx's
        errors.
        """
        params = {"topics": ",".join(topics)} if topics else {}
        if acknowledges:
            params["ack"] = "true"
        headers = {
            "accept": "text/event-stream",
            # A compressed chunk can expand a thousandfold, beyond every limit of the client.
            "accept-encoding": "identity",
            "cache-control": "no-store",
        }
        if last_event_id:
            headers["last-event-id"] = last_event_id
        request = self._build("GET", "/stream", headers, params=params, read_timeout=None)
        return await self._http.send(request, stream=True)

    async def post(self, path: str, body: Mapping[str, object]) -> ServerReply:
        """Send a JSON object. After a reply of 401, fetch another token and send it once more.

        Raises RETRYABLE_ERRORS, and ConfigurationError.
        """
        reply = await self._post(path, body)
        if reply.status == 401 and self._token.is_renewable:
            reply = await self._post(path, body)
        return reply

    async def _post(self, path: str, body: Mapping[str, object]) -> ServerReply:
        try:
            await self._token.fetch()
        except ConfigurationError:
            raise
        except Exception:
            _logger.exception("the token function failed; the client calls it again later")
            raise TokenUnavailable from None
        used = self._token.value
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        content = json.dumps(body).encode()
        request = self._build("POST", path, headers, content=content, read_timeout=REQUEST_TIMEOUT)
        with anyio.fail_after(2 * REQUEST_TIMEOUT):
            response = await self._http.send(request, stream=True)
            reply = await read_reply(response)
        # Another task may have renewed the token meanwhile.
        if reply.status == 401 and self._token.value == used:
            self._token.discard()
        return reply

    def _build(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        read_timeout: float | None,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Request:
        # raw_path keeps "%2F" in the path of the application as it is.
        base_path, _, query = self._base.raw_path.partition(b"?")
        raw_path = base_path.rstrip(b"/") + path.encode() + (b"?" + query if query else b"")
        token = self._token.value
        authorization = {} if token is None else {"authorization": f"Bearer {token}"}
        return self._http.build_request(
            method,
            self._base.copy_with(raw_path=raw_path).copy_merge_params(params or {}),
            headers={**self._headers, **authorization, **headers},
            content=content,
            timeout=httpx.Timeout(REQUEST_TIMEOUT, read=read_timeout),
        )
