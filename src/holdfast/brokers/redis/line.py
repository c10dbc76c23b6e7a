"""Line: how a process talks to a hub.

Operations that are asked for while a call is under way gather and go together in the next one, in
the order in which they were asked for. So a lone publish waits for one round trip, and a thousand
at once for a few.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from ...errors import BrokerUnavailable, OutcomeUnknown
from . import script
from .bounded import within
from .script import Answer, Caller, Operation

OPERATIONS = 128
"""In one call, at the most: others of the same Redis wait for about two milliseconds."""

CALL_BYTES = 1024 * 1024

CALL_ARGUMENTS = 8192
"""The same: each argument of a page or a survey may be a log to look at."""

RETRY_AFTER = 0.5
"""Seconds for which a server that was not there is not asked again."""

UNREACHABLE = (RedisError, RedisClusterException, OSError, TimeoutError)
REFUSALS = (ResponseError, AuthenticationError, BusyLoadingError)
"""The server did answer, and did nothing."""


Then = Callable[[Any, script.End], Any]
"""Makes something of what an operation answered, and of where the log ends after the call."""


class Client(Protocol):
    """What is used of redis-py's `Redis` and `RedisCluster`."""

    def execute_command(self, *args: Any, **options: Any) -> Awaitable[Any]:
        """Send a command and return what it answers."""
        ...


def connection_settings(client: object) -> dict[str, Any]:
    """With what a client makes its connections; a cluster has no pool of its own."""
    settings: Any = getattr(getattr(client, "connection_pool", client), "connection_kwargs", {})
    return dict(settings)


@dataclass(slots=True, eq=False)
class _Asked:
    operation: Operation
    then: Then | None
    answer: asyncio.Future[Any]


class Line:
    """One per process and hub; belongs to the event loop in which it is used first.

    `on_end` hears where the log ends at every answer, `on_change` whether the server answers.
    A call whose answer did not come is repeated once; the script knows it again, so nothing is
    done twice. `timeout` is how long both may take, in seconds.
    """

    def __init__(
        self, client: Client, prefix: str, *, timeout: float, clock: Callable[[], float]
    ) -> None:
        self.is_up = True
        """Whether the server answered when it was last asked."""
        self.on_end: Callable[[script.End], None] = lambda _: None
        self.on_change: Callable[[bool], None] = lambda _: None
        self._client = client
        self._prefix = prefix
        self._timeout = timeout
        self._clock = clock
        self._caller = Caller()
        self._queue: deque[_Asked] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._has_answered = False

    def ask(self, operation: Operation, then: Then | None = None) -> asyncio.Future[Any]:
        """Ask for an operation; the future holds its answer, or what `then` makes of it.

        Whoever waits for it may be cancelled: the operation is carried out all the same. Fails
        with `BrokerUnavailable` (it was not carried out) or `OutcomeUnknown`.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(operation, then, loop.create_future())
        if not self.is_up and (loop.time() < self._retry_at or self._is_waiting()):
            _fail(asked.answer, BrokerUnavailable("Redis does not answer"))
            return asked.answer
        self._queue.append(asked)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name="holdfast redis line")
        return asked.answer

    async def call(self, operation: Operation, then: Then | None = None) -> Any:
        """`ask`, and wait."""
        return await asyncio.shield(self.ask(operation, then))

    def tell(self, operation: Operation) -> None:
        """`ask` for something whose answer nobody needs."""
        _ = self.ask(operation)

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        return self._clock()

    def _is_waiting(self) -> bool:
        """Whether a call is under way, and nothing gathers for the next one yet."""
        return self._sender is not None and not self._queue

    async def settled(self) -> None:
        """Wait until all that was asked for is answered or has failed."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send_all(self) -> None:
        try:
            while self._queue:
                await self._send(self._gather())
        finally:
            self._sender = None

    def _gather(self) -> list[_Asked]:
        gathered, size, arguments = list[_Asked](), 0, 0
        while self._queue and len(gathered) < OPERATIONS and size < CALL_BYTES:
            arguments += len(self._queue[0].operation.arguments)
            if gathered and arguments > CALL_ARGUMENTS:
                break
            gathered.append(self._queue.popleft())
            size += gathered[-1].operation.size
        return gathered

    async def _send(self, gathered: Sequence[_Asked]) -> None:
        try:
            answer = await self._run([asked.operation for asked in gathered])
        except (BrokerUnavailable, OutcomeUnknown) as error:
            self._changed(is_up=False)
            for asked in gathered:
                _fail(asked.answer, error)
            while self._queue:  # they were not sent, and have waited as long
                _fail(self._queue.popleft().answer, BrokerUnavailable(str(error)))
        except BaseException as error:
            for asked in [*gathered, *self._queue]:
                _fail(asked.answer, OutcomeUnknown(repr(error)))
            self._queue.clear()
            raise
        else:
            self._changed(is_up=True)
            self.on_end(answer.end)
            for asked, value in zip(gathered, answer.values, strict=True):
                self._settle(asked, value, answer.end)

    def _settle(self, asked: _Asked, value: Any, end: script.End) -> None:
        if (why := script.error_of(value)) is not None:
            _fail(asked.answer, OutcomeUnknown(f"Redis: {why}"))
            return
        try:
            result = value if asked.then is None else asked.then(value, end)
        except Exception as error:
            _fail(asked.answer, error)
        else:
            if not asked.answer.done():
                asked.answer.set_result(result)

    async def _run(self, operations: Sequence[Operation]) -> Answer:
        """Run operations in one call; raises `BrokerUnavailable` or `OutcomeUnknown`."""
        arguments = script.call(self._caller, self._clock(), operations)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        may_have_run = False
        failure: Exception = TimeoutError()
        if not (self.is_up and self._has_answered):
            await self._ping()
        for until in (deadline - self._timeout / 2, deadline):
            try:
                return script.parse(await within(until - loop.time(), self._evaluate(arguments)))
            except REFUSALS as error:
                await self._leave_replica(error)
                if not may_have_run:
                    raise BrokerUnavailable(f"Redis refused: {error}") from error
            except UNREACHABLE as error:
                may_have_run, failure = True, error
        raise OutcomeUnknown(f"Redis did not answer: {failure!r:.200}") from failure

    async def _ping(self) -> None:
        """Raise `BrokerUnavailable` while the server does not answer: nothing was sent, then."""
        try:
            await within(self._timeout / 2, self._client.execute_command("PING"))
        except UNREACHABLE as error:
            raise BrokerUnavailable(
                f"Redis does not answer, or lets nobody in: {error!r:.200}"
            ) from error
        self._has_answered = True

    async def _evaluate(self, arguments: Sequence[script.Argument]) -> Any:
        try:
            return await self._client.execute_command(
                "EVALSHA", script.SHA, 1, self._prefix, *arguments
            )
        except NoScriptError:
            return await self._client.execute_command(
                "EVAL", script.TEXT, 1, self._prefix, *arguments
            )

    async def _leave_replica(self, error: Exception) -> None:
        """The server has become a replica: let the next connection find the primary."""
        pool: Any = getattr(self._client, "connection_pool", None)
        if "READONLY" in str(error) or "read only" in str(error):
            with contextlib.suppress(*UNREACHABLE, AttributeError, TypeError):
                await pool.disconnect(inuse_connections=False)

    def _changed(self, *, is_up: bool) -> None:
        if not is_up:
            self._retry_at = asyncio.get_running_loop().time() + RETRY_AFTER
        if is_up is not self.is_up:
            self.is_up = is_up
            self.on_change(is_up)


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # whoever asked may have left
