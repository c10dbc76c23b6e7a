"""GET /stream and GET /reconnect: the event streams."""

from __future__ import annotations

import random

from ..asgi_types import Receive, Scope, Send
from ..auth import Request
from ..core import frames
from ..core.cursor import EventId
from ..errors import BroadcasterFailed, Refused
from ..reasons import Reason
from ..runtime.broadcaster import Broadcaster
from ..transports import sse
from .access import Access, presented
from .http import Header

PREFETCH_HEADERS = frozenset({"sec-purpose", "purpose", "x-moz"})
"""The headers by which browsers mark a prefetch."""


def is_prefetch(request: Request) -> bool:
    """Return True if the request must not use up a token: HEAD, or a browser's prefetch."""
    return request.method == "HEAD" or not PREFETCH_HEADERS.isdisjoint(request.headers)


class StreamEndpoint:
    """The endpoint of /stream and /reconnect, which behave the same."""

    def __init__(self, broadcaster: Broadcaster, access: Access) -> None:
        self._broadcaster = broadcaster
        self._access = access

    async def serve(
        self, request: Request, cors: list[Header], receive: Receive, send: Send
    ) -> None:
        """Authenticate, and stream until the client or the server ends it.

        Raises:
            Refused: The client must not come back. Other refusals are answered here.
        """
        scope = request.scope
        request.check_query()
        if not _accepts_event_stream(request):
            raise Refused(Reason.NOT_ACCEPTABLE, "accept text/event-stream")
        last_event_id, reconnect_token = presented(request)
        try:
            user = await self._access.user(request, "sse")
            if is_prefetch(request):
                # No connection begins, because it would use up the token.
                headers = [*sse.headers(scope), *cors]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            pending = self._access.connect(
                request,
                user,
                "sse",
                last_event_id=last_event_id,
                reconnect_token=reconnect_token,
            )
            del request, reconnect_token  # a stream lasts long
            async with pending as connection:
                await sse.serve(connection, scope, receive, send, extra_headers=cors)
        except Refused as error:
            if error.reason.status != 503:
                raise
            await self._send_closing(error.reason, last_event_id, scope, send, cors)
        except BroadcasterFailed:
            await self._send_closing(Reason.FAILED, last_event_id, scope, send, cors)

    async def _send_closing(
        self,
        reason: Reason,
        last_event_id: str | None,
        scope: Scope,
        send: Send,
        cors: list[Header],
    ) -> None:
        """Answer with a stream that closes at once, because EventSource does not retry a 503."""
        body = frames.closing(reason, self._broadcaster.now())
        wait = int(random.uniform(2.0, 10.0) * 1000)  # noqa: S311 - jitter
        headers = [*sse.headers(scope), *cors]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # An event without an id would let some parsers drop the last event id, so it is repeated.
        is_valid = last_event_id is not None and EventId.parse(last_event_id) is not None
        id = f"id: {last_event_id}\n" if is_valid else ""
        chunk = b"retry: %d\ndata: %b\n%b\n" % (wait, body, id.encode("ascii"))
        await send({"type": "http.response.body", "body": chunk})


def _accepts_event_stream(request: Request) -> bool:
    accept = request.headers.get("accept")
    if accept is None or accept == "text/event-stream":  # EventSource sends exactly this
        return True
    ranges = {part.partition(";")[0].strip() for part in accept.lower().split(",")}
    return not ranges.isdisjoint({"text/event-stream", "text/*", "*/*", ""})
