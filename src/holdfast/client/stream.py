"""Stream: what a consumer holds."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import anyio
import httpx
from anyio.abc import TaskGroup

from ..core.cursor import EventId
from ..core.validation import check_number
from ..errors import ConfigurationError, NotRunning
from .acknowledging import Acknowledging
from .backlog import Backlog, Position
from .backoff import Backoff
from .endpoint import Endpoint, Token
from .frames import MAX_ID, is_sendable
from .link import Link
from .reader import Reader
from .records import Gap, Message, Status, StreamState, Subscribed
from .subscriptions import Subscriptions

_logger = logging.getLogger("holdfast.client")

OnGap = Callable[[Gap], Awaitable[object] | object]
OnStatus = Callable[[Status], object]

CLOSE_TIMEOUT = 0.5
"""Seconds for idle connections to be closed."""


class Stream:
    """A stream of messages that resumes by itself; `connect` makes it. For one `async with`.

    To iterate over it gives `Message`s, for ever, in the order of the server; it raises
    `StreamFailed` when coming back would not help. One task iterates at a time. A message counts
    as handled when the next one is asked for: then `position` moves past it, and the server is
    told. To cancel the iteration, or to leave the block, loses nothing: the position says where
    to go on. Leaving closes the connection and leaves no task behind.
    """

    def __init__(
        self,
        url: str,
        *,
        topics: Iterable[str],
        position: str | None,
        token: Token | None,
        headers: Mapping[str, str] | None,
        params: Mapping[str, str] | None,
        http: httpx.AsyncClient | None,
        on_gap: OnGap | None,
        on_status: OnStatus | None,
        retry_delays: tuple[float, float],
        max_frame_bytes: int,
        backlog_messages: int,
        backlog_bytes: int,
    ) -> None:
        least, most = retry_delays
        check_number("retry_delays[0]", least, zero=True)
        check_number("retry_delays[1]", most)
        if least > most:
            raise ConfigurationError(f"retry_delays={retry_delays}: the least is over the most")
        check_number("max_frame_bytes", max_frame_bytes, whole=True)
        check_number("backlog_messages", backlog_messages, whole=True)
        check_number("backlog_bytes", backlog_bytes, whole=True)
        position = position or ""
        if not is_sendable(position) or len(position) > MAX_ID:
            raise ConfigurationError("position is no event id: give what `stream.position` was")
        self._owns_http, self._http = http is None, http or httpx.AsyncClient()
        self._on_gap = on_gap
        self._on_status = on_status
        self._status = Status(state=StreamState.CONNECTING)
        self._link = Link()
        self._backlog = Backlog[Message | Gap](
            Position(position, 0), max_items=backlog_messages, max_bytes=backlog_bytes
        )
        endpoint = Endpoint(
            self._http, url, token=token, headers=headers or {}, params=params or {}
        )
        self._subscriptions = Subscriptions(endpoint, self._link, topics)
        self._reader = Reader(
            endpoint,
            self._backlog,
            self._link,
            self._subscriptions,
            backoff=Backoff(least, most),
            position=position,
            max_frame_bytes=max_frame_bytes,
            tell=self._tell,
        )
        self._acknowledging = Acknowledging(endpoint, self._backlog, self._link, self._reader)
        self._tasks: TaskGroup | None = None
        self._is_iterated = False

    # -- what there is to know -----------------------------------------------------------------

    @property
    def position(self) -> str:
        """Where to go on after everything that has been handled: for `connect(position=…)`.

        It opens a session, beside credentials: keep it like a cookie.
        """
        id, number = self._backlog.position
        if self._link.unbroken_since <= number < self._link.number:
            # A session knows the tokens of its last two connections only. The place, together
            # with the newest token, is what that session has as well (protocol.md, section 7).
            known, newest = EventId.parse(id), self._link.token
            if known is not None:
                return str(EventId(known.epoch, known.cursor, newest))
        return id

    @property
    def status(self) -> Status:
        """What the stream is doing."""
        return self._status

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that the server lets this stream have."""
        return self._link.topics

    @property
    def rejected(self) -> tuple[str, ...]:
        """The topics that it does not."""
        return self._link.rejected

    @property
    def connection_id(self) -> str | None:
        """The server's name for the connection of now; `None` while there is none."""
        return None if self._link.hello is None else self._link.hello.connection_id

    # -- topics --------------------------------------------------------------------------------

    async def subscribe(self, *topics: str) -> Subscribed:
        """Add topics, from now on; returns when the server has taken them, also after a reconnect.

        Raises `InvalidTopic`, and `RequestRefused` (too many). Cancelled, it may have happened.
        """
        self._check_running()
        return await self._subscriptions.subscribe(topics)

    async def unsubscribe(self, *topics: str) -> tuple[str, ...]:
        """Remove topics, and return those that were held. What was read already still comes."""
        self._check_running()
        return await self._subscriptions.unsubscribe(topics)

    # -- messages ------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        """The next message; the one before it has been handled.

        Gaps that stand before it are told first (`on_gap`), and count as handled when that has
        returned. Cancelled, nothing has changed.
        """
        self._check_running()
        if self._is_iterated:
            raise RuntimeError("another task iterates over this stream")
        self._is_iterated = True
        try:
            self._backlog.settle()
            while isinstance(item := await self._backlog.next(), Gap):
                await self._tell_gap(item)
        finally:
            self._is_iterated = False
        return item

    async def _tell_gap(self, gap: Gap) -> None:
        try:
            if self._on_gap is None:
                _logger.warning("messages are missing: %s (give on_gap to handle this)", gap)
            elif inspect.isawaitable(told := self._on_gap(gap)):
                await told
        except BaseException:
            self._backlog.put_back()
            raise
        self._backlog.settle()

    # -- the block -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._tasks is not None or self._status.state is StreamState.CLOSED:
            raise RuntimeError("a stream is for one `async with`: connect again")
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            self._tasks = await anyio.create_task_group().__aenter__()
            self._tasks.start_soon(self._guarded, self._reader.run)
            self._tasks.start_soon(self._guarded, self._acknowledging.run)
            await self._link.opened()
            stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        tasks, self._tasks = self._tasks, None
        try:
            if tasks is not None:
                # Without the error of the block: a group would wrap it.
                tasks.cancel_scope.cancel()
                await tasks.__aexit__(None, None, None)
        finally:
            self._fail(NotRunning("the stream's block was left"))  # other tasks may wait
            if self._owns_http:
                with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                    await self._http.aclose()
            if self._status.state is not StreamState.CLOSED:
                self._tell(Status(state=StreamState.CLOSED))

    async def _guarded(self, run: Callable[[], Awaitable[None]]) -> None:
        """Whatever ends a task of ours, ends the stream, and is raised where it is read."""
        try:
            await run()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._link.fail(error)
        self._backlog.end(error)

    def _tell(self, status: Status) -> None:
        self._status = status
        if self._on_status is not None:
            self._on_status(status)

    def _check_running(self) -> None:
        if self._tasks is None:
            raise NotRunning("the stream is used outside its `async with` block")


def connect(
    url: str,
    *,
    topics: Iterable[str] = (),
    position: str | None = None,
    token: Token | None = None,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    http: httpx.AsyncClient | None = None,
    on_gap: OnGap | None = None,
    on_status: OnStatus | None = None,
    retry_delays: tuple[float, float] = (0.5, 20.0),
    max_frame_bytes: int = 4 * 1024 * 1024,
    backlog_messages: int = 1000,
    backlog_bytes: int = 1024 * 1024,
) -> Stream:
    """A stream of what is published at `url`, where a `LiveApp` is mounted.

    The block of ``async with connect(…) as stream`` begins when the first frame is here. A server
    that is not there is waited for without end (`anyio.fail_after` bounds it); an answer that a
    further try would not change raises `StreamFailed`, `ConfigurationError` what cannot be sent.

    - `topics`: topics and patterns; none: only what is the user's own, or, with a `position`, the
      topics of that session.
    - `position`: go on after this event id (`stream.position`, `message.id`, or what
      `Broadcaster.position` gave).
    - `token`: the bearer token, or a plain or coroutine function that is asked for it at the
      beginning, after a 401, and when the server says that it has expired.
    - `headers`, `params`: sent with every request; for the cookies, proxies and certificates, give
      an own `http` client. It is not closed here.
    - `on_gap`: called before the message that follows a gap, by the task that iterates; plain or
      coroutine function. What it raises comes out of the iteration, and the gap is told again.
      Without it, gaps are logged as warnings (logger `holdfast.client`).
    - `on_status`: called with each `Status`, by a task of the stream: it must not wait.
    - `retry_delays`: between which seconds a try waits, with full jitter; what the server asks for
      (`retry`, `Retry-After`) counts up to the second.
    - `max_frame_bytes`: of one frame; more ends the stream with an error.
    - `backlog_messages`, `backlog_bytes` (of their JSON): how much is read before it is handled;
      one chunk from the network may be on top.
    """
    return Stream(
        url,
        topics=topics,
        position=position,
        token=token,
        headers=headers,
        params=params,
        http=http,
        on_gap=on_gap,
        on_status=on_status,
        retry_delays=retry_delays,
        max_frame_bytes=max_frame_bytes,
        backlog_messages=backlog_messages,
        backlog_bytes=backlog_bytes,
    )
