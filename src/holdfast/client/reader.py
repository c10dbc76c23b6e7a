"""Reader: connects, reads frames into the backlog, and comes back, for ever.

What ends it is what a further try would not change:

    answer                                   before a stream was open     later
    ─────────────────────────────────────────────────────────────────────────────────
    5xx, 408, 425, 429, no connection        again                        again
    401, and the token is a callable         asked for, and again         the same
    401                                      error                        again
    `credentials expired`, and a callable    asked for, and again         the same
    `closing`, `reconnect` false; 204        error                        error
    other statuses, another content type     error                        error if the server itself
                                                                          says so, else again
    a stream that breaks the protocol        error                        error at the third in a
                                                                          row without a message
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

import anyio
import httpx

from ..errors import ConfigurationError, InvalidStream, RequestRefused, StreamEnded, StreamFailed
from . import frames
from .backlog import Backlog, Position
from .backoff import Backoff, retry_after
from .endpoint import Endpoint, read_answer
from .event_stream import Event, EventStreamDecoder
from .frames import Closing, Hello, Withdrawn
from .link import Link, LinkLost
from .records import Gap, Message, Status, StreamState
from .subscriptions import Subscriptions

_logger = logging.getLogger("holdfast.client")

OPEN_TIMEOUT = 10.0
"""Seconds until the first frame. It comes at once, unless something on the way holds it back."""

SILENCE = 2.5
"""Heartbeat intervals without a byte, after which the link is given up (docs/protocol.md, 11)."""

LEAST_SILENCE = 0.5
"""Seconds."""

STEADY = 5.0
"""Seconds after which a connection has worked, even if nothing was sent on it."""

MOST_VIOLATIONS = 3
"""A single one may be a bit that fell over on the way."""

AGAIN = {408, 425, 429}


class Reader:
    """Runs in one task. Cancellation closes the response and leaves nothing open."""

    def __init__(
        self,
        endpoint: Endpoint,
        backlog: Backlog[Message | Gap],
        link: Link,
        subscriptions: Subscriptions,
        *,
        backoff: Backoff,
        position: str,
        max_frame_bytes: int,
        tell: Callable[[Status], None],
    ) -> None:
        self.acknowledges = True
        self._endpoint = endpoint
        self._backlog = backlog
        self._link = link
        self._subscriptions = subscriptions
        self._backoff = backoff
        self._last_id = position
        self._max_frame_bytes = max_frame_bytes
        self._tell = tell
        self._retry: float | None = None
        self._renewed = False
        self._violations = 0

    async def run(self) -> None:
        """Read until something ends it for good; that error goes to whoever waits."""
        try:
            while True:
                self._tell(Status(state=StreamState.CONNECTING))
                before = self._link.number
                try:
                    await self._connect()
                except LinkLost as lost:
                    await self._wait(lost, failed=self._link.number == before)
        except Exception as error:
            self._link.fail(error)
            self._backlog.end(error)
            self._tell(Status(state=StreamState.CLOSED, reason=str(error)))

    async def _wait(self, lost: LinkLost, *, failed: bool) -> None:
        if lost.at_once:
            return
        asked = max(lost.wait or 0.0, self._retry or 0.0)
        delay = self._backoff.next(asked)
        level = logging.WARNING if failed else logging.INFO
        _logger.log(level, "%s; next try in %.1f s", lost.reason, delay)
        self._tell(Status(state=StreamState.WAITING, reason=lost.reason, retry_in=delay))
        await anyio.sleep(delay)

    # -- one connection ------------------------------------------------------------------------

    async def _connect(self) -> None:
        """One connection, from the request to its end. Never returns: raises how it ended."""
        await self._authorize()
        before, began = self._link.number, anyio.current_time()
        try:
            with anyio.CancelScope(deadline=began + OPEN_TIMEOUT) as scope:
                self._link.attempt(scope)
                await self._receive(scope)
        except httpx.LocalProtocolError:
            # It would quote the header, and with it a token.
            detail = "the request cannot be sent: look for line breaks in headers"
            raise ConfigurationError(detail) from None
        except httpx.RequestError as error:
            reason = f"the connection failed: {type(error).__name__} {str(error)[:200]}".rstrip()
            raise LinkLost(reason) from None
        except InvalidStream as error:
            self._violations += 1
            if self._violations >= MOST_VIOLATIONS or not self._link.number:
                raise
            raise LinkLost(str(error)) from error
        finally:
            restarts = self._link.restarts
            self._link.lose()
            if self._link.number > before and anyio.current_time() - began >= STEADY:
                self._backoff.reset()
        if restarts is not None:
            raise LinkLost(restarts, at_once=True)
        if scope.cancelled_caught:
            raise LinkLost("nothing was heard for too long")
        raise LinkLost("the stream ended")

    async def _authorize(self) -> None:
        try:
            await self._endpoint.authorize()
        except ConfigurationError:
            raise
        except Exception:
            if not self._link.number:
                raise
            _logger.exception("asking for a token failed; it is asked for again")
            raise LinkLost("asking for a token failed") from None

    async def _receive(self, scope: anyio.CancelScope) -> None:
        response = await self._endpoint.open(
            self._subscriptions.request(), self._last_id, acknowledges=self.acknowledges
        )
        try:
            await self._admit(response)
            decoder = EventStreamDecoder(self._max_frame_bytes)
            raw = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
            async with aclosing(raw) as chunks:
                async for chunk in chunks:
                    for event in decoder.feed(chunk):
                        self._retry = decoder.retry
                        self._take(event)
                    if self._link.hello is None:
                        continue
                    if self._backlog.is_full:
                        scope.deadline = float("inf")
                        await self._backlog.room()
                    scope.deadline = anyio.current_time() + self._silence(self._link.hello)
        finally:
            await response.aclose()

    def _silence(self, hello: Hello) -> float:
        if hello.heartbeat_interval is None:
            return float("inf")
        return max(LEAST_SILENCE, SILENCE * hello.heartbeat_interval)

    async def _admit(self, response: httpx.Response) -> None:
        """Return if this is an event stream; raise what the table above says otherwise."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code == 200 and kind == "text/event-stream":
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise InvalidStream("compressed", "the stream is compressed, unasked", status=200)
            return
        wait = retry_after(response.headers.get("retry-after"))
        answer = await read_answer(response)
        status, error = answer.status, cast("StreamFailed", answer.refused())
        is_open = self._link.number > 0
        if status == 200:
            detail = f"the answer is no event stream but {kind[:100]!a}: is the url right?"
            error = InvalidStream("not_an_event_stream", detail, status=200)
        elif status == 204:
            detail = "the server was told to serve nobody (204)"
            raise RequestRefused("no_content", detail, status=204)
        elif 300 <= status < 400:
            where = ascii(response.headers.get("location", "")[:300])
            detail = f"the server answered {status} and names {where}: give the final url"
            error = RequestRefused("redirect", detail, status=status)
        elif status == 401 and self._endpoint.renews:
            self._renew(str(error), wait)
        elif status == 401:
            if not is_open:
                raise error
        elif status in AGAIN or status >= 500:
            raise LinkLost(str(error), wait=wait)
        elif answer.code is not None:
            raise error
        if not is_open:
            raise error
        _logger.warning("%s; it worked before, so it is tried again", error)
        raise LinkLost(str(error), wait=wait)

    def _renew(self, reason: str, wait: float | None = None) -> None:
        """Try with a new token: at once, unless the last try was with a new one already."""
        self._endpoint.forget()
        at_once, self._renewed = not self._renewed, True
        raise LinkLost(reason, wait=wait, at_once=at_once)

    # -- frames --------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        """Put one event where it belongs."""
        if event.type != "message":
            return  # of a type that no frame has
        frame = frames.read(event)
        if isinstance(frame, Closing):
            self._closing(frame, event)
        if self._link.hello is None:
            self._begin(frame, event)
            return
        if isinstance(frame, Hello):
            raise InvalidStream("second_first_frame", "a stream has one first frame")
        self._backoff.reset()
        position = Position(event.id, self._link.number)
        if isinstance(frame, Message | Gap):
            self._violations = 0
            self._backlog.put(frame, position, len(event.data) + len(event.id))
        elif event.id:
            self._backlog.advance(position)
        self._last_id = event.id or self._last_id
        if isinstance(frame, Withdrawn):
            self._withdraw(frame)

    def _begin(self, frame: frames.Frame, event: Event) -> None:
        if not isinstance(frame, Hello) or not event.id:
            raise InvalidStream("no_first_frame", "the stream does not begin with its first frame")
        gap = frame.gap
        if frame.session == "fresh" and self._last_id:
            # Whoever answers so has not seen what was presented.
            gap = Gap("unknown", None)
        goes_on = gap is None or (gap.cause == "trimmed" and frame.replay is not None)
        self._link.begin(frame, unbroken=goes_on)
        self._subscriptions.begin(frame)
        position = Position(event.id, self._link.number)
        if gap is not None and not goes_on:
            self._backlog.put(gap, position, 0)
        self._backlog.begin(position)
        self._last_id = event.id
        self._renewed = False
        self._tell(Status(state=StreamState.OPEN, session=frame.session, replay=frame.replay))
        if frame.rejected:
            _logger.warning("the server does not let us see %s", list(frame.rejected[:20]))

    def _closing(self, closing: Closing, event: Event) -> None:
        reason = ascii(closing.reason[:100])[1:-1]
        if self._link.hello is not None and event.id:
            self._backlog.advance(Position(event.id, self._link.number))
            self._last_id = event.id
        said = f"the server ended the stream: {reason}"
        if closing.reconnect:
            raise LinkLost(said)
        if reason == "credentials expired" and self._endpoint.renews:
            self._renew(said)
        raise StreamEnded(reason, f"{said}, and not to come back")

    def _withdraw(self, frame: Withdrawn) -> None:
        held = self._link.topics
        gone = [name for name in held if name in set(frame.topics)]
        self._link.topics = tuple(name for name in held if name not in gone)
        self._link.rejected = (*self._link.rejected, *gone)
        _logger.warning("the server does not let us see %s any more", gone)
