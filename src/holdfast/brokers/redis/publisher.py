"""Publishing from processes that serve nobody: a worker, a cron job, a shell.

Nothing runs in the background, and nothing has to be started or closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from redis.exceptions import NoScriptError
from typing_extensions import Unpack

from ...core.message import Offset
from ...core.topics import USER_TOPIC
from ...errors import BrokerUnavailable, OutcomeUnknown
from ...runtime.publishing import MAX_MESSAGE_BYTES, PublishOptions, make_draft
from . import entries, keys, script
from .broker import check_client
from .line import REFUSALS, UNREACHABLE, Client, Line
from .script import Caller, Operation


class Publisher:
    """Publishes to a hub, with redis-py's asyncio client.

        publisher = Publisher(redis.asyncio.Redis.from_url("redis://…"))
        await publisher.publish("orders", {"id": 7})

    What is published while a call is under way goes together in the next one. Raises
    `PublishError` before anything is sent, `BrokerUnavailable` when nothing was published, and
    `OutcomeUnknown` when nobody knows: with an `idempotency_key`, publish it again.
    """

    def __init__(
        self,
        client: Client,
        *,
        hub: str = "main",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_client(client)
        self._line = Line(client, keys.prefix(hub), timeout=timeout, clock=clock)
        self._max_bytes = max_message_bytes
        self._clock = clock

    async def publish(
        self,
        topic: str,
        data: object,
        **options: Unpack[PublishOptions],
    ) -> Offset:
        """Publish, as `Broadcaster.publish` does; on return every node can read it.

        When cancelled, it may have been published.
        """
        operation = _operation(topic, data, options, now=self._clock(), max_bytes=self._max_bytes)
        return Offset(await self._line.call(operation))

    async def publish_to_user(
        self, user: str, data: object, **options: Unpack[PublishOptions]
    ) -> Offset:
        """Publish to all connections of one user, whatever they subscribe to."""
        options["to_user"] = user
        return await self.publish(USER_TOPIC, data, **options)


class SyncClient(Protocol):
    """What is used of redis-py's synchronous `Redis` and `RedisCluster`."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return what it answers."""
        ...


class SyncPublisher:
    """The same for synchronous code, with redis-py's `Redis`; may be shared by threads and forks.

        SyncPublisher(redis.Redis.from_url("redis://…")).publish("orders", {"id": 7})

    How long a call may take is for the client to say (`socket_timeout`).
    """

    def __init__(
        self,
        client: SyncClient,
        *,
        hub: str = "main",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_client(client)
        self._client = client
        self._prefix = keys.prefix(hub)
        self._max_bytes = max_message_bytes
        self._clock = clock
        self._caller = Caller()

    def publish(
        self,
        topic: str,
        data: object,
        **options: Unpack[PublishOptions],
    ) -> Offset:
        """Publish, and block until every node can read it (see `Publisher.publish`)."""
        operation = _operation(topic, data, options, now=self._clock(), max_bytes=self._max_bytes)
        (value,) = self._run(operation).values
        if (why := script.error_of(value)) is not None:
            raise BrokerUnavailable(f"Redis: {why}")
        return Offset(value)

    def publish_to_user(self, user: str, data: object, **options: Unpack[PublishOptions]) -> Offset:
        """Publish to all connections of one user, whatever they subscribe to."""
        options["to_user"] = user
        return self.publish(USER_TOPIC, data, **options)

    def _run(self, operation: Operation) -> script.Answer:
        arguments = script.call(self._caller, self._clock(), [operation])
        try:
            try:
                raw = self._evaluate("EVALSHA", script.SHA, arguments)
            except NoScriptError:
                raw = self._evaluate("EVAL", script.TEXT, arguments)
        except REFUSALS as error:
            raise BrokerUnavailable(f"Redis refused: {error}") from error
        except UNREACHABLE as error:
            raise OutcomeUnknown(f"Redis did not answer: {error!r:.200}") from error
        return script.parse(raw)

    def _evaluate(self, command: str, what: str, arguments: list[script.Argument]) -> Any:
        return self._client.execute_command(command, what, 1, self._prefix, *arguments)


def _operation(
    topic: str,
    data: object,
    options: PublishOptions,
    *,
    now: float,
    max_bytes: int,
) -> Operation:
    draft = make_draft(topic, data, now=now, max_bytes=max_bytes, **options)
    return entries.publish(draft)
