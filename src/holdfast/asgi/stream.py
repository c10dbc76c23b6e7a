"""GET /stream and GET /reconnect: the event streams."""

from __future__ import annotations

import random

from ..asgi_types import Receive, Scope, Send
from ..auth import Request
from ..core.cursor import EventId
from ..errors import BroadcasterFailed, Refused
from ..runtime import frames
from ..runtime.broadcaster import Broadcaster
from ..transports import sse
from .access import Access, presented
from .http import Header

PREFETCH_HEADERS = frozenset({"sec-purpose", "purpose", "x-moz"})


class Streams:
    """The two SSE endpoints. They differ in name only: what is presented decides."""

    def __init__(self, broadcaster: Broadcaster, access: Access) -> None:
        self._broadcaster = broadcaster
        self._access = access

    async def serve(
        self, request: Request, cors: list[Header], receive: Receive, send: Send
    ) -> None:
        """Authenticate, open the connection, stream until either side ends it."""
        scope = request.scope
        request.check_query()
        if not _takes_event_streams(request):
            raise Refused("not_acceptable", "this is a text/event-stream", status=406)
        last_event_id, token = presented(request)
        try:
            user = await self._access.user(request, "sse")
            if request.method == "HEAD" or not PREFETCH_HEADERS.isdisjoint(request.headers):
                # Nothing is consumed: whoever only looks must not use up a token.
                headers = [*sse.headers(scope), *cors]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            opening = self._access.connect(
                request, user, "sse", last_event_id=last_event_id, token=token
            )
            del request, token  # a stream is long
            async with opening as outbox:
                await sse.serve(outbox, scope, receive, send, extra=cors)
        except Refused as error:
            if error.status != 503:
                raise
            await self._come_back(error.code, last_event_id, scope, send, cors)
        except BroadcasterFailed:
            await self._come_back("failed", last_event_id, scope, send, cors)

    async def _come_back(
        self, reason: str, last_event_id: str | None, scope: Scope, send: Send, cors: list[Header]
    ) -> None:
        """Answer with a stream that ends at once: at a 503, EventSource would give up for good."""
        data = {"reason": reason.replace("_", " "), "reconnect": True}
        body = frames.control("closing", self._broadcaster.now(), data)
        wait = int(random.uniform(2.0, 10.0) * 1000)  # noqa: S311 - jitter
        headers = [*sse.headers(scope), *cors]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # The id that came is given back, or a parser would have forgotten it by the next try.
        known = last_event_id is not None and EventId.parse(last_event_id) is not None
        id = f"id: {last_event_id}\n" if known else ""
        chunk = b"retry: %d\ndata: %b\n%b\n" % (wait, body, id.encode("ascii"))
        await send({"type": "http.response.body", "body": chunk})


def _takes_event_streams(request: Request) -> bool:
    accept = request.headers.get("accept")
    if accept is None or accept == "text/event-stream":  # as EventSource says it
        return True
    ranges = {part.partition(";")[0].strip() for part in accept.lower().split(",")}
    return not ranges.isdisjoint({"text/event-stream", "text/*", "*/*", ""})
