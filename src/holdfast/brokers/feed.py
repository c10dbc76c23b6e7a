"""Feed: the newest messages of a log, and the tasks that wait for more of them."""

from __future__ import annotations

import asyncio
from collections import deque

from ..core.cursor import Head
from ..core.message import Message, Offset
from ..errors import NotRunning
from .protocol import Batch

FEED_MESSAGES = 4096
"""Messages in the feed, at most. A follower that is further behind reads from the history."""

FEED_BYTES = 4 * 1024 * 1024
"""Bytes of all bodies in the feed, at most."""


class Feed:
    """The implementation of `Broker.follow`, for one event loop.

    Invariant (tests/contract/test_feed.py): a batch contains every message up to its head, or it
    is marked as truncated.
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        """The end of the log; `None` while the feed is closed."""
        self.unread = 0
        """Messages that were appended since the last call of `follow` returned."""
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._failure: BaseException | None = None

    def restart(self, head: Head) -> None:
        """Open the feed at `head`, without the messages from before."""
        self.head, self._failure = head, None
        self._messages.clear()
        self._bytes = self.unread = 0
        self._wake()

    def append(self, message: Message) -> None:
        """Add the next message, and wake all followers."""
        assert self.head is not None
        self.head = Head(self.head.epoch, message.offset)
        self.unread += 1
        self._messages.append(message)
        self._bytes += len(message.body)
        while len(self._messages) > FEED_MESSAGES or self._bytes > FEED_BYTES:
            self._bytes -= len(self._messages.popleft().body)
        self._wake()

    def skip_to(self, offset: Offset) -> None:
        """Move the head past messages that were not seen; followers read them from the history."""
        assert self.head is not None
        self.head = Head(self.head.epoch, offset)
        self._wake()

    def close(self, failure: BaseException | None = None) -> None:
        """Close the feed; all waiting tasks raise `failure`, or `NotRunning` without one."""
        self.head, self._failure = None, failure
        self._wake()

    def current_head(self) -> Head:
        """Return the end of the log.

        Raises:
            NotRunning: The feed is closed; or the failure that it was closed with.
        """
        if self.head is None:
            raise self._failure or NotRunning("the broker is not started, or closed")
        return self.head

    async def wait(self) -> None:
        """Wait for the next change; cancellation has no effect on the feed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def follow(self, position: Head) -> Batch:
        """Return all messages after `position`, and wait until there is one (`Broker.follow`).

        A `position` in another epoch returns at once, with the messages of this epoch.
        """
        while (
            head := self.current_head()
        ).offset <= position.offset and head.epoch == position.epoch:
            await self.wait()
        self.unread = 0
        messages: list[Message] = []
        for message in reversed(self._messages):
            if message.offset <= position.offset:
                break
            messages.append(message)
        is_truncated = len(messages) < head.offset - position.offset
        return Batch(head, tuple(reversed(messages)), is_truncated)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
