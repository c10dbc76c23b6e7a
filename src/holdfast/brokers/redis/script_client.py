"""ScriptClient: calls the script, and gathers the operations that are submitted meanwhile.

Operations that are submitted while a call is under way go together in the next call, in the order
in which they were submitted. A lone publish takes one round trip, and a thousand at once a few.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from ...errors import BrokerUnavailable, ConfigurationError, OutcomeUnknown, WrongThread
from . import script
from .script import CallIds, LogState, Operation, Reply
from .timeouts import run_with_timeout

OPERATIONS_PER_CALL = 128
"""At most; other clients of the same Redis wait for about two milliseconds."""

BYTES_PER_CALL = 1024 * 1024

ARGUMENTS_PER_CALL = 8192
"""At most; each argument of a page or a summary may be a topic log to look at."""

RETRY_AFTER = 0.5
"""Seconds after a failed call in which no other call is tried."""

UNREACHABLE = (RedisError, RedisClusterException, OSError, TimeoutError)

REFUSALS = (ResponseError, AuthenticationError, BusyLoadingError)
"""Replies of a server that has done nothing."""

OTHER_LOOP = (
    "the Redis client was first used in another event loop, and its connections belong to that "
    "loop: make a new client, and a new RedisBroker or Publisher, for each event loop (in the "
    "function that makes the application, or in the coroutine given to asyncio.run); synchronous "
    "code publishes with SyncPublisher"
)

_loops: WeakKeyDictionary[object, asyncio.AbstractEventLoop] = WeakKeyDictionary()
"""The event loop in which each client was first used. A client does not have it itself."""

Decoder = Callable[[Any, LogState], Any]
"""Makes the result of an operation from its output and from the state of the log after the call."""


class Client(Protocol):
    """The part of redis-py's asyncio `Redis` and `RedisCluster` that is used."""

    def execute_command(self, *args: Any, **options: Any) -> Awaitable[Any]:
        """Send a command and return the reply."""
        ...


def connection_settings(client: object) -> dict[str, Any]:
    """Return the settings of a client's connections. A cluster client has no pool of its own."""
    settings: Any = getattr(getattr(client, "connection_pool", client), "connection_kwargs", {})
    return dict(settings)


def check_client(client: object, *, is_async: bool) -> None:
    """Check that `client` is one of redis-py, and of the right kind.

    Raises:
        TypeError: The client is a URL, a class, or synchronous in place of asynchronous.
        ConfigurationError: The client decodes replies, but messages are bytes.
    """
    kind = "redis.asyncio.Redis" if is_async else "redis.Redis"
    execute: Any = getattr(client, "execute_command", None)
    is_other_kind = inspect.iscoroutinefunction(execute) is not is_async
    is_of_redis = type(client).__module__.partition(".")[0] == "redis"
    if isinstance(client, type) or execute is None or (is_of_redis and is_other_kind):
        given = f"{type(client).__module__}.{type(client).__qualname__}"  # no URL with a password
        raise TypeError(f"client is a {given}: pass {kind}.from_url('redis://localhost')")
    if connection_settings(client).get("decode_responses"):
        raise ConfigurationError(
            "the Redis client has decode_responses=True: make a client without it for holdfast"
        )


@dataclass(slots=True, eq=False)
class _Submission:
    operation: Operation
    decode: Decoder | None
    result: asyncio.Future[Any]


class ScriptClient:
    """Runs operations of the script for one process and namespace.

    A call without a reply is repeated once. The script recognizes the repetition, so no operation
    runs twice (tests/brokers/redis/test_script_client.py cuts the connection at each byte).

    A client and its ScriptClients belong to one event loop: that of the first operation.

    Args:
        client: An asyncio client of redis-py.
        prefix: The prefix of all keys (`keys.prefix`).
        timeout: Seconds that a call and its repetition may take together.
        clock: Returns seconds since the Unix epoch.
        on_log_state: Called with the state of the log, after each reply and before its results.
        on_availability: Called when the server stops replying (False), and when it replies again.
    """

    def __init__(
        self,
        client: Client,
        prefix: str,
        *,
        timeout: float,
        clock: Callable[[], float],
        on_log_state: Callable[[LogState], None] | None = None,
        on_availability: Callable[[bool], None] | None = None,
    ) -> None:
        self.is_available = True
        """True if the server replied to the last call, or no call was made."""
        self._client = client
        self._prefix = prefix
        self._timeout = timeout
        self._clock = clock
        self._on_log_state = on_log_state
        self._on_availability = on_availability
        self._ids = CallIds()
        self._queue: deque[_Submission] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sender: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._has_replied = False

    def submit(self, operation: Operation, decode: Decoder | None = None) -> asyncio.Future[Any]:
        """Submit an operation, and return a future of its result.

        Cancelling the future does not cancel the operation.

        Args:
            operation: The operation to run.
            decode: Makes the result; without it, the result is the output of the operation.

        Returns:
            A future, which fails with `BrokerUnavailable` if the operation did not run, and with
            `OutcomeUnknown` if it may have run.

        Raises:
            WrongThread: The client was first used in another event loop.
        """
        loop = asyncio.get_running_loop()
        self.check_loop(loop)
        submission = _Submission(operation, decode, loop.create_future())
        is_sending = self._sender is not None and not self._queue
        if not self.is_available and (is_sending or loop.time() < self._retry_at):
            _fail(submission.result, BrokerUnavailable("Redis does not reply"))
            return submission.result
        self._queue.append(submission)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name="holdfast redis calls")
        return submission.result

    async def call(self, operation: Operation, decode: Decoder | None = None) -> Any:
        """Submit an operation, and wait for its result (see `submit`).

        Cancellation:
            The operation runs all the same.
        """
        return await asyncio.shield(self.submit(operation, decode))

    def submit_nowait(self, operation: Operation) -> None:
        """Submit an operation, and drop its result and its error."""
        _ = self.submit(operation)

    def check_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raise `WrongThread` if the client was first used in another event loop than `loop`."""
        if self._loop is None:
            self._loop = _loops.setdefault(self._client, loop)
        if self._loop is not loop:
            raise WrongThread(OTHER_LOOP)

    def now(self) -> float:
        """Return the seconds since the Unix epoch."""
        return self._clock()

    async def wait_idle(self) -> None:
        """Wait until every submitted operation has a result or has failed."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send_all(self) -> None:
        try:
            while self._queue:
                await self._send(self._gather())
        finally:
            self._sender = None

    def _gather(self) -> list[_Submission]:
        """Take the operations of the next call off the queue."""
        gathered, size, arguments = list[_Submission](), 0, 0
        while self._queue and len(gathered) < OPERATIONS_PER_CALL and size < BYTES_PER_CALL:
            arguments += len(self._queue[0].operation.arguments)
            if gathered and arguments > ARGUMENTS_PER_CALL:
                break
            gathered.append(self._queue.popleft())
            size += gathered[-1].operation.size
        return gathered

    async def _send(self, gathered: Sequence[_Submission]) -> None:
        try:
            reply = await self._run([each.operation for each in gathered])
        except (BrokerUnavailable, OutcomeUnknown) as error:
            self._set_available(is_available=False)
            for each in gathered:
                _fail(each.result, error)
            self._fail_queue(BrokerUnavailable(str(error)))
        except WrongThread as error:
            for each in gathered:
                _fail(each.result, error)
            self._fail_queue(error)
        except BaseException as error:
            for each in gathered:
                _fail(each.result, OutcomeUnknown(repr(error)))
            self._fail_queue(BrokerUnavailable(repr(error)))
            raise
        else:
            self._set_available(is_available=True)
            if self._on_log_state is not None:
                self._on_log_state(reply.log_state)
            for each, output in zip(gathered, reply.outputs, strict=True):
                _finish(each, output, reply.log_state)

    def _fail_queue(self, error: Exception) -> None:
        """Fail the operations that were not sent; they have waited as long as the others."""
        while self._queue:
            _fail(self._queue.popleft().result, error)

    async def _run(self, operations: Sequence[Operation]) -> Reply:
        """Run operations in one call; raises `BrokerUnavailable` or `OutcomeUnknown`."""
        arguments = script.encode_call(self._ids, self._clock(), operations)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        may_have_run = False
        failure: Exception = TimeoutError()
        if not (self.is_available and self._has_replied):
            await self._ping()
        for until in (deadline - self._timeout / 2, deadline):
            try:
                raw = await run_with_timeout(until - loop.time(), self._evaluate(arguments))
                return script.decode_reply(raw)
            except REFUSALS as error:
                await self._disconnect_from_replica(error)
                if not may_have_run:
                    raise BrokerUnavailable(f"Redis refused: {error}") from error
            except UNREACHABLE as error:
                may_have_run, failure = True, error
        raise OutcomeUnknown(f"Redis did not reply: {failure!r:.200}") from failure

    async def _ping(self) -> None:
        """Raise `BrokerUnavailable` if the server does not reply: no operation was sent yet."""
        try:
            await run_with_timeout(self._timeout / 2, self._client.execute_command("PING"))
        except UNREACHABLE as error:
            raise BrokerUnavailable(
                f"Redis does not reply, or refuses the connection: {error!r:.200}"
            ) from error
        except RuntimeError as error:
            # The application itself used the client in another loop. asyncio has no type of its
            # own for "Event loop is closed" and "attached to a different loop".
            if "loop" in str(error):
                raise WrongThread(OTHER_LOOP) from error
            raise
        self._has_replied = True

    async def _evaluate(self, arguments: Sequence[script.Argument]) -> Any:
        try:
            return await self._client.execute_command(
                "EVALSHA", script.SHA, 1, self._prefix, *arguments
            )
        except NoScriptError:
            return await self._client.execute_command(
                "EVAL", script.TEXT, 1, self._prefix, *arguments
            )

    async def _disconnect_from_replica(self, error: Exception) -> None:
        """Close idle connections to a server that is now a replica: new ones find the primary."""
        pool: Any = getattr(self._client, "connection_pool", None)
        if "READONLY" in str(error) or "read only" in str(error):
            with contextlib.suppress(*UNREACHABLE, AttributeError, TypeError):
                await pool.disconnect(inuse_connections=False)

    def _set_available(self, *, is_available: bool) -> None:
        if not is_available:
            self._retry_at = asyncio.get_running_loop().time() + RETRY_AFTER
        if is_available is not self.is_available:
            self.is_available = is_available
            if self._on_availability is not None:
                self._on_availability(is_available)


def _finish(submission: _Submission, output: Any, log_state: LogState) -> None:
    if (text := script.error_text(output)) is not None:
        _fail(submission.result, OutcomeUnknown(f"Redis: {text}"))
        return
    decode = submission.decode
    try:
        result = output if decode is None else decode(output, log_state)
    except Exception as error:
        _fail(submission.result, error)
    else:
        if not submission.result.done():
            submission.result.set_result(result)


def _fail(result: asyncio.Future[Any], error: Exception) -> None:
    if not result.done():
        result.set_exception(error)
        result.exception()  # marks it as retrieved: the caller may have been cancelled
