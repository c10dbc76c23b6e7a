"""Delivery: the pending messages of one connection, lane by lane, and its cursor.

A lane is in one of two states. A *live* lane takes messages from the fan-out. A lane that is
*catching up* takes none, and is filled from the history, page by page, as its messages are sent.

    catching up ── a page ends at the node's delivered offset ──▶ live
    live ── an eviction or a refusal in the lane ──▶ catching up, from before the lost message

A lane reads up to the delivered offset of its node, and not beyond. The pages and the live feed
then meet at one offset: no message between them is missing, repeated or out of date.

An evicted message is read again from the history. If the history has trimmed it meanwhile, the
page has a gap in its place. The mark of a lane stays below its first pending entry, so a client
passes a gap only when the gap has been reported.

Connections that keep up have only the newest messages pending, and these are the same for all of
them. Therefore they share a `LiveBatch` of the live feed. Its way through an empty buffer is
computed once for all of them: a `DeliveryPlan`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..cursor import Cursor
from ..log.pages import DirectPage, Page, PageRequest
from ..message import LANES, OFFSET_ZERO, Gap, Message, Offset, Priority
from .buffer import PriorityBuffer

PAGE_MESSAGES = 100
"""Messages in one page of a replay, at most."""

CHUNK_BYTES = 64 * 1024
"""Bytes that are sent at once, more or less, so that a better message can overtake the others.

The write buffer of uvicorn pauses at 64 KiB, too."""

MAX_PENDING_MESSAGES = 1024
"""Messages in `Delivery.pending_batch`, at most. A longer batch is moved into the buffer."""

NO_LANE: frozenset[Priority] = frozenset()
EVERY_LANE: frozenset[Priority] = frozenset(Priority)


class LiveBatch:
    """Messages of the live feed in log order, at least one.

    A batch is a linked list of parts, so that appending one costs the same for any length.
    """

    __slots__ = ("_earlier", "_joined", "_part", "count", "has_ttl", "size")

    def __init__(self, messages: Sequence[Message], earlier: LiveBatch | None = None) -> None:
        self._part = messages
        self._earlier = earlier
        self._joined: tuple[LiveBatch, LiveBatch] | None = None
        self.count = len(messages)
        """The number of messages."""
        self.size = sum([len(message.body) for message in messages])
        """The bytes of all bodies."""
        self.has_ttl = any(message.expires_at is not None for message in messages)
        """True if a message has a ttl, so that a plan for this batch depends on the time."""
        if earlier is not None:
            self.count += earlier.count
            self.size += earlier.size
            self.has_ttl |= earlier.has_ttl

    @property
    def messages(self) -> list[Message]:
        """All messages, collected at each call."""
        parts: list[Sequence[Message]] = []
        batch: LiveBatch | None = self
        while batch is not None:
            parts.append(batch._part)
            batch = batch._earlier
        return [message for part in reversed(parts) for message in part]

    def first_offset(self, lane: Priority) -> Offset | None:
        """Return the offset of the first message of `lane`, `None` if there is none."""
        return next((each.offset for each in self.messages if each.priority is lane), None)

    def joined_with(self, later: LiveBatch) -> LiveBatch:
        """Return this batch followed by `later`.

        The result is cached, so that connections share it.
        """
        if self._joined is None or self._joined[0] is not later:
            self._joined = later, LiveBatch(later._part, self)
        return self._joined[1]


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """The way of a `LiveBatch` through the empty buffer of a connection that keeps up.

    Attributes:
        steps: The messages that leave, in that order, each with the cursor after it.
        conflated: The number of messages that a newer one in the batch superseded.
        expired: The number of messages that had expired.
    """

    steps: tuple[tuple[Message, Cursor], ...]
    conflated: int
    expired: int


class Delivery:
    """The four lanes of a connection.

    The live feed is first kept as one batch (`pending_batch`), which connections share. `flush`
    moves it into the buffer. A connection that keeps up never needs that: its batch is sent by
    the plan that `plan_delivery` computes once for all of them.

    Invariants (held by tests/model/, whose mutants break them):

    - each message of a lane beyond its mark is pending here, or still to be read, or does not
      need to be sent (superseded, expired, not subscribed to);
    - the cursor never goes back;
    - `take` returns an entry of the best lane that has one pending or still to be read;
    - a batch that is sent by its plan leaves the same counts and the same cursor as one that
      went through the buffer;
    - memory: one buffer, the gaps of one page in each lane, and a batch of at most
      `MAX_PENDING_MESSAGES` and the buffer's bytes, for a replay of any length.

    Args:
        buffer: An empty buffer.
        start: The cursor at which the connection begins.
        catching_up: The lanes to read from the log. The other lanes have nothing after `start`.
        farthest: The highest offset that the client has seen or subscribed at. Lanes wait until
            the node has delivered up to it, because the client may come from a node that is ahead
            of this one.
    """

    __slots__ = ("_catching_up", "_farthest", "_read_up_to", "buffer", "pending_batch")

    def __init__(
        self,
        buffer: PriorityBuffer,
        start: Cursor,
        *,
        catching_up: frozenset[Priority],
        farthest: Offset = OFFSET_ZERO,
    ) -> None:
        self.buffer = buffer
        self.pending_batch: LiveBatch | None = None
        """Messages of the live feed that are not in the buffer yet; only if all lanes are live."""
        self._catching_up = catching_up
        self._farthest = farthest
        self._read_up_to: Sequence[Offset] = start.marks

    @property
    def is_live(self) -> bool:
        """True if all four lanes are live."""
        return not self._catching_up

    @property
    def is_empty(self) -> bool:
        """True if `take` has nothing to return."""
        return self.pending_batch is None and not self.buffer

    def offer(self, batch: LiveBatch) -> bool:
        """Take a batch of the live feed.

        Returns:
            True if the connection must be scheduled to send. False if its pending batch has grown,
            because it is scheduled already, or if no message is for a live lane.
        """
        pending = self.pending_batch
        if pending is not None:
            if self._fits_pending(pending.count + batch.count, pending.size + batch.size):
                self.pending_batch = pending.joined_with(batch)
                return False
            self.flush()
        elif not self._catching_up and self._fits_pending(batch.count, batch.size):
            self.pending_batch = batch
            return True
        return self._offer_batch(batch)

    def _fits_pending(self, messages: int, size: int) -> bool:
        return messages <= MAX_PENDING_MESSAGES and size <= self.buffer.max_bytes

    def flush(self) -> None:
        """Move the pending batch into the buffer."""
        batch, self.pending_batch = self.pending_batch, None
        if batch is not None:
            self._offer_batch(batch)

    def mark_sent(self, plan: DeliveryPlan) -> None:
        """Count the pending batch as sent by `plan`."""
        self.pending_batch = None
        self.buffer.count_bypass(len(plan.steps), plan.conflated, plan.expired)

    def requeue(self, plan: DeliveryPlan, sent: int) -> None:
        """Let the messages of `plan` after the first `sent` (1 or more) be read again."""
        unsent = plan.steps[sent:]
        cursor = plan.steps[sent - 1][1]
        self.buffer.uncount_bypass(len(unsent))
        for lane in {message.priority for message, _ in unsent}:
            self._catch_up(lane, cursor[lane])

    def rewind(self, delivered: Offset) -> None:
        """Let every lane catch up, because the live feed after `delivered` was missed."""
        self.flush()
        self._read_up_to = [
            offset if lane in self._catching_up else max(offset, delivered)
            for lane, offset in zip(LANES, self._read_up_to, strict=True)
        ]
        self._catching_up = EVERY_LANE

    def is_ahead_of(self, delivered: Offset) -> bool:
        """Return True if the client has seen more than its node, which is at `delivered`."""
        return delivered < self._farthest

    def request(self, delivered: Offset) -> PageRequest | None:
        """Return the page to read before the next `take`, `None` if there is none.

        A lane is read when no entry is pending in it or in a better lane. `delivered` is the
        offset up to which the node has delivered the live feed.
        """
        if not self._catching_up or self.is_ahead_of(delivered):
            return None
        lane = max(self._catching_up)
        if self.buffer and any(
            self.buffer.low_water(better) is not None for better in LANES[lane:]
        ):
            return None
        limit = min(PAGE_MESSAGES, self.buffer.capacity)
        size = min(CHUNK_BYTES, self.buffer.max_bytes)
        return PageRequest(lane, self._read_up_to[lane], delivered, limit, size)

    def fill(
        self, request: PageRequest, page: Page, delivered: Offset, *, room: int
    ) -> DirectPage | None:
        """Take the page that answers `request`.

        There are three cases:

        1. The lane was moved while the page was read: the page is ignored.
        2. The page can be sent as it is, because nothing is pending, no better lane is catching
           up, and the page has no gap and at most `room` bytes: it counts as sent.
        3. Otherwise the page goes into the buffer, as far as there is room. The rest of it is
           read again.

        Args:
            request: The result of `request`.
            page: The answer of the broker.
            delivered: The offset up to which the node has delivered the live feed by now.
            room: Bytes that may be sent at once.

        Returns:
            The page to send in case 2, if it has a message; `None` otherwise.
        """
        lane = request.lane
        if lane not in self._catching_up or self._read_up_to[lane] != request.after:
            return None
        must_wait = self.buffer or page.gaps or page.size > room
        if not must_wait and lane == max(self._catching_up):
            return self._bypass_buffer(page, delivered)
        self._buffer_page(page, delivered)
        return None

    def _bypass_buffer(self, page: Page, delivered: Offset) -> DirectPage | None:
        """Count a page as sent; return `None` if it has no message."""
        if not page.messages:
            self._finish_page(page, delivered)
            return None
        before = self.cursor(delivered)
        self.buffer.count_bypass(len(page.messages), 0, 0)
        self._finish_page(page, delivered)
        return DirectPage(page, before, self.cursor(delivered))

    def _buffer_page(self, page: Page, delivered: Offset) -> None:
        """Put a page into the buffer, as far as there is room."""
        for entry in page.entries:
            gap = self._gap_for(entry)
            if gap is not None:
                self.buffer.add_gap(gap)
                self._set_read(page.lane, gap.last)
                continue
            assert isinstance(entry, Message)
            if not self.buffer.has_room_for(entry):
                return
            self._set_read(page.lane, entry.offset)
            self._offer(entry)
            if self._read_up_to[page.lane] != entry.offset:
                return  # the message was refused, so the lane must read it again later
        self._finish_page(page, delivered)

    def _finish_page(self, page: Page, delivered: Offset) -> None:
        """Note that the whole page was taken. Its lane is live if the page was the last one."""
        self._set_read(page.lane, page.up_to)
        if page.complete and page.up_to >= delivered:
            self._catching_up -= {page.lane}

    def subscribe_offset(self, delivered: Offset) -> Offset:
        """Return the since of a new subscription, for a node that is at `delivered`."""
        return max(delivered, self._farthest)

    def take(self, now: float) -> Message | Gap | None:
        """Return the next message or gap to send. Call it only while `request` returns `None`.

        Args:
            now: Seconds since the Unix epoch; expired messages are dropped and counted.
        """
        self.flush()
        return self.buffer.take(now)

    def discard(self, unwanted: Callable[[str], bool]) -> int:
        """Drop the pending messages of unwanted topics, and return their number.

        A gap in several topics stays for the others, with an unknown count.

        Args:
            unwanted: Returns True for a topic that the connection no longer has.
        """
        self.flush()
        return self.buffer.discard(unwanted)

    def cursor(self, delivered: Offset) -> Cursor:
        """Return the cursor, for a node that has delivered the live feed up to `delivered`."""
        is_empty = self.pending_batch is None and not self.buffer
        if is_empty and not self._catching_up and max(self._read_up_to) <= delivered:
            return Cursor.at(delivered)
        low, normal, high, critical = [
            self._mark(lane, read_up_to, delivered)
            for lane, read_up_to in zip(LANES, self._read_up_to, strict=True)
        ]
        return Cursor((low, normal, high, critical))

    def _mark(self, lane: Priority, read_up_to: Offset, delivered: Offset) -> Offset:
        first = self.buffer.low_water(lane)
        if first is None and self.pending_batch is not None:
            first = self.pending_batch.first_offset(lane)
        if first is not None:
            return Offset(first - 1)
        return read_up_to if lane in self._catching_up else max(read_up_to, delivered)

    def _gap_for(self, entry: Message | Gap) -> Gap | None:
        """Return `entry` if it is a gap, or a gap for a message that is larger than the buffer."""
        if isinstance(entry, Gap):
            return entry
        if entry.size <= self.buffer.max_bytes:
            return None
        return Gap(entry.priority, entry.offset, entry.offset, (entry.topic,), 1)

    def _offer_batch(self, batch: LiveBatch) -> bool:
        """Offer the messages of live lanes to the buffer; return True if there was one."""
        has_offered = False
        for message in batch.messages:
            if message.priority not in self._catching_up:
                self._offer(message)
                has_offered = True
        return has_offered

    def _offer(self, message: Message) -> None:
        """Offer a message to the buffer. The lanes of evicted messages must catch up."""
        for lane, place in self.buffer.offer(message):
            self._catch_up(lane, Offset(place - 1))

    def _catch_up(self, lane: Priority, after: Offset) -> None:
        """Let `lane` read the history from `after`. Its buffered messages beyond it are evicted."""
        self.buffer.evict_after(lane, after)
        if lane not in self._catching_up or self._read_up_to[lane] > after:
            self._catching_up |= {lane}
            self._set_read(lane, after)

    def _set_read(self, lane: Priority, offset: Offset) -> None:
        """Set the offset up to which `lane` has been read."""
        offsets = list(self._read_up_to)
        offsets[lane] = offset
        self._read_up_to = offsets


def plan_delivery(batch: LiveBatch, delivered: Offset, now: float) -> DeliveryPlan:
    """Compute the way of `batch` through the empty buffer of a connection that keeps up.

    Args:
        batch: Messages of the live feed.
        delivered: The offset up to which the node has delivered the live feed, `batch` included.
        now: Seconds since the Unix epoch.
    """
    buffer = PriorityBuffer(batch.count, max_bytes=max(batch.size, 1))
    delivery = Delivery(buffer, Cursor.at(OFFSET_ZERO), catching_up=NO_LANE)
    delivery.offer(batch)
    steps: list[tuple[Message, Cursor]] = []
    while (message := delivery.take(now)) is not None:
        assert isinstance(message, Message)
        steps.append((message, delivery.cursor(delivered)))
    counts = buffer.statistics()
    return DeliveryPlan(tuple(steps), counts.conflated, counts.expired)
