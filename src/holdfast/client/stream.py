"""`connect` and Stream: what the application calls."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import anyio
import httpx
from anyio.abc import TaskGroup

from ..core.validation import check_number
from ..errors import NotRunning
from .acknowledger import Acknowledger
from .arguments import (
    check_callback,
    check_headers,
    check_http,
    check_params,
    check_position,
    check_retry_delays,
    check_token,
    check_topic_arguments,
    check_topics,
    parse_url,
    redact,
)
from .backoff import Backoff
from .bearer_token import BearerToken, TokenSource
from .connection import CurrentConnection
from .receive_queue import IssuedId, ReceiveQueue
from .receiver import Receiver
from .records import Gap, Message, Status, StreamState, Subscribed
from .request_sender import RequestSender
from .requested_topics import RequestedTopics

_logger = logging.getLogger("holdfast.client")

OnGap = Callable[[Gap], Awaitable[object] | object]
"""A plain or coroutine function that handles a gap."""

OnStatus = Callable[[Status], object]
"""A plain function that observes the status of a stream and does not wait."""

CLOSE_TIMEOUT = 0.5
"""Seconds for closing the idle connections of the client's own httpx client."""


def connect(
    url: str,
    *,
    topics: Iterable[str] = (),
    position: str | None = None,
    token: TokenSource | None = None,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    http: httpx.AsyncClient | None = None,
    on_gap: OnGap | None = None,
    on_status: OnStatus | None = None,
    retry_delays: tuple[float, float] = (0.5, 20.0),
    max_frame_bytes: int = 4 * 1024 * 1024,
    max_queue_messages: int = 1000,
    max_queue_bytes: int = 1024 * 1024,
) -> Stream:
    """Return a stream of the messages of a server, for one ``async with`` block.

    The block begins when the first frame has arrived. The client waits without end for a server
    that is not reachable; ``anyio.fail_after`` sets a limit.

    Args:
        url: The address where a `LiveApp` is mounted. A path is joined to the base URL of `http`.
        topics: Topics and patterns. Without any, the stream receives the messages to its user
            only, or, with a `position`, the topics of that session.
        position: The event id to resume after: an earlier `Stream.position`, a
            `Message.event_id`, or the result of `Broadcaster.position`.
        token: The bearer token, or a plain or coroutine function that returns it. The client
            calls the function at the beginning, when the server refuses a token, and when the
            server reports that the token has expired. Two calls never overlap.
        headers: Headers of every request.
        params: Fields of the query of every request.
        http: The httpx client to send with, for cookies, proxies and certificates. The stream
            ignores its timeouts and does not close it.
        on_gap: A plain or coroutine function that is called with each `Gap`, by the task that
            iterates, before the message after the gap. An exception of `on_gap` leaves the
            iteration, and the next iteration reports the same gap again. Without `on_gap`, the
            logger `holdfast.client` gets a warning for each gap.
        on_status: A plain function that is called with each `Status`, by a task of the stream. The
            function must not wait. An exception of `on_status` ends the stream.
        retry_delays: The least and the greatest delay between two attempts, in seconds. Each delay
            is drawn at random between them. If the server asks for a longer one (`retry`,
            `Retry-After`), the client waits as long as that, at most the greatest delay.
        max_frame_bytes: The greatest size of a frame, in bytes. A larger frame counts as a broken
            stream (`InvalidStream`).
        max_queue_messages: The number of unhandled messages at which the client stops reading.
        max_queue_bytes: The size of unhandled messages, in bytes of JSON, at which the client
            stops reading. The queue may exceed both by one chunk from the network.

    Returns:
        A stream that connects when its block is entered.

    Raises:
        ConfigurationError: An argument cannot work. The error names it and the accepted form.
        InvalidTopic: A topic breaks a rule for topics.
    """
    check_http(http)
    address = parse_url(url, http)
    names = check_topics(topics)
    check_position(position)
    check_token(token)
    check_headers(headers, has_token=token is not None, url=address)
    check_params(params)
    check_callback("on_gap", on_gap, may_wait=True)
    check_callback("on_status", on_status, may_wait=False)
    check_retry_delays(retry_delays)
    check_number("max_frame_bytes", max_frame_bytes, whole=True)
    check_number("max_queue_messages", max_queue_messages, whole=True)
    check_number("max_queue_bytes", max_queue_bytes, whole=True)
    return Stream(
        address.copy_merge_params(params or {}),
        topics=names,
        position=position or "",
        token=BearerToken(token),
        headers=headers or {},
        http=http,
        on_gap=on_gap,
        on_status=on_status,
        backoff=Backoff(*retry_delays),
        max_frame_bytes=max_frame_bytes,
        max_queue_messages=max_queue_messages,
        max_queue_bytes=max_queue_bytes,
    )


class Stream:
    """A stream of messages that reconnects and resumes by itself. `connect` returns one.

    ``async for message in stream`` yields each `Message` in the order of the server, without end.
    A message counts as handled when the next one is requested. Then `position` moves past it, and
    the client acknowledges it to the server.

    One task iterates at a time. A stream is entered once. Leaving the block closes the connection
    and leaves no task behind.
    """

    def __init__(
        self,
        url: httpx.URL,
        *,
        topics: Sequence[str],
        position: str,
        token: BearerToken,
        headers: Mapping[str, str],
        http: httpx.AsyncClient | None,
        on_gap: OnGap | None,
        on_status: OnStatus | None,
        backoff: Backoff,
        max_frame_bytes: int,
        max_queue_messages: int,
        max_queue_bytes: int,
    ) -> None:
        self._url = url
        self._on_gap = on_gap
        self._on_status = on_status
        self._status = Status(state=StreamState.CONNECTING)
        self._owns_http, self._http = http is None, http or httpx.AsyncClient()
        self._connection = CurrentConnection()
        self._queue = ReceiveQueue[Message | Gap](
            IssuedId(position, 0), max_items=max_queue_messages, max_bytes=max_queue_bytes
        )
        sender = RequestSender(self._http, url, token=token, headers=headers)
        self._topics = RequestedTopics(sender, self._connection, topics)
        self._acknowledger = Acknowledger(sender, self._queue, self._connection)
        self._receiver = Receiver(
            sender,
            token=token,
            queue=self._queue,
            connection=self._connection,
            topics=self._topics,
            acknowledger=self._acknowledger,
            backoff=backoff,
            event_id=position,
            max_frame_bytes=max_frame_bytes,
            set_status=self._set_status,
        )
        self._tasks: TaskGroup | None = None
        self._is_iterated = False

    def __repr__(self) -> str:
        return (
            f"<holdfast.client.Stream {redact(str(self._url))} {self._status.state.value}"
            f" topics={list(self.topics)} connection_id={self.connection_id!r}>"
        )

    # -- state ---------------------------------------------------------------------------------

    @property
    def position(self) -> str:
        """The event id after every handled message, for `connect(position=…)`.

        Keep it like a cookie: an event id, together with the user's credentials, opens the session.
        """
        return self._connection.with_newest_token(self._queue.position)

    @property
    def status(self) -> Status:
        """The present status."""
        return self._status

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that the server sends to this stream, as the server last reported."""
        return self._connection.topics

    @property
    def rejected(self) -> tuple[str, ...]:
        """The topics that the user may not receive, as the server last reported."""
        return self._connection.rejected

    @property
    def connection_id(self) -> str | None:
        """The server's name for the open connection, or None while none is open."""
        first_frame = self._connection.first_frame
        return None if first_frame is None else first_frame.connection_id

    # -- topics --------------------------------------------------------------------------------

    async def subscribe(self, *topics: str) -> Subscribed:
        """Add topics, and return when the server has confirmed them, also over a reconnect.

        Args:
            topics: Topics and patterns, one by one.

        Returns:
            The given topics that the stream now receives, and those that the user may not receive.

        Raises:
            ConfigurationError: An argument is not a str.
            InvalidTopic: A topic breaks a rule for topics.
            RequestRefused: The server refuses the change, for example as too many topics. The
                stream goes on with the topics from before.
            StreamFailed: The stream has failed.
            NotRunning: The block was not entered, or was left meanwhile.

        Cancellation:
            The topics stay requested: the server may have added them, or adds them with the next
            connection.
        """
        self._check_running()
        return await self._topics.subscribe(check_topic_arguments("subscribe", topics))

    async def unsubscribe(self, *topics: str) -> tuple[str, ...]:
        """Remove topics, and return when the server has confirmed it, also over a reconnect.

        Messages that have arrived before are still yielded.

        Args:
            topics: Topics and patterns, one by one, written as they were subscribed.

        Returns:
            The given topics that the server had been sending.

        Raises:
            ConfigurationError: An argument is not a str.
            InvalidTopic: A topic breaks a rule for topics.
            RequestRefused: The server refuses the change.
            StreamFailed: The stream has failed.
            NotRunning: The block was not entered, or was left meanwhile.

        Cancellation:
            The topics stay removed: the server may have removed them, or removes them with the
            next connection.
        """
        self._check_running()
        return await self._topics.unsubscribe(check_topic_arguments("unsubscribe", topics))

    # -- messages ------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        """Mark the last message as handled, and wait for the next one.

        `on_gap` is called for each gap before that message. A gap counts as handled when `on_gap`
        has returned.

        Returns:
            The next message.

        Raises:
            StreamFailed: The stream has failed. The error is raised after the last message that
                has arrived, and by each further call.
            NotRunning: The block was not entered, or was left meanwhile.
            RuntimeError: Another task iterates over the stream.
            Exception: `on_gap`, `on_status` or the token function has raised it.

        Cancellation:
            No message is lost: the next call returns the one that this call would have returned.
        """
        self._check_running()
        if self._is_iterated:
            raise RuntimeError(
                "another task iterates over this stream: let one task iterate and pass messages on"
            )
        self._is_iterated = True
        try:
            self._queue.mark_handled()
            while isinstance(item := await self._queue.get(), Gap):
                await self._report(item)
        finally:
            self._is_iterated = False
        return item

    async def _report(self, gap: Gap) -> None:
        try:
            if self._on_gap is None:
                _logger.warning("messages are missing: %s (give on_gap to handle this)", gap)
            elif inspect.isawaitable(result := self._on_gap(gap)):
                await result
        except BaseException:
            self._queue.unget()
            raise
        self._queue.mark_handled()

    # -- the block -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect, and return when the first frame has arrived.

        Raises:
            StreamFailed: The server refuses the stream, or does not speak the protocol.
            ConfigurationError: A header cannot be sent, or the token function has not returned a
                token.
            RuntimeError: The stream was entered before.
            Exception: `on_status` or the token function has raised it.

        Cancellation:
            The connection is closed.
        """
        if self._tasks is not None or self._status.state is StreamState.CLOSED:
            raise RuntimeError("a stream is entered once: call connect again")
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            self._tasks = await anyio.create_task_group().__aenter__()
            self._tasks.start_soon(self._run, self._receiver.run)
            self._tasks.start_soon(self._run, self._acknowledger.run)
            await self._connection.wait_open()
            stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection. Other tasks that wait for the stream get `NotRunning`."""
        await self._close()

    async def _close(self) -> None:
        tasks, self._tasks = self._tasks, None
        try:
            if tasks is not None:
                tasks.cancel_scope.cancel()
                # The task group does not get the error of the block: it would wrap it in a group.
                await tasks.__aexit__(None, None, None)
        finally:
            self._fail(NotRunning("the block of the stream was left: call connect again"))
            if self._owns_http:
                with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                    await self._http.aclose()
            self._set_status(Status(state=StreamState.CLOSED))

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run one of the two tasks. Its error ends the stream, and reaches every waiting task."""
        try:
            await work()
        except Exception as error:
            self._fail(error)
            try:
                self._set_status(Status(state=StreamState.CLOSED, reason=str(error)))
            except Exception:
                _logger.exception("on_status failed; the stream had failed before: %s", error)

    def _fail(self, error: Exception) -> None:
        self._connection.fail(error)
        self._queue.close(error)

    def _set_status(self, status: Status) -> None:
        if self._status.state is StreamState.CLOSED:
            return  # CLOSED is final
        self._status = status
        if self._on_status is not None:
            self._on_status(status)

    def _check_running(self) -> None:
        if self._tasks is not None:
            return
        if self._status.state is StreamState.CLOSED:
            raise NotRunning("the block of the stream was left: call connect again")
        raise NotRunning("enter the stream first: async with connect(…) as stream")
