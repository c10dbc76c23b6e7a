"""GET /poll: long polling, for clients behind a proxy that does not pass streams on."""

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
    """The long polling endpoint. Each poll is a connection that resumes the session.

    The connection ends *before* the answer is sent, so that the next poll finds a detached session
    and takes nothing over. A client that did not get an answer presents its last event id again.
    The token in that id is the previous one of the session, which is valid for its grace time.
    """

    def __init__(self, broadcaster: Broadcaster, access: Access) -> None:
        self._broadcaster = broadcaster
        self._access = access

    async def serve(
        self, request: Request, cors: list[Header], receive: Receive, send: Send
    ) -> None:
        """Authenticate, collect frames and answer with them.

        Raises:
            Refused: The client must not come back. Other refusals are answered here.
        """
        request.check_query()
        wait = _wait(request)
        try:
            user = await self._access.user(request, "poll")
            if is_prefetch(request):
                # No connection begins, because it would use up the token.
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
            await _answer_retry(error, cors, send)
        except BroadcasterFailed:
            await _answer_retry(failed(), cors, send)
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


async def _answer_retry(error: Refused, cors: list[Header], send: Send) -> None:
    """Answer with a random `Retry-After`, so that clients do not all return at once."""
    seconds = str(random.randint(2, 10)).encode()  # noqa: S311 - jitter
    await answer_refusal(send, error, [(b"retry-after", seconds), *cors])
