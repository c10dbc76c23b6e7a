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

from collections.abc import Callable, Sequence

from ..cursor import Cursor
from ..log.pages import DirectPage, Page, PageRequest
from ..message import LANES, OFFSET_ZERO, Gap, Message, Offset, Priority
from .batch import DeliveryPlan, LiveBatch
from .buffer import PriorityBuffer

PAGE_MESSAGES = 100
"""Messages in one page of a replay."""

CHUNK_BYTES = 64 * 1024
"""At most about so much is handed over at once, so that what is better can still overtake.

uvicorn's write buffer pauses at 64 KiB, too."""

RUN_MESSAGES = 1024
"""Messages of the live feed that may wait to be looked at; beyond that, the buffer decides."""

NO_LANE: frozenset[Priority] = frozenset()
EVERY_LANE: frozenset[Priority] = frozenset(Priority)


class Delivery:
    """The four lanes of a connection: a window on the log, never a store.

    The live feed is only noted at first (`pending_batch`), and sorted into the buffer when
    somebody looks. The run of a connection that keeps up never is: it is handed over in the way
    that is worked out once for all of them (`plan_delivery`).

    Invariants (tests/model/ drives it with all that surrounds it; its mutants break them):

    - everything published to a lane after its mark is pending here, still to be read, or settled;
    - the cursor never goes back;
    - what leaves is of the best lane that holds, or has still to read, anything;
    - a run that passes through leaves the account and the cursor as if it had been sorted;
    - memory: one buffer, in each lane the gaps of one page, and a run of at most `RUN_MESSAGES`
      and the buffer's bytes, whatever the length of the replay.
    """

    __slots__ = ("_behind", "_not_before", "_read_through", "buffer", "pending_batch")

    def __init__(
        self,
        buffer: PriorityBuffer,
        start: Cursor,
        *,
        behind: frozenset[Priority],
        not_before: Offset = OFFSET_ZERO,
    ) -> None:
        """Begin at `start` with the lanes `behind` to catch up; in the others nothing came since.

        A node that is behind what the client has seen on another one waits until it has come to
        `not_before`: the farthest of `start` and of the `since` of all subscriptions.
        """
        self.buffer = buffer
        self.pending_batch: LiveBatch | None = None
        """What the live feed has brought since somebody looked; only while all lanes are live."""
        self._behind = behind
        self._not_before = not_before
        self._read_through: Sequence[Offset] = start.marks

    @property
    def is_live(self) -> bool:
        """Whether all four lanes are fed by the fan-out."""
        return not self._behind

    @property
    def is_empty(self) -> bool:
        """Whether `take` has nothing to hand over."""
        return self.pending_batch is None and not self.buffer

    def offer(self, run: LiveBatch) -> bool:
        """Take a run of the live feed; whether somebody has to be told that there may be more."""
        before = self.pending_batch
        if before is not None:
            if self._may_wait(before.count + run.count, before.size + run.size):
                self.pending_batch = before.joined_with(run)
                return False
            self.flush()
        elif not self._behind and self._may_wait(run.count, run.size):
            self.pending_batch = run
            return True
        return self._offer_batch(run)

    def _may_wait(self, messages: int, size: int) -> bool:
        return messages <= RUN_MESSAGES and size <= self.buffer.max_bytes

    def flush(self) -> None:
        """Put what the live feed has brought into the buffer."""
        run, self.pending_batch = self.pending_batch, None
        if run is not None:
            self._offer_batch(run)

    def mark_sent(self, passage: DeliveryPlan) -> None:
        """Count the run of a connection that keeps up as handed over."""
        self.pending_batch = None
        self.buffer.count_bypass(len(passage.steps), passage.conflated, passage.expired)

    def requeue(self, passage: DeliveryPlan, handed_over: int) -> None:
        """Only so many messages, one at least, were handed over: the rest is read again."""
        unsent = passage.steps[handed_over:]
        cursor = passage.steps[handed_over - 1][1]
        self.buffer.uncount_bypass(len(unsent))
        for lane in {message.priority for message, _ in unsent}:
            self._reread(lane, cursor[lane])

    def rewind(self, position: Offset) -> None:
        """All lanes go back to catching up, because the live feed after `position` was missed."""
        self.flush()
        self._read_through = [
            read if lane in self._behind else max(read, position)
            for lane, read in zip(LANES, self._read_through, strict=True)
        ]
        self._behind = EVERY_LANE

    def is_ahead_of(self, position: Offset) -> bool:
        """Whether the client has seen more than its node, which is at `position`."""
        return position < self._not_before

    def request(self, position: Offset) -> PageRequest | None:
        """What must be read before anything may be taken, or `None`."""
        if not self._behind or self.is_ahead_of(position):
            return None
        lane = max(self._behind)
        if self.buffer and any(
            self.buffer.low_water(better) is not None for better in LANES[lane:]
        ):
            return None  # that leaves before
        limit = min(PAGE_MESSAGES, self.buffer.capacity)
        size = min(CHUNK_BYTES, self.buffer.max_bytes)
        return PageRequest(lane, self._read_through[lane], position, limit, size)

    def fill(
        self, request: PageRequest, page: Page, position: Offset, *, room: int
    ) -> DirectPage | None:
        """Take the answer to `request`; `position` is how far the node's live feed has come.

        Returns what counts as handed over with this: the whole page if nothing waits here, no
        better lane has to be read, and it has no more than `room` bytes.
        Else it goes into the buffer. A page that the lane no longer wants, because it was moved
        since, is ignored.
        """
        lane = request.lane
        if lane not in self._behind or self._read_through[lane] != request.after:
            return None
        waits = self.buffer or page.gaps or page.size > room
        if not waits and lane == max(self._behind):
            return self._hand_over(page, position)
        self._hold(page, position)
        return None

    def _hand_over(self, page: Page, position: Offset) -> DirectPage | None:
        """Count a page as handed over; `None` if there is no message in it."""
        if not page.messages:
            self._finish(page, position)
            return None
        before = self.cursor(position)
        self.buffer.count_bypass(len(page.messages), 0, 0)
        self._finish(page, position)
        return DirectPage(page, before, self.cursor(position))

    def _hold(self, page: Page, position: Offset) -> None:
        """Put a page into the buffer, as far as there is room."""
        for entry in page.entries:
            gap = self._unholdable(entry)
            if gap is not None:
                self.buffer.add_gap(gap)
                self._read(page.lane, gap.last)
                continue
            assert isinstance(entry, Message)
            if not self.buffer.has_room_for(entry):
                return
            self._read(page.lane, entry.offset)
            self._offer(entry)
            if self._read_through[page.lane] != entry.offset:
                return  # it gave way at once
        self._finish(page, position)

    def _finish(self, page: Page, position: Offset) -> None:
        """All of a page is here: its lane is live if that was the rest."""
        self._read(page.lane, page.up_to)
        if page.complete and page.up_to >= position:
            self._behind -= {page.lane}

    def subscribe_offset(self, position: Offset) -> Offset:
        """Where a new subscription begins: now, as the client or the node knows it."""
        return max(position, self._not_before)

    def take(self, now: float) -> Message | Gap | None:
        """The next message or gap to hand over; call it only when `request` is `None`."""
        self.flush()
        return self.buffer.take(now)

    def discard(self, unwanted: Callable[[str], bool]) -> int:
        """Drop what is pending of topics that the connection no longer has; how many messages.

        A gap in others as well stays for those, but nobody knows its count any more.
        """
        self.flush()
        return self.buffer.discard(unwanted)

    def cursor(self, position: Offset) -> Cursor:
        """Return the low-water mark of each lane; `position` is the end of the live feed so far."""
        is_empty = self.pending_batch is None and not self.buffer
        if is_empty and not self._behind and max(self._read_through) <= position:
            return Cursor.at(position)
        low, normal, high, critical = [
            self._mark(lane, read, position)
            for lane, read in zip(LANES, self._read_through, strict=True)
        ]
        return Cursor((low, normal, high, critical))

    def _mark(self, lane: Priority, read: Offset, position: Offset) -> Offset:
        first = self.buffer.low_water(lane)
        if first is None and self.pending_batch is not None:
            first = self.pending_batch.first_offset(lane)
        if first is not None:
            return Offset(first - 1)
        return read if lane in self._behind else max(read, position)

    def _unholdable(self, entry: Message | Gap) -> Gap | None:
        """The gap that stands for `entry`: itself, or a message too large for this buffer."""
        if isinstance(entry, Gap):
            return entry
        if entry.size <= self.buffer.max_bytes:
            return None
        return Gap(entry.priority, entry.offset, entry.offset, (entry.topic,), 1)

    def _offer_batch(self, run: LiveBatch) -> bool:
        """Offer a run to the buffer, but for lanes that catch up; whether it was offered any."""
        offered = False
        for message in run.messages:
            if message.priority not in self._behind:
                self._offer(message)
                offered = True
        return offered

    def _offer(self, message: Message) -> None:
        for lane, place in self.buffer.offer(message):
            self._reread(lane, Offset(place - 1))

    def _reread(self, lane: Priority, after: Offset) -> None:
        """Send `lane` back to History from `after`; what it holds beyond is in there too."""
        self.buffer.evict_after(lane, after)
        if lane not in self._behind or self._read_through[lane] > after:
            self._behind |= {lane}
            self._read(lane, after)

    def _read(self, lane: Priority, through: Offset) -> None:
        """Note how far a lane that catches up has read."""
        read = list(self._read_through)
        read[lane] = through
        self._read_through = read


def plan_delivery(run: LiveBatch, position: Offset, now: float) -> DeliveryPlan:
    """How `run`, which ends at `position` or before, leaves a connection that keeps up."""
    buffer = PriorityBuffer(run.count, max_bytes=max(run.size, 1))
    delivery = Delivery(buffer, Cursor.at(OFFSET_ZERO), behind=NO_LANE)
    delivery.offer(run)
    steps: list[tuple[Message, Cursor]] = []
    while (message := delivery.take(now)) is not None:
        assert isinstance(message, Message)
        steps.append((message, delivery.cursor(position)))
    account = buffer.statistics()
    return DeliveryPlan(tuple(steps), account.conflated, account.expired)
