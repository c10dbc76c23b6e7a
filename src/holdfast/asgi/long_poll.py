"""GET /poll: long polling, for clients behind a proxy that lets no stream through."""

from __future__ import annotations

import random
import re

from ..asgi_types import Receive, Send
from ..auth import Request
from ..core import frames
from ..core.frames import Frame
from ..errors import BroadcasterFailed, Refused
from ..reasons import Reason
from ..runtime.broadcaster import Broadcaster
from ..transports.duplex import DuplexScope, until_disconnect
from ..transports.long_poll import MAX_WAIT, gather
from .access import Access, failed, presented
from .http import Header, answer, answer_refusal
from .stream import is_prefetch

_SECONDS = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,6})?", re.ASCII)


class LongPollEndpoint:
    """The long polling endpoint: a resume that waits.

    The connection has ended, and its session waits for the next poll, *before* the answer leaves.
    So the next poll takes nothing over. A client that never got the answer presents the id from
    before it again, whose token is the previous one, valid within its grace time.
    """

    def __init__(self, broadcaster: Broadcaster, access: Access) -> None:
        self._broadcaster = broadcaster
        self._access = access

    async def serve(
        self, request: Request, cors: list[Header], receive: Receive, send: Send
    ) -> None:
        """Authenticate, connect, gather frames, answer; raise `Refused` for a final refusal."""
        request.check_query()
        wait = _wait(request)
        try:
            user = await self._access.user(request, "poll")
            if is_prefetch(request):
                # A prefetch must not use up a token.
                await answer(send, 200, {"frames": []}, cors, head=request.method == "HEAD")
                return
            last_event_id, reconnect_token = presented(request)
            gathered = list[Frame]()
            async with self._access.connect(
                request,
                user,
                "poll",
                last_event_id=last_event_id,
                reconnect_token=reconnect_token,
            ) as connection:
                async with DuplexScope(connection, until_disconnect(receive, connection)):
                    await gather(connection, wait, gathered)
                is_gone = connection.is_over
        except Refused as error:
            if error.reason.status != 503:
                raise
            await _come_back(error, cors, send)
        except BroadcasterFailed:
            await _come_back(failed(), cors, send)
        else:
            if not is_gone:
                await _answer(gathered, cors, send)


def _wait(request: Request) -> float:
    """Return the seconds of the field `wait`, at most `MAX_WAIT`."""
    text = request.query.get("wait")
    if text is None:
        return MAX_WAIT
    if _SECONDS.fullmatch(text) is None:
        raise Refused(Reason.INVALID_QUERY, '"wait" must be a number of seconds')
    return min(MAX_WAIT, float(text))


async def _answer(gathered: list[Frame], cors: list[Header], send: Send) -> None:
    body = frames.with_ids(gathered)
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
        *cors,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _come_back(error: Refused, cors: list[Header], send: Send) -> None:
    """Answer with `Retry-After` and jitter, so that clients do not all return at once."""
    seconds = str(random.randint(2, 10)).encode()  # noqa: S311 - jitter
    await answer_refusal(send, error, [(b"retry-after", seconds), *cors])
