"""ReceiveQueue: received items, and the position after the handled ones."""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, TypeVar

import anyio

T = TypeVar("T")


class IssuedId(NamedTuple):
    """An event id, and the number of the connection that it arrived on.

    The first connection has the number 1. The number 0 marks the id that `connect` was given.
    """

    event_id: str
    connection: int


class _Entry(Generic[T]):
    """An item, its size in bytes, and the position after it."""

    __slots__ = ("item", "position", "size")

    def __init__(self, item: T, position: IssuedId, size: int) -> None:
        self.item = item
        self.position = position
        self.size = size


class ReceiveQueue(Generic[T]):
    """A queue between one receiver and one application, with a position that follows the handling.

    Example: the items a, b, c arrive with the positions 1, 2, 3, then a heartbeat with position 4.
    While the application handles a, the position is 0. After a it is 1, after b it is 2. After c
    it is 4, because the heartbeat needs no handling.

    Invariants (tests/client/test_receive_queue.py):
    - `position` is the position after the last handled item, and after the ids that follow that
      item and need no handling.
    - Each item is handed out once and in order, except that `unget` takes the last one back.
    - The queue is full at `max_items` items or `max_bytes` bytes, and has room again at half.

    `put` never waits. The receiver calls `wait_for_room` after each chunk.

    Attributes:
        position: The position after the last handled item. Only the queue assigns it.
        handled_bytes: The size of the handled items of the newest connection, in bytes. Only the
            queue assigns it.
    """

    def __init__(self, position: IssuedId, *, max_items: int, max_bytes: int) -> None:
        self.position = position
        self.handled_bytes = 0
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._entries: deque[_Entry[T]] = deque()
        self._bytes = 0
        self._current: _Entry[T] | None = None
        """The item that was handed out and is neither handled nor taken back."""
        self._connection = position.connection
        self._error: Exception | None = None
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._handled = anyio.Event()

    # -- called by the receiver ----------------------------------------------------------------

    def start_connection(self, position: IssuedId) -> None:
        """Count `handled_bytes` from 0, for the new connection that begins at `position`."""
        self._connection = position.connection
        self.handled_bytes = 0
        self.advance(position)

    def put(self, item: T, position: IssuedId, size: int) -> None:
        """Append an item of `size` bytes. `position` is the position after it."""
        self._entries.append(_Entry(item, position, size))
        self._bytes += size
        self._filled.set()

    def advance(self, position: IssuedId) -> None:
        """Move the position to `position` as soon as every item put so far has been handled."""
        last = self._entries[-1] if self._entries else self._current
        if last is not None:
            last.position = position
        else:
            self.position = position

    @property
    def is_full(self) -> bool:
        """True if the receiver has to wait for room."""
        return len(self._entries) >= self._max_items or self._bytes >= self._max_bytes

    async def wait_for_room(self) -> None:
        """Wait until the queue holds at most half of `max_items` and of `max_bytes`."""
        while len(self._entries) > self._max_items // 2 or self._bytes > self._max_bytes // 2:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    def close(self, error: Exception) -> None:
        """Raise `error` from `get` once the queue is empty. Further calls change nothing."""
        self._error = self._error or error
        self._filled.set()

    # -- called by the application's task ------------------------------------------------------

    async def get(self) -> T:
        """Wait for the next item and hand it out. A cancelled call changes nothing."""
        while not self._entries:
            if self._error is not None:
                raise self._error
            self._filled = anyio.Event()
            await self._filled.wait()
        entry = self._current = self._entries.popleft()
        self._bytes -= entry.size
        self._emptied.set()
        return entry.item

    def mark_handled(self) -> None:
        """Move the position past the item that was handed out, if any."""
        if self._current is None:
            return
        self.position = self._current.position
        if self.position.connection == self._connection:
            self.handled_bytes += self._current.size
        self._current = None
        self._handled.set()

    def unget(self) -> None:
        """Take the item that was handed out back, if any. The next `get` hands it out again."""
        if self._current is not None:
            self._entries.appendleft(self._current)
            self._bytes += self._current.size
            self._current = None
            self._filled.set()

    # -- called by the acknowledger ------------------------------------------------------------

    async def wait_for_handled(self) -> None:
        """Wait until another item has been handled."""
        self._handled = anyio.Event()
        await self._handled.wait()
