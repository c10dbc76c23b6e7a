"""Publisher and SyncPublisher: publishing from processes that serve no client.

They run no background task, and need neither start nor close.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from redis.exceptions import NoScriptError
from typing_extensions import Unpack

from ...core.message import Offset
from ...core.publishing import MAX_MESSAGE_BYTES, PublishOptions, make_draft
from ...core.topics import USER_TOPIC
from ...errors import BrokerUnavailable, OutcomeUnknown
from . import entries, keys, script
from .script import CallIds, Operation
from .script_client import REFUSALS, UNREACHABLE, Client, ScriptClient, check_client


class Publisher:
    """Publishes to a namespace, with redis-py's asyncio client.

        async with redis.asyncio.Redis.from_url("redis://…") as client:
            await Publisher(client).publish("orders", {"id": 7})

    Messages that are published while a call is under way go together in the next call. A Publisher
    and its client belong to one event loop: make both inside the loop that uses them.

    Args:
        client: An asyncio client of redis-py, with `decode_responses=False`.
        namespace: The namespace of the nodes.
        max_message_bytes: The size of an encoded message, at most.
        timeout: Seconds until a call to Redis has failed.
        clock: Returns seconds since the Unix epoch.

    Raises:
        ConfigurationError: The namespace is invalid, or the client decodes replies.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str = "main",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_client(client, is_async=True)
        prefix = keys.prefix(namespace)
        self._namespace = namespace
        self._scripts = ScriptClient(client, prefix, timeout=timeout, clock=clock)
        self._max_bytes = max_message_bytes
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Publisher namespace={self._namespace!r}>"

    async def publish(
        self,
        topic: str,
        data: object,
        **options: Unpack[PublishOptions],
    ) -> Offset:
        """Publish a message, and return when every node can read it.

        Args:
            topic: The topic of the message.
            data: Any object that has a JSON form.
            **options: As in `Broadcaster.publish`.

        Returns:
            The offset of the message in the log.

        Raises:
            PublishError: The message is invalid; no call was made.
            BrokerUnavailable: The message was not published.
            OutcomeUnknown: The message may have been published. Publishing it again with the same
                `idempotency_key` does not publish it twice.
            WrongThread: The client belongs to another event loop.

        Cancellation:
            The message may have been published.
        """
        operation = _publish_operation(
            topic, data, options, now=self._clock(), max_bytes=self._max_bytes
        )
        return Offset(await self._scripts.call(operation))

    async def publish_to_user(
        self, user: str, data: object, **options: Unpack[PublishOptions]
    ) -> Offset:
        """Publish to all connections of one user, independent of their subscriptions.

        Args:
            user: The id of the user.
            data: Any object that has a JSON form.
            **options: As in `Broadcaster.publish`.

        Returns, Raises: as `publish`.

        Cancellation:
            The message may have been published.
        """
        options["to_user"] = user
        return await self.publish(USER_TOPIC, data, **options)


class SyncClient(Protocol):
    """The part of redis-py's synchronous `Redis` and `RedisCluster` that is used."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return the reply."""
        ...


class SyncPublisher:
    """Publishes to a namespace from synchronous code, with redis-py's `Redis`.

        SyncPublisher(redis.Redis.from_url("redis://…")).publish("orders", {"id": 7})

    Threads may share a SyncPublisher, and so may forked processes.

    Args:
        client: A synchronous client of redis-py, with `decode_responses=False`. Its
            `socket_timeout` is the only bound of a call.
        namespace: The namespace of the nodes.
        max_message_bytes: The size of an encoded message, at most.
        clock: Returns seconds since the Unix epoch.

    Raises:
        ConfigurationError: The namespace is invalid, or the client decodes replies.
    """

    def __init__(
        self,
        client: SyncClient,
        *,
        namespace: str = "main",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_client(client, is_async=False)
        self._client = client
        self._prefix = keys.prefix(namespace)
        self._namespace = namespace
        self._max_bytes = max_message_bytes
        self._clock = clock
        self._ids = CallIds()

    def __repr__(self) -> str:
        return f"<SyncPublisher namespace={self._namespace!r}>"

    def publish(
        self,
        topic: str,
        data: object,
        **options: Unpack[PublishOptions],
    ) -> Offset:
        """Publish a message, and block until every node can read it.

        Args:
            topic: The topic of the message.
            data: Any object that has a JSON form.
            **options: As in `Broadcaster.publish`.

        Returns, Raises: as `Publisher.publish`, except `WrongThread`.
        """
        operation = _publish_operation(
            topic, data, options, now=self._clock(), max_bytes=self._max_bytes
        )
        (output,) = self._run(operation).outputs
        if (error := script.error_text(output)) is not None:
            raise BrokerUnavailable(f"Redis: {error}")
        return Offset(output)

    def publish_to_user(self, user: str, data: object, **options: Unpack[PublishOptions]) -> Offset:
        """Publish to all connections of one user, independent of their subscriptions.

        Args:
            user: The id of the user.
            data: Any object that has a JSON form.
            **options: As in `Broadcaster.publish`.

        Returns, Raises: as `publish`.
        """
        options["to_user"] = user
        return self.publish(USER_TOPIC, data, **options)

    def _run(self, operation: Operation) -> script.Reply:
        arguments = script.encode_call(self._ids, self._clock(), [operation])
        try:
            try:
                raw = self._evaluate("EVALSHA", script.SHA, arguments)
            except NoScriptError:
                raw = self._evaluate("EVAL", script.TEXT, arguments)
        except REFUSALS as error:
            raise BrokerUnavailable(f"Redis refused: {error}") from error
        except UNREACHABLE as error:
            raise OutcomeUnknown(f"Redis did not reply: {error!r:.200}") from error
        return script.decode_reply(raw)

    def _evaluate(self, command: str, code: str, arguments: list[script.Argument]) -> Any:
        return self._client.execute_command(command, code, 1, self._prefix, *arguments)


def _publish_operation(
    topic: str,
    data: object,
    options: PublishOptions,
    *,
    now: float,
    max_bytes: int,
) -> Operation:
    draft = make_draft(topic, data, now=now, max_bytes=max_bytes, **options)
    return entries.publish_operation(draft)
