"""Receiver: connects, fills the receive queue, and reconnects until an error ends the stream.

An error ends the stream where another attempt would not change the outcome:

    outcome of an attempt                      before any first frame    later
    ──────────────────────────────────────────────────────────────────────────────────────────
    no connection, 5xx, 408, 425, 429          reconnect                 reconnect
    401, or `closing` with                     reconnect with            reconnect with
      `credentials_expired`, and the token       a new token               a new token
      is a function
    401 otherwise                              error                     reconnect
    `closing` with `reconnect: false`          error                     error
    204                                        error                     error
    any other status or content type           error                     error if the body has an
                                                                           error code of the
                                                                           protocol, else reconnect
    a stream that breaks the protocol          error                     error at the third in a
                                                                           row without a message
                                                                           between, else reconnect
    the token function raises                  its exception             reconnect
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

import anyio
import httpx

from ..errors import ConfigurationError, InvalidStream, RequestRefused, StreamEnded, StreamFailed
from ..reasons import Reason
from .acknowledger import Acknowledger
from .arguments import redact
from .backoff import Backoff, parse_retry_after
from .bearer_token import BearerToken
from .connection import ConnectionLost, CurrentConnection
from .event_stream import EventStreamDecoder, ServerSentEvent
from .frames import ClosingFrame, FirstFrame, ReceivedFrame, UnsubscribedFrame, parse_frame
from .receive_queue import IssuedId, ReceiveQueue
from .records import Gap, Message, Status, StreamState
from .request_sender import RequestSender, quote, read_reply
from .requested_topics import RequestedTopics

_logger = logging.getLogger("holdfast.client")

FIRST_FRAME_TIMEOUT = 10.0
"""Seconds. A server sends the first frame at once, so a later one is held back by a proxy."""

SILENT_HEARTBEATS = 2.5
"""Heartbeat intervals without a byte after which a connection is lost (docs/protocol.md, 11)."""

MIN_SILENCE = 0.5
"""Seconds. A connection is not lost by a shorter silence, even with shorter heartbeat intervals."""

STABLE_AFTER = 5.0
"""Seconds after which an open connection resets the backoff, even if no frame has followed."""

MAX_VIOLATIONS = 3
"""The first two may be bytes that were damaged on the way."""


class Receiver:
    """The task that connects and receives. A cancellation closes the connection."""

    def __init__(
        self,
        sender: RequestSender,
        *,
        token: BearerToken,
        queue: ReceiveQueue[Message | Gap],
        connection: CurrentConnection,
        topics: RequestedTopics,
        acknowledger: Acknowledger,
        backoff: Backoff,
        event_id: str,
        max_frame_bytes: int,
        set_status: Callable[[Status], None],
    ) -> None:
        self._sender = sender
        self._token = token
        self._queue = queue
        self._connection = connection
        self._topics = topics
        self._acknowledger = acknowledger
        self._backoff = backoff
        self._last_event_id = event_id
        self._max_frame_bytes = max_frame_bytes
        self._set_status = set_status
        self._retry = 0.0
        """The newest `retry` field of an event stream, in seconds."""
        self._token_is_new = False
        """True if the newest token was fetched after a refusal and has not worked yet."""
        self._violations = 0
        """Broken streams since the last message."""

    @property
    def _was_open(self) -> bool:
        return self._connection.number > 0

    async def run(self) -> None:
        """Receive for ever. Raises the error that ends the stream."""
        while True:
            self._set_status(Status(state=StreamState.CONNECTING))
            number = self._connection.number
            try:
                await self._attempt()
            except ConnectionLost as lost:
                if not lost.at_once:
                    await self._wait(lost, had_opened=self._connection.number > number)

    async def _wait(self, lost: ConnectionLost, *, had_opened: bool) -> None:
        delay = self._backoff.draw(max(lost.wait or 0.0, self._retry))
        level = logging.INFO if had_opened else logging.WARNING
        _logger.log(level, "%s; next attempt in %.1f s", lost.reason, delay)
        self._set_status(Status(state=StreamState.WAITING, reason=lost.reason, retry_in=delay))
        await anyio.sleep(delay)

    # -- one connection ------------------------------------------------------------------------

    async def _attempt(self) -> None:
        """Connect, and receive until the end. Always raises: ConnectionLost, or an error."""
        await self._fetch_token()
        connection, number, began = self._connection, self._connection.number, anyio.current_time()
        topics = self._topics.names()
        try:
            with connection.attempt(topics, deadline=began + FIRST_FRAME_TIMEOUT) as scope:
                response = await self._sender.open_stream(
                    topics, self._last_event_id, acknowledges=self._acknowledger.is_enabled
                )
                try:
                    await self._check_response(response)
                    await self._receive(response, scope)
                finally:
                    await response.aclose()
        except httpx.LocalProtocolError:
            # The text of httpx would quote the header, and a token with it.
            raise ConfigurationError(
                "the request cannot be sent: look for line breaks in headers"
            ) from None
        except httpx.RequestError as error:
            reason = f"the connection failed: {type(error).__name__} {str(error)[:200]}".rstrip()
            raise ConnectionLost(reason) from None
        except InvalidStream as error:
            self._violations += 1
            if self._violations >= MAX_VIOLATIONS or not self._was_open:
                raise
            raise ConnectionLost(str(error)) from error
        finally:
            if connection.number > number and anyio.current_time() - began >= STABLE_AFTER:
                self._backoff.reset()
        if connection.restart_reason is not None:
            raise ConnectionLost(connection.restart_reason, at_once=True)
        if scope.cancelled_caught:
            raise ConnectionLost("the connection was silent for too long")
        raise ConnectionLost("the server ended the connection without a closing frame")

    async def _fetch_token(self) -> None:
        try:
            await self._token.fetch()
        except ConfigurationError:
            raise
        except Exception:
            if not self._was_open:
                raise
            _logger.exception("the token function failed; the client calls it again later")
            raise ConnectionLost("the token function failed") from None

    async def _receive(self, response: httpx.Response, scope: anyio.CancelScope) -> None:
        """Process the events of the response. `scope` ends the connection after a silence."""
        decoder = EventStreamDecoder(self._max_frame_bytes)
        chunks = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
        async with aclosing(chunks):
            async for chunk in chunks:
                for event in decoder.feed(chunk):
                    self._retry = decoder.retry or 0.0
                    self._process(event)
                first_frame = self._connection.first_frame
                if first_frame is None:
                    continue
                if self._queue.is_full:
                    scope.deadline = float("inf")  # the application is slow, not the server
                    await self._queue.wait_for_room()
                scope.deadline = anyio.current_time() + _max_silence(first_frame)

    async def _check_response(self, response: httpx.Response) -> None:
        """Return if the response is an event stream. Otherwise raise by the table above."""
        content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code == 200 and content_type == "text/event-stream":
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise InvalidStream(
                    "compressed",
                    "the stream is compressed, although the client accepts no compression: look for"
                    " a proxy that compresses",
                    status=200,
                )
            return
        wait = parse_retry_after(response.headers.get("retry-after"))
        reply = await read_reply(response)
        error: StreamFailed = reply.as_error()
        if reply.status == 204:
            # WHATWG HTML, section 9.2: 204 stops clients from reconnecting.
            detail = "the server answered 204, so the client must not reconnect"
            raise RequestRefused("no_content", detail, status=204)
        if reply.status == 401 and self._token.is_renewable:
            raise self._lost_with_new_token(str(error), wait)
        if reply.is_retryable:
            raise ConnectionLost(str(error), wait=wait)
        if reply.status == 200:
            detail = (
                f"the response is {content_type[:100]!a} and not an event stream: check the url"
            )
            error = InvalidStream("not_an_event_stream", detail, status=200)
        elif 300 <= reply.status < 400:
            target = quote(redact(response.headers.get("location", "")), 300)
            detail = f"the server answered {reply.status} and names {target!r}: give the final url"
            error = RequestRefused("redirect", detail, status=reply.status)
        elif reply.code is not None and reply.status != 401:
            raise error
        if not self._was_open:
            raise error
        _logger.warning("%s; it worked before, so the client tries again", error)
        raise ConnectionLost(str(error), wait=wait)

    def _lost_with_new_token(self, reason: str, wait: float | None = None) -> ConnectionLost:
        """Discard the token. The next attempt follows at once, unless the token was new."""
        self._token.discard()
        at_once, self._token_is_new = not self._token_is_new, True
        return ConnectionLost(reason, wait=wait, at_once=at_once)

    # -- frames --------------------------------------------------------------------------------

    def _process(self, event: ServerSentEvent) -> None:
        """Process one event. Raises how the connection ends, if it is the last one."""
        if event.type != "message":
            return  # no frame has another type of event
        frame = parse_frame(event)
        if isinstance(frame, ClosingFrame):
            raise self._process_closing(frame, event.id)
        if self._connection.first_frame is None:
            self._process_first(frame, event.id)
            return
        if isinstance(frame, FirstFrame):
            raise InvalidStream("second_first_frame", "a stream has more than one first frame")
        self._backoff.reset()
        if isinstance(frame, Message | Gap):
            self._violations = 0
            size = len(event.data) + len(event.id)
            self._queue.put(frame, IssuedId(event.id, self._connection.number), size)
            self._last_event_id = event.id or self._last_event_id
        else:
            self._advance(event.id)
        if isinstance(frame, UnsubscribedFrame) and (
            removed := self._connection.reject(frame.topics)
        ):
            _logger.warning("the server has withdrawn the topics %s", removed)

    def _advance(self, event_id: str) -> None:
        """Move the position to an id that needs no handling. An empty id moves nothing."""
        if event_id:
            self._queue.advance(IssuedId(event_id, self._connection.number))
            self._last_event_id = event_id

    def _process_first(self, frame: ReceivedFrame | None, event_id: str) -> None:
        if not isinstance(frame, FirstFrame) or not event_id:
            raise InvalidStream("no_first_frame", "the stream does not begin with a first frame")
        gap = frame.gap
        if frame.session == "fresh" and self._last_event_id:
            # The request named a position, and the server has not read it. A proxy may have dropped
            # the header, so any message may be missing.
            gap = Gap("unknown", None)
        # After `trimmed` with a replay, the gap frames that follow name the same messages.
        resumed = gap is None or (gap.cause == "trimmed" and frame.replay is not None)
        self._connection.open(frame, resumed=resumed)
        self._topics.adopt(frame)
        position = IssuedId(event_id, self._connection.number)
        if gap is not None and not resumed:
            self._queue.put(gap, position, 0)
        self._queue.start_connection(position)
        self._last_event_id = event_id
        self._token_is_new = False
        self._set_status(Status(state=StreamState.OPEN, session=frame.session, replay=frame.replay))
        if frame.rejected:
            _logger.warning("the server has rejected the topics %s", list(frame.rejected[:20]))

    def _process_closing(self, frame: ClosingFrame, event_id: str) -> Exception:
        """Return how the connection ends."""
        if self._connection.first_frame is not None:
            self._advance(event_id)
        reason = quote(frame.reason, 100)
        text = f"the server ended the stream: {reason}"
        if frame.reconnect:
            return ConnectionLost(text)
        if reason == Reason.CREDENTIALS_EXPIRED.word and self._token.is_renewable:
            return self._lost_with_new_token(text)
        return StreamEnded(reason, f"{text}; the client must not reconnect")


def _max_silence(first_frame: FirstFrame) -> float:
    """Return after how many seconds without a byte the connection is lost."""
    if first_frame.heartbeat_interval is None:
        return float("inf")
    return max(MIN_SILENCE, SILENT_HEARTBEATS * first_frame.heartbeat_interval)
