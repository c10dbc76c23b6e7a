"""Feed: the newest messages of a log, and those who wait for more of them."""

from __future__ import annotations

import asyncio
from collections import deque

from ..core.cursor import Head
from ..core.message import Message, Offset
from ..errors import NotRunning
from .protocol import Batch

FEED_MESSAGES = 4096
"""A follower that falls farther behind than this reads from history instead."""

FEED_BYTES = 4 * 1024 * 1024


class Feed:
    """What `Broker.follow` answers from; belongs to one event loop.

    Invariant (tests/contract/test_feed.py): a batch is complete up to its head, or says that it
    is not.
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        """The end of the log; `None` while it is not open."""
        self.unread = 0
        """Messages that came since somebody last looked."""
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._failure: BaseException | None = None

    def begin(self, head: Head) -> None:
        """Go on from `head`; what was before is not in the feed any more."""
        self.head, self._failure = head, None
        self._messages.clear()
        self._bytes = self.unread = 0
        self._wake()

    def append(self, message: Message) -> None:
        """Add the next message."""
        assert self.head is not None
        self.head = Head(self.head.epoch, message.offset)
        self.unread += 1
        self._messages.append(message)
        self._bytes += len(message.body)
        while len(self._messages) > FEED_MESSAGES or self._bytes > FEED_BYTES:
            self._bytes -= len(self._messages.popleft().body)
        self._wake()

    def skip_to(self, offset: Offset) -> None:
        """What lies before `offset` was not seen: followers have to read it from history."""
        assert self.head is not None
        self.head = Head(self.head.epoch, offset)
        self._wake()

    def close(self, failure: BaseException | None = None) -> None:
        """Wake all who wait; they get `failure`, or `NotRunning`."""
        self.head, self._failure = None, failure
        self._wake()

    def open_head(self) -> Head:
        """The end of the log; raises `NotRunning`, or the failure that it was closed with."""
        if self.head is None:
            raise self._failure or NotRunning("the broker is not started, or closed")
        return self.head

    async def wait(self) -> None:
        """Wait until something has changed; cancellation changes nothing."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def after(self, position: Head) -> Batch:
        """See `Broker.follow`."""
        while (head := self.open_head()).offset <= position.offset and head.epoch == position.epoch:
            await self.wait()
        self.unread = 0
        messages: list[Message] = []
        for message in reversed(self._messages):
            if message.offset <= position.offset:
                break
            messages.append(message)
        missed = len(messages) < head.offset - position.offset
        return Batch(head, tuple(reversed(messages)), missed)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
