"""Delivery: what one connection is still owed, lane by lane, and its cursor.

Each lane is *live* (the fan-out offers to its buffer) or *catching up* (it takes no offers and is
filled from History, page by page, as it drains). `read_through` is how far a lane that catches up
has read; it reads up to the position of its node and not beyond, so that what is read and what is
live meet without a hole, a duplicate, or a value that was superseded in between.

    catching up ── page that ends at the node's position ──▶ live
    live ── an eviction or a refusal in this lane: read_through moves before it ──▶ catching up

What is evicted is thereby re-read, and only what History has trimmed meanwhile is lost: its gap
stands in the page. The cursor is the mark below everything that is pending, so a client passes a
hole only by being told of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .buffer import PriorityBuffer, Verdict
from .cursor import Cursor
from .history import Page
from .message import BEGINNING, BEST_FIRST, Gap, Message, Offset, Priority

PAGE_MESSAGES = 64
"""Messages in one page of a replay."""

PAGE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What to read next from History: in `lane`, after `after`, up to and including `up_to`.

    At most `limit` messages and `max_bytes`, but at least one message if there is any.
    """

    lane: Priority
    after: Offset
    up_to: Offset
    limit: int
    max_bytes: int


class Delivery:
    """The four lanes of a connection: a window on the log, never a store.

    Invariants (tests/model/ drives it with all that surrounds it; its mutants break them):

    - everything published to a lane after its mark is pending here, still to be read, or settled;
    - the cursor never goes back;
    - what leaves is of the best lane that holds, or has still to read, anything;
    - memory: one buffer, whatever the length of the replay.
    """

    __slots__ = ("_live", "_not_before", "_read_through", "buffer")

    def __init__(
        self,
        buffer: PriorityBuffer,
        start: Cursor,
        *,
        live: bool,
        not_before: Offset = BEGINNING,
    ) -> None:
        """Begin at `start`: live (a new session, `start` is now) or with all four to catch up.

        A node that is behind what the client has seen on another one waits until it has come to
        `not_before`: the farthest of `start` and of the `since` of all subscriptions.
        """
        self.buffer = buffer
        self._live = [live] * 4
        self._not_before = not_before
        self._read_through = list(start.marks)

    @property
    def is_live(self) -> bool:
        """Whether all four lanes are fed by the fan-out."""
        return all(self._live)

    def offer(self, message: Message) -> bool:
        """Take a message of the live feed; whether there may be something new to hand over."""
        if not self._live[message.priority]:
            return False
        self._offer(message)
        return True

    def fall_behind(self, position: Offset) -> None:
        """All lanes go back to catching up, because the live feed after `position` was missed."""
        for lane in Priority:
            if self._live[lane]:
                self._live[lane] = False
                self._read_through[lane] = max(self._read_through[lane], position)

    def waits_for(self, position: Offset) -> bool:
        """Whether the client has seen more than its node, which is at `position`."""
        return position < self._not_before

    def request(self, position: Offset) -> PageRequest | None:
        """What must be read before anything may be taken, or `None`."""
        if self.is_live or self.waits_for(position):
            return None
        for lane in BEST_FIRST:
            if self.buffer.first_place(lane) is not None:
                return None
            if not self._live[lane]:
                limit = min(PAGE_MESSAGES, self.buffer.capacity)
                size = min(PAGE_BYTES, self.buffer.max_bytes)
                return PageRequest(lane, self._read_through[lane], position, limit, size)
        return None

    def fill(self, request: PageRequest, page: Page, position: Offset) -> None:
        """Take the answer to `request`; `position` is how far the node's live feed has come.

        A page that the lane no longer wants, because it was moved since, is ignored.
        """
        lane = request.lane
        if self._live[lane] or self._read_through[lane] != request.after:
            return
        for entry in page.entries:
            gap = self._unholdable(entry)
            if gap is not None:
                self.buffer.mark(gap)
                self._read_through[lane] = gap.through
                continue
            assert isinstance(entry, Message)
            if not self.buffer.has_room_for(entry):
                return
            self._read_through[lane] = entry.offset
            self._offer(entry)
            if self._read_through[lane] != entry.offset:
                return  # it gave way at once
        self._read_through[lane] = page.through
        self._live[lane] = page.complete and page.through >= position

    def horizon(self, position: Offset) -> Offset:
        """Where a new subscription begins: now, as the client or the node knows it."""
        return max(position, self._not_before)

    def take(self, now: float) -> Message | Gap | None:
        """The next message or gap to hand over; call it only when `request` is `None`."""
        return self.buffer.take(now)

    def discard(self, unwanted: Callable[[str], bool]) -> int:
        """Drop what is pending of topics that the connection no longer has; how many messages."""
        return self.buffer.discard(unwanted)

    def cursor(self, position: Offset) -> Cursor:
        """The low-water mark of each lane; `position` is how far the live feed has come."""
        marks: list[Offset] = []
        for lane in Priority:
            first = self.buffer.first_place(lane)
            if first is not None:
                marks.append(Offset(first - 1))
            elif self._live[lane]:
                marks.append(max(self._read_through[lane], position))
            else:
                marks.append(self._read_through[lane])
        low, normal, high, critical = marks
        return Cursor((low, normal, high, critical))

    def _unholdable(self, entry: Message | Gap) -> Gap | None:
        """The gap that stands for `entry`: itself, or a message too large for this buffer."""
        if isinstance(entry, Gap):
            return entry
        if entry.size <= self.buffer.max_bytes:
            return None
        return Gap(entry.priority, entry.offset, entry.offset, (entry.topic,), 1)

    def _offer(self, message: Message) -> None:
        outcome = self.buffer.offer(message)
        for lane, place in outcome.evicted:
            self._reread(lane, Offset(place - 1))
        if outcome.verdict is Verdict.REFUSED:
            self._reread(message.priority, Offset(message.offset - 1))

    def _reread(self, lane: Priority, after: Offset) -> None:
        """Send `lane` back to History from `after`; what it holds beyond is in there too."""
        self.buffer.withdraw(lane, after)
        if self._live[lane] or self._read_through[lane] > after:
            self._live[lane] = False
            self._read_through[lane] = after
