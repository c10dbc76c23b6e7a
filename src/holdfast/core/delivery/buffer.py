"""PriorityBuffer: what waits for one connection, bounded in messages and bytes, best lane first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..message import BEST_FIRST, LANES, Gap, Message, Offset, Priority
from ..validation import check_number

DEFAULT_CAPACITY = 100
"""Messages. Centrifugo bounds its queue by bytes alone, SignalR's stateful buffer by 100 KB."""

DEFAULT_MAX_BYTES = 2 * 1024 * 1024
"""Bytes: twice the largest message that `publish` takes by default."""

Subject = tuple[str, str | None, str]
Entry = Message | Subject
"""What stands in a lane: a message without a key, or the subject of one that has a key."""

# What all empty buffers share, and none changes: the lanes, the place and the newest message of
# each subject, and the gaps by lane. Most connections hold nothing most of the time.
_NO_ENTRIES: deque[Entry] = deque(maxlen=0)
_NO_LANES = [_NO_ENTRIES] * len(LANES)
_NO_SUBJECTS: dict[Subject, tuple[Offset, Message]] = {}
_NO_GAPS: list[list[Gap]] = []


@dataclass(frozen=True, slots=True)
class BufferStatistics:
    """A snapshot of the account: `offered` is always the sum of the other five and `held`."""

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
    """Four first-in-first-out lanes behind one bound.

    A message stands at a *place*: its offset, or that of the message it superseded; a gap at the
    first offset that it may be for. Places ascend within a lane, so what lies below the first one
    is settled.

    Invariants, each held by the state machine in tests/core/delivery/test_buffer.py:

    - `offered = taken + conflated + expired + evicted + refused + held`, at every step;
    - `held <= capacity` and `held_bytes <= max_bytes`;
    - what is taken is the first of the best lane that holds anything;
    - what gives way is the oldest of the lowest lane, and never better than the newcomer;
    - of each subject (topic, user and key) at most the newest message is held;
    - gaps are never evicted, and neighbours are one only when they are taken: until then, each
      goes with its own topics, and with its own stretch of the log.

    All operations are O(1) amortised but these: `discard`, and a key that comes in another lane
    than before, go through what is held, and a message for whose bytes there is no room is only
    refused after a look at fewer bytes than its own. Nothing waits and nothing raises for a full
    buffer.
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
        """Whether anything can be taken, a gap included."""
        return bool(self._count or self._gaps)

    def __iter__(self) -> Iterator[Message | Gap]:
        """What is held, in the order in which it would be taken."""
        for lane in BEST_FIRST:
            held: dict[Offset, Message | Gap] = dict(map(self._slot, self._lanes[lane]))
            held.update((gap.first, gap) for gap in (self._gaps[lane] if self._gaps else ()))
            yield from (held[place] for place in sorted(held))

    def low_water(self, lane: Priority) -> Offset | None:
        """The lowest place in use in `lane`, or `None` when it is empty."""
        entries = self._lanes[lane]
        first = self._slot(entries[0])[0] if entries else None
        if self._gaps and self._gaps[lane]:
            gap = self._gaps[lane][0].first
            return gap if first is None else min(first, gap)
        return first

    def offer(self, message: Message) -> tuple[tuple[Priority, Offset], ...]:
        """Hold `message` if there is, or can be made, room for it; the places that gave way.

        Where there is none, it gives way itself, and the others stay. Offsets are offered in
        ascending order within a lane. A message that supersedes a pending one of its own lane
        takes over its place, if its bytes fit there; at the tail, a key that changes faster than
        the lane drains would never be sent. One that comes when a newer one is held is dropped.
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
        """Put `gap` at the tail of its lane; its caller bounds how many there are."""
        if not self._gaps:
            self._gaps = [list[Gap]() for _ in LANES]
        self._gaps[gap.priority].append(gap)

    def take(self, now: float) -> Message | Gap | None:
        """Remove and return the next message or gap, or `None`; what has expired is dropped."""
        while True:
            low, normal, high, critical = self._lanes
            entries = critical or high or normal or low
            if self._gaps and (gap := self._take_gap()) is not None:
                return gap
            if not entries:  # all is taken, and what it took is given back
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
        """Whether `offer` would hold `message` and evict nothing of its own lane or a better."""
        return self._victims(message, LANES[: message.priority]) is not None

    def evict_after(self, lane: Priority, after: Offset) -> None:
        """Evict all of `lane` that stands after the place `after`, gaps included."""
        entries = self._lanes[lane]
        while entries and self._slot(entries[-1])[0] > after:
            self._untrack(entries.pop())
            self._evicted += 1
        if self._gaps:
            self._keep_gaps(lane, [gap for gap in self._gaps[lane] if gap.first <= after])

    def discard(self, unwanted: Callable[[str], bool]) -> int:
        """Evict every message of an `unwanted` topic, and return how many those were.

        Of the gaps remains what is of other topics (`Gap.without`).
        """
        before = self._count
        for lane in LANES:
            entries = self._lanes[lane]
            kept = [each for each in entries if not unwanted(self._slot(each)[1].topic)]
            if len(kept) < len(entries):
                self._lanes[lane] = deque(kept)
                for entry in {*entries}.difference(kept):
                    self._untrack(entry)
            if self._gaps:
                rests = [gap.without(unwanted) for gap in self._gaps[lane]]
                self._keep_gaps(lane, [rest for rest in rests if rest is not None])
        self._evicted += before - self._count
        return before - self._count

    def count_bypass(self, taken: int, conflated: int, expired: int) -> None:
        """Count messages that went through while nothing was held, without being held."""
        self._taken += taken
        self._conflated += conflated
        self._expired += expired

    def uncount_bypass(self, count: int) -> None:
        """Count so many of what had `count_bypass` as evicted instead."""
        self._taken -= count
        self._evicted += count

    def statistics(self) -> BufferStatistics:
        """The account as it stands."""
        gone = self._taken, self._conflated, self._expired, self._evicted, self._refused
        offered = sum(gone) + self._count
        return BufferStatistics(offered, *gone, self._count, self._bytes, self._high_water)

    # -- the lanes ---------------------------------------------------------------------------

    def _slot(self, entry: Entry) -> tuple[Offset, Message]:
        """The place of `entry`, and the message that stands there."""
        return (entry.offset, entry) if isinstance(entry, Message) else self._newest[entry]

    def _untrack(self, entry: Entry) -> Offset:
        """Strike what was removed from its lane off the books; its place."""
        place, message = self._slot(entry)
        if message.subject is not None:
            del self._newest[message.subject]
        self._count -= 1
        self._bytes -= len(message.body)
        return place

    def _conflate(self, message: Message, subject: Subject) -> bool:
        """Let the newer of `message` and the one held supersede the other; whether that is all."""
        place, older = self._newest[subject]
        self._conflated += 1
        if older.offset >= message.offset:
            return True
        size = self._bytes - older.size + message.size
        if older.priority is message.priority and size <= self.max_bytes:
            self._newest[subject] = place, message
            self._bytes = size
            return True
        # The older value is out of date whether or not the newer one finds room.
        self._lanes[older.priority].remove(subject)
        self._untrack(subject)
        return False

    def _offer_to_full(self, message: Message) -> tuple[tuple[Priority, Offset], ...]:
        """Evict what has to give way to `message`, and offer it again; or refuse it."""
        victims = self._victims(message, LANES[: message.priority + 1])
        if victims is None:
            self._refused += 1
            return ((message.priority, message.offset),)
        evicted = [(lane, self._untrack(self._lanes[lane].popleft())) for lane in victims]
        self._evicted += len(evicted)
        self.offer(message)  # for which there is room now
        return tuple(evicted)

    def _victims(self, message: Message, lanes: Sequence[Priority]) -> list[Priority] | None:
        """Which of `lanes` have to give up a message, each time one; `None`: all are not enough."""
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
        """Remove and return, as one, the gaps that stand before the next message."""
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
