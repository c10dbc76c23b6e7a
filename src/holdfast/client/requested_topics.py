"""RequestedTopics: the topics of a stream, and how the server gets their changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import anyio

from ..errors import RequestRefused
from .connection import CurrentConnection
from .frames import FirstFrame
from .records import Subscribed
from .request_sender import RETRYABLE_ERRORS, RequestSender, ServerReply

RETRY_DELAY = 0.5
"""Seconds between two POSTs on a connection that may have ended without a sign."""


class RequestedTopics:
    """The topics that every request of the stream names.

    A change is made here first. Then the client posts it for the open connection. If the post does
    not reach that connection, the client opens another one, whose request names the new topics.
    """

    def __init__(
        self, sender: RequestSender, connection: CurrentConnection, topics: Iterable[str]
    ) -> None:
        self._sender = sender
        self._connection = connection
        self._topics = dict.fromkeys(topics)
        self._adopts_session = not self._topics
        self._lock = anyio.Lock()

    def names(self) -> Sequence[str]:
        """Return the topics for the next request, sorted."""
        return sorted(self._topics)

    def adopt(self, first_frame: FirstFrame) -> None:
        """Take over the topics of the session, if the application has named none.

        The following requests must name all of them, because a request with topics replaces those
        of the session (docs/protocol.md, section 7).
        """
        if self._adopts_session:
            self._topics = dict.fromkeys(first_frame.topics)
            self._adopts_session = False

    async def subscribe(self, names: Sequence[str]) -> Subscribed:
        """Add topics, and return when the server has confirmed them.

        Raises RequestRefused. After a cancellation the topics stay requested.
        """
        async with self._lock:
            added = [name for name in names if name not in self._topics]
            self._topics.update(dict.fromkeys(names))
            try:
                result = await self._confirm_subscribed(names)
            except RequestRefused:
                self._remove(added)
                raise
            self._remove(name for name in result.rejected if name in added)
            return result

    async def unsubscribe(self, names: Sequence[str]) -> tuple[str, ...]:
        """Remove topics, and return those that the server had sent. Raises RequestRefused."""
        async with self._lock:
            held = tuple(name for name in names if name in self._connection.topics)
            self._remove(names)
            await self._confirm_unsubscribed(names)
            return held

    def _remove(self, names: Iterable[str]) -> None:
        for name in list(names):
            self._topics.pop(name, None)

    async def _confirm_subscribed(self, names: Sequence[str]) -> Subscribed:
        """Wait until the server has confirmed `names`, by its reply or by a newer first frame."""
        connection, before = self._connection, self._connection.number
        while names:
            first_frame = await connection.wait_open()
            if connection.number > before and connection.requested.issuperset(names):
                return _split(names, connection.topics)
            reply = await self._post("/subscribe", first_frame, names)
            if reply is not None:
                listed = reply.body.get("topics")
                items = cast("list[object]", listed) if isinstance(listed, list) else []
                result = _split(names, [item for item in items if isinstance(item, str)])
                connection.add_topics(result.topics)
                return result
        return Subscribed((), ())

    async def _confirm_unsubscribed(self, names: Sequence[str]) -> None:
        """Wait until the server no longer sends `names`."""
        connection = self._connection
        while names:
            first_frame = await connection.wait_open()
            if set(connection.topics).isdisjoint(names):
                return
            if await self._post("/unsubscribe", first_frame, names) is not None:
                connection.remove_topics(names)
                return

    async def _post(
        self, path: str, first_frame: FirstFrame, names: Sequence[str]
    ) -> ServerReply | None:
        """Post a change of topics for the open connection, and return the reply.

        Returns None, after a short wait, if the server has not made the change. Then the caller
        looks at the connection again. Raises RequestRefused if another attempt would not help.
        """
        connection, number = self._connection, self._connection.number
        body = {"connectionId": first_frame.connection_id, "topics": names}
        try:
            reply = await self._sender.post(path, body)
        except RETRYABLE_ERRORS:
            await connection.wait_end(number, max_wait=RETRY_DELAY)
            return None
        if reply.status == 200 and connection.number == number:
            return reply
        if reply.status == 404:
            # The connection has ended, or it belongs to another process of the server. In the
            # first case its end arrives soon. In the second case only a new request helps.
            await connection.wait_end(number, max_wait=RETRY_DELAY)
            if connection.number == number:
                connection.restart("the server does not find the connection")
                await connection.wait_end(number, max_wait=RETRY_DELAY)
            return None
        if 400 <= reply.status < 500 and reply.status != 401 and not reply.is_retryable:
            raise reply.as_error()
        await connection.wait_end(number, max_wait=RETRY_DELAY)
        return None


def _split(names: Sequence[str], held: Iterable[str]) -> Subscribed:
    held = set(held)
    return Subscribed(
        tuple(name for name in names if name in held),
        tuple(name for name in names if name not in held),
    )
