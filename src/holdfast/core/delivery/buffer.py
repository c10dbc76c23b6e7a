"""PriorityBuffer: the pending messages of one connection, bounded in messages and in bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..message import BEST_FIRST, LANES, Gap, Message, Offset, Priority
from ..validation import check_number

DEFAULT_CAPACITY = 100
"""Messages. Centrifugo bounds its queue by bytes only, SignalR its stateful buffer by 100 KB."""

DEFAULT_MAX_BYTES = 2 * 1024 * 1024
"""Bytes: twice the largest message that `publish` accepts by default."""

Subject = tuple[str, str | None, str]
"""Topic, user (`None`: all) and key. A newer message supersedes an older one of its subject."""

Entry = Message | Subject
"""An entry of a lane: a message without a key, or the subject of a message with a key.

A lane contains subjects so that a newer message can take over the place of an older one without a
search; `_newest` maps the subject to the message.
"""

# All empty buffers share these values and do not change them, because most connections have
# nothing pending most of the time.
_NO_ENTRIES: deque[Entry] = deque(maxlen=0)
_NO_LANES = [_NO_ENTRIES] * len(LANES)
_NO_SUBJECTS: dict[Subject, tuple[Offset, Message]] = {}
_NO_GAPS: list[list[Gap]] = []


@dataclass(frozen=True, slots=True)
class BufferStatistics:
    """Counts of one buffer since the connection began. `held` and `held_bytes` are of this moment.

    At every moment, `offered == taken + conflated + expired + evicted + refused + held`.

    Attributes:
        offered: Messages that were offered.
        taken: Messages that left to be sent.
        conflated: Messages that a newer one of their key superseded while they were pending.
        expired: Messages whose ttl had passed when they were next.
        evicted: Messages that gave way to others, or whose topic was unsubscribed.
        refused: Messages for which there was no room.
        held: Pending messages.
        held_bytes: Bytes of the bodies of pending messages.
        high_water: The highest `held` so far.
    """

    offered: int
    taken: int
    conflated: int
    expired: int
    evicted: int
    refused: int
    held: int
    held_bytes: int
    high_water: int


class PriorityBuffer:
    """Four first-in-first-out lanes with one bound for all of them.

    A message that is offered to a full buffer evicts the oldest message of the lowest lane. If
    that lane is better than its own, it is refused instead. The caller can read evicted and
    refused messages again from the log.

    Each message has a *place* in its lane: its own offset, or that of the message it superseded.
    The place of a gap is `Gap.first`. Places ascend within a lane, so a lane whose lowest place is
    7 has nothing left to send up to 6.

    Invariants (each held by the state machine in tests/core/delivery/test_buffer.py):

    - `offered = taken + conflated + expired + evicted + refused + held`, at every step;
    - `held <= capacity` and `held_bytes <= max_bytes`;
    - `take` returns the first message or gap of the best lane that is not empty;
    - an evicted message is the oldest of the lowest lane, and not of a better lane than the
      message that evicts it;
    - at most the newest message of each subject (topic, user and key) is held;
    - `offer` evicts no gap. Neighbouring gaps are merged when they are taken, and not before,
      because `discard` and `evict_after` may remove one of them.

    No operation waits, and a full buffer raises nothing. Each costs O(1) amortised, except:
    `discard` and a key that changes its lane walk over the held messages; a message that is too
    large for the free bytes walks over the messages that it would evict.

    Args:
        capacity: Messages that are held, at most.
        max_bytes: Bytes of all bodies that are held, at most.

    Raises:
        ConfigurationError: A bound is not a whole number over 0.
    """

    __slots__ = (
        "_bytes",
        "_conflated",
        "_count",
        "_evicted",
        "_expired",
        "_gaps",
        "_high_water",
        "_lanes",
        "_newest",
        "_refused",
        "_taken",
        "capacity",
        "max_bytes",
    )

    def __init__(
        self, capacity: int = DEFAULT_CAPACITY, *, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        if not (capacity.__class__ is int is max_bytes.__class__ and capacity > 0 < max_bytes):
            check_number("capacity", capacity, whole=True)
            check_number("max_bytes", max_bytes, whole=True)
        self.capacity = capacity
        self.max_bytes = max_bytes
        self._lanes, self._newest, self._gaps = _NO_LANES, _NO_SUBJECTS, _NO_GAPS
        self._count = self._bytes = self._high_water = 0
        self._taken = self._conflated = self._expired = self._evicted = self._refused = 0

    def __repr__(self) -> str:
        return f"<PriorityBuffer of {self._count} messages, at most {self.capacity}>"

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        """True if a message or a gap is held."""
        return bool(self._count or self._gaps)

    def __iter__(self) -> Iterator[Message | Gap]:
        """Yield the held messages and gaps in the order in which they would be taken."""
        for lane in BEST_FIRST:
            held: dict[Offset, Message | Gap] = dict(map(self._slot, self._lanes[lane]))
            held.update((gap.first, gap) for gap in (self._gaps[lane] if self._gaps else ()))
            yield from (held[place] for place in sorted(held))

    def low_water(self, lane: Priority) -> Offset | None:
        """Return the lowest place in use in `lane`, `None` if the lane is empty."""
        entries = self._lanes[lane]
        first = self._slot(entries[0])[0] if entries else None
        if self._gaps and self._gaps[lane]:
            gap = self._gaps[lane][0].first
            return gap if first is None else min(first, gap)
        return first

    def offer(self, message: Message) -> tuple[tuple[Priority, Offset], ...]:
        """Hold `message`, if necessary in place of others.

        A message that supersedes a pending one of its own lane takes over its place, because at
        the tail, a key that changes faster than the lane drains would never be sent. A message
        that is older than the held one of its subject is dropped.

        Args:
            message: Offsets are offered in ascending order within a lane.

        Returns:
            The lane and place of each evicted message; of `message` itself if it is refused.
        """
        subject = message.subject
        if subject is not None and subject in self._newest and self._conflate(message, subject):
            return ()
        count, size = self._count + 1, self._bytes + len(message.body)
        if count > self.capacity or size > self.max_bytes:
            return self._offer_to_full(message)
        entries = self._lanes[message.priority]
        if entries is _NO_ENTRIES:
            if self._lanes is _NO_LANES:
                self._lanes, self._newest = _NO_LANES.copy(), {}
            entries = self._lanes[message.priority] = deque()
        if subject is None:
            entries.append(message)
        else:
            entries.append(subject)
            self._newest[subject] = message.offset, message
        self._count = count
        self._bytes = size
        if count > self._high_water:  # noqa: PLR1730 - a call of max is slower
            self._high_water = count
        return ()

    def add_gap(self, gap: Gap) -> None:
        """Add `gap` at the tail of its lane; the caller bounds the number of gaps."""
        if not self._gaps:
            self._gaps = [list[Gap]() for _ in LANES]
        self._gaps[gap.priority].append(gap)

    def take(self, now: float) -> Message | Gap | None:
        """Remove and return the next message or gap, `None` if nothing is held.

        Args:
            now: Seconds since the Unix epoch; messages that have expired are dropped and counted.
        """
        while True:
            low, normal, high, critical = self._lanes
            entries = critical or high or normal or low
            if self._gaps and (gap := self._take_gap()) is not None:
                return gap
            if not entries:  # empty: share the empty values again, which frees the memory
                self._lanes, self._newest, self._gaps = _NO_LANES, _NO_SUBJECTS, _NO_GAPS
                return None
            message = entries.popleft()
            if not isinstance(message, Message):
                _, message = self._newest.pop(message)
            self._count -= 1
            self._bytes -= len(message.body)
            if message.expires_at is None or message.expires_at > now:
                self._taken += 1
                return message
            self._expired += 1

    def has_room_for(self, message: Message) -> bool:
        """True if `offer` would hold `message` without evicting from its own or a better lane."""
        return self._victims(message, LANES[: message.priority]) is not None

    def evict_after(self, lane: Priority, after: Offset) -> None:
        """Evict the messages of `lane` with a place after `after`, and drop the gaps there."""
        entries = self._lanes[lane]
        while entries and self._slot(entries[-1])[0] > after:
            self._untrack(entries.pop())
            self._evicted += 1
        if self._gaps:
            self._keep_gaps(lane, [gap for gap in self._gaps[lane] if gap.first <= after])

    def discard(self, unwanted: Callable[[str], bool]) -> int:
        """Evict the messages of unwanted topics, and return their number.

        A gap in several topics is kept for the others (`Gap.without`).

        Args:
            unwanted: Called with a topic; True if the connection no longer has it.
        """
        before = self._count
        for lane in LANES:
            entries = self._lanes[lane]
            kept = [entry for entry in entries if not unwanted(self._slot(entry)[1].topic)]
            if len(kept) < len(entries):
                self._lanes[lane] = deque(kept)
                for entry in {*entries}.difference(kept):
                    self._untrack(entry)
            if self._gaps:
                reduced = [gap.without(unwanted) for gap in self._gaps[lane]]
                self._keep_gaps(lane, [gap for gap in reduced if gap is not None])
        self._evicted += before - self._count
        return before - self._count

    def count_bypass(self, taken: int, conflated: int, expired: int) -> None:
        """Count messages that were sent past the empty buffer as if they had been offered.

        Args:
            taken: Messages that were sent.
            conflated: Messages that a newer one superseded.
            expired: Messages whose ttl had passed.
        """
        self._taken += taken
        self._conflated += conflated
        self._expired += expired

    def uncount_bypass(self, count: int) -> None:
        """Count `count` of the messages that `count_bypass` counted as taken as evicted."""
        self._taken -= count
        self._evicted += count

    def statistics(self) -> BufferStatistics:
        """Return the counts of this moment."""
        not_held = self._taken, self._conflated, self._expired, self._evicted, self._refused
        offered = sum(not_held) + self._count
        return BufferStatistics(offered, *not_held, self._count, self._bytes, self._high_water)

    # -- the lanes ---------------------------------------------------------------------------

    def _slot(self, entry: Entry) -> tuple[Offset, Message]:
        """Return the place of `entry` and its message."""
        return (entry.offset, entry) if isinstance(entry, Message) else self._newest[entry]

    def _untrack(self, entry: Entry) -> Offset:
        """Update the counters for an entry already removed from its lane. Returns its place."""
        place, message = self._slot(entry)
        if message.subject is not None:
            del self._newest[message.subject]
        self._count -= 1
        self._bytes -= len(message.body)
        return place

    def _conflate(self, message: Message, subject: Subject) -> bool:
        """Keep only the newer of `message` and the held message of the same subject.

        Returns True if `message` needs no further handling, False if it is still to be offered.
        """
        place, older = self._newest[subject]
        self._conflated += 1
        if older.offset >= message.offset:
            return True
        size = self._bytes - older.size + message.size
        if older.priority is message.priority and size <= self.max_bytes:
            self._newest[subject] = place, message
            self._bytes = size
            return True
        # The older value is out of date, even if the newer one is refused.
        self._lanes[older.priority].remove(subject)
        self._untrack(subject)
        return False

    def _offer_to_full(self, message: Message) -> tuple[tuple[Priority, Offset], ...]:
        """Evict messages until `message` has room, and offer it again; or refuse it."""
        victims = self._victims(message, LANES[: message.priority + 1])
        if victims is None:
            self._refused += 1
            return ((message.priority, message.offset),)
        evicted = [(lane, self._untrack(self._lanes[lane].popleft())) for lane in victims]
        self._evicted += len(evicted)
        self.offer(message)  # cannot come back here, because now there is room
        return tuple(evicted)

    def _victims(self, message: Message, lanes: Sequence[Priority]) -> list[Priority] | None:
        """Return the lanes to evict one message from, so that `message` has room.

        Example: [LOW, LOW, NORMAL] means two evictions from LOW and one from NORMAL. `None` means
        that evicting everything from `lanes` is not enough.
        """
        count, size = self._count + 1, self._bytes + len(message.body)
        victims: list[Priority] = []
        for lane in lanes:
            for entry in self._lanes[lane]:
                if count <= self.capacity and size <= self.max_bytes:
                    return victims
                older = entry if isinstance(entry, Message) else self._newest[entry][1]
                victims.append(lane)
                count -= 1
                size -= len(older.body)
        return victims if count <= self.capacity and size <= self.max_bytes else None

    # -- the gaps ----------------------------------------------------------------------------

    def _take_gap(self) -> Gap | None:
        """Remove the gaps that stand before the next message, and return them merged."""
        for lane in BEST_FIRST:
            entries, gaps = self._lanes[lane], self._gaps[lane]
            front = self._slot(entries[0])[0] if entries else None
            if gaps and (front is None or gaps[0].first < front):
                gap = gaps.pop(0)
                while gaps and (front is None or gaps[0].first < front):
                    gap = gap.merged(gaps.pop(0))
                self._keep_gaps(lane, gaps)
                return gap
            if entries:
                break
        return None

    def _keep_gaps(self, lane: Priority, gaps: list[Gap]) -> None:
        self._gaps[lane] = gaps
        if not any(self._gaps):
            self._gaps = _NO_GAPS
