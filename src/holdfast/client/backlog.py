"""Backlog: what was read and not handled yet, and the position that follows from that."""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, TypeVar

import anyio

T = TypeVar("T")


class Position(NamedTuple):
    """An event id, and the connection that issued it: 1 for the first, 0 before that."""

    id: str
    connection: int


class _Entry(Generic[T]):
    """An item, with the position as of when it has been handled."""

    __slots__ = ("item", "position", "size")

    def __init__(self, item: T, position: Position, size: int) -> None:
        self.item = item
        self.position = position
        self.size = size


class Backlog(Generic[T]):
    """A queue of one reader and one consumer, in which a position advances with the handling.

    Invariants (tests/client/test_backlog.py): `position` is that of the last item that was
    settled, or of what came after it and needs no handling; items are handed out once and in
    order; it is full from `max_items` items or `max_bytes` bytes on, and has room again at half of
    that. `put` never waits: the reader asks for `room` after each chunk.
    """

    def __init__(self, position: Position, *, max_items: int, max_bytes: int) -> None:
        self.position = position
        self.settled_bytes = 0
        """Of items of the newest connection."""
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._entries: deque[_Entry[T]] = deque()
        self._bytes = 0
        self._current: _Entry[T] | None = None
        self._end: Exception | None = None
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._moved = anyio.Event()
        self._connection = position.connection

    # -- the reader ----------------------------------------------------------------------------

    def begin(self, position: Position) -> None:
        """Another connection begins, at this position."""
        self._connection = position.connection
        self.settled_bytes = 0
        self.advance(position)

    def put(self, item: T, position: Position, size: int) -> None:
        """Append an item of `size` bytes, after which the position is `position`."""
        self._entries.append(_Entry(item, position, size))
        self._bytes += size
        self._filled.set()

    def advance(self, position: Position) -> None:
        """As soon as everything that was put has been handled, the position is this one."""
        last = self._entries[-1] if self._entries else self._current
        if last is not None:
            last.position = position
        else:
            self.position = position

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be read for now."""
        return len(self._entries) >= self._max_items or self._bytes >= self._max_bytes

    async def room(self) -> None:
        """Wait until half of what fits has been handed out."""
        while len(self._entries) > self._max_items // 2 or self._bytes > self._max_bytes // 2:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    def end(self, error: Exception) -> None:
        """Nothing more comes; who waits beyond the last item gets `error`. The first one counts."""
        self._end = self._end or error
        self._filled.set()

    # -- the consumer --------------------------------------------------------------------------

    async def next(self) -> T:
        """Hand out the next item. If it is cancelled, nothing has changed."""
        while not self._entries:
            if self._end is not None:
                raise self._end
            self._filled = anyio.Event()
            await self._filled.wait()
        entry = self._current = self._entries.popleft()
        self._bytes -= entry.size
        self._emptied.set()
        return entry.item

    def settle(self) -> None:
        """What was handed out has been handled."""
        if self._current is None:
            return
        self.position = self._current.position
        if self.position.connection == self._connection:
            self.settled_bytes += self._current.size
        self._current = None
        self._moved.set()

    def put_back(self) -> None:
        """What was handed out was not handled: hand it out again."""
        if self._current is not None:
            self._entries.appendleft(self._current)
            self._bytes += self._current.size
            self._current = None
            self._filled.set()

    # -- who acknowledges ----------------------------------------------------------------------

    async def moved(self) -> None:
        """Wait until an item is settled."""
        self._moved = anyio.Event()
        await self._moved.wait()
