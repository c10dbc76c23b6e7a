"""Endpoint: the addresses of one server, and who we are there."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import anyio
import httpx

from ..errors import ConfigurationError, RequestRefused
from .frames import is_sendable

_logger = logging.getLogger("holdfast.client")

Token = str | Callable[[], str | Awaitable[str]]

TIMEOUT = 10.0
"""Seconds for a connection, for sending, and for the answer to a POST."""

_MOST_BYTES = 65_536
"""Of an answer that is no stream."""

_RESERVED = {"topics", "metrics", "ack", "token", "last_event_id"}


class NoToken(Exception):
    """The application could not give a token; that was logged."""


UNANSWERED = (httpx.RequestError, TimeoutError, NoToken)
"""What a POST raises that may be tried again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is no stream: `value` is its JSON object, `{}` if it has none.

    `code` is the one that the server itself gives (docs/protocol.md, section 2.1), `None` where
    something else on the way has answered.
    """

    status: int
    value: Mapping[str, object]
    code: str | None
    detail: str

    def refused(self) -> RequestRefused:
        """The error that says this."""
        said = f"{self.code}: {self.detail}" if self.code else "and gave no reason of its own"
        return RequestRefused(
            self.code or "http_error",
            f"the server answered {self.status}, {said}",
            status=self.status,
        )


class Endpoint:
    """Makes requests below `url`, with the bearer token of now.

    The token is asked for once, and again after `forget`. What `http` does with redirects,
    proxies and certificates is its own affair; only its timeouts do not count here.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        *,
        token: Token | None,
        headers: Mapping[str, str],
        params: Mapping[str, str],
    ) -> None:
        if clash := sorted(_RESERVED.intersection(params)):
            raise ConfigurationError(f"params={clash}: these are the client's own")
        try:
            base = http.base_url.join(url) if url.startswith("/") else httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ConfigurationError(f"url={url!r}: {error}") from None
        if base.scheme not in ("http", "https") or not base.host:
            raise ConfigurationError(f"url={url!r}: it must begin with http:// or https://")
        self._http = http
        self._base = base.copy_merge_params(params)
        self._headers = headers
        self._token = token
        self._known: str | None = None
        self._one_asks = anyio.Lock()

    @property
    def renews(self) -> bool:
        """Whether a token can be asked for again."""
        return callable(self._token)

    def forget(self) -> None:
        """The token was refused or has expired."""
        self._known = None

    async def authorize(self) -> None:
        """Ask for the token, if there is one and it is not known. Raises what that raises."""
        async with self._one_asks:
            if self._token is not None and self._known is None:
                self._known = await self._ask(self._token)

    async def _ask(self, source: Token) -> str:
        token = source() if callable(source) else source
        token = await token if inspect.isawaitable(token) else token
        if not (isinstance(token, str) and is_sendable(token)):  # pyright: ignore[reportUnnecessaryIsInstance] - from the application
            raise ConfigurationError("the token is no string of printable ASCII")
        return token

    async def open(
        self, topics: Sequence[str], last_event_id: str, *, acknowledges: bool
    ) -> httpx.Response:
        """Ask for the stream; the response is not read yet. Raises httpx's errors."""
        params = {"topics": ",".join(topics)} if topics else {}
        if acknowledges:
            params["ack"] = "true"
        # A compressed chunk may be a thousand times as long as it looks.
        headers = {"accept": "text/event-stream", "accept-encoding": "identity"}
        headers["cache-control"] = "no-store"
        if last_event_id:
            headers["last-event-id"] = last_event_id
        request = self._request("GET", "/stream", headers, params=params, read=None)
        return await self._http.send(request, stream=True)

    async def post(self, path: str, value: Mapping[str, object]) -> Answer:
        """POST a JSON object; raises what is `UNANSWERED`, and `ConfigurationError`.

        After a 401 the token is asked for again, once.
        """
        answer = await self._post(path, value)
        if answer.status == 401 and self.renews:
            answer = await self._post(path, value)
        return answer

    async def _post(self, path: str, value: Mapping[str, object]) -> Answer:
        try:
            await self.authorize()
        except ConfigurationError:
            raise
        except Exception:
            _logger.exception("asking for a token failed; it is asked for again")
            raise NoToken from None
        used = self._known
        content = json.dumps(value).encode()
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        request = self._request("POST", path, headers, content=content, read=TIMEOUT)
        with anyio.fail_after(2 * TIMEOUT):
            response = await self._http.send(request, stream=True)
            answer = await read_answer(response)
        if answer.status == 401 and self._known == used:
            self.forget()
        return answer

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        read: float | None,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Request:
        own, _, query = self._base.raw_path.partition(b"?")
        url = self._base.copy_with(
            raw_path=own.rstrip(b"/") + path.encode() + (b"?" + query if query else b"")
        )
        known = {} if self._known is None else {"authorization": f"Bearer {self._known}"}
        return self._http.build_request(
            method,
            url.copy_merge_params(params or {}),
            headers={**self._headers, **known, **headers},
            content=content,
            timeout=httpx.Timeout(TIMEOUT, read=read),
        )


async def read_answer(response: httpx.Response) -> Answer:
    """Read an answer that is no stream, up to a limit, and close it."""
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _MOST_BYTES:
                break
    finally:
        await response.aclose()
    try:
        parsed = cast("object", json.loads(bytes(body)))
    except (ValueError, RecursionError):
        parsed = None
    value = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
    error = value.get("error")
    said = cast("dict[str, object]", error) if isinstance(error, dict) else {}
    code, detail = said.get("code"), said.get("detail")
    return Answer(
        response.status_code,
        value,
        ascii(code[:100])[1:-1] if isinstance(code, str) else None,
        ascii(detail[:300])[1:-1] if isinstance(detail, str) else "",
    )
