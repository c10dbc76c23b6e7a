"""PriorityBuffer: what waits for one connection, bounded in messages and bytes, best lane first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from .message import BEST_FIRST, Gap, Message, Offset, Priority

DEFAULT_CAPACITY = 100
"""Messages. Centrifugo bounds its queue by bytes alone, SignalR's stateful buffer by 100 KB."""

DEFAULT_MAX_BYTES = 2 * 1024 * 1024
"""Bytes: twice the largest message that `publish` takes by default."""


class Verdict(Enum):
    """What became of an offered message."""

    ACCEPTED = "accepted"
    """It is held, in its own place or in that of the message it superseded."""
    SUPERSEDED = "superseded"
    """A newer message with its key is held already; it was counted as conflated."""
    REFUSED = "refused"
    """There is no room, and nothing of its own or a lower lane to give way."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The outcome of `offer`: the verdict, and the places of those that gave way, by lane."""

    verdict: Verdict
    evicted: tuple[tuple[Priority, Offset], ...] = ()


Subject = tuple[str, str | None, str]

# Shared by all empty buffers, and never changed.
_NO_LANES: list[OrderedDict[Offset, Message | Gap] | None] = [None] * 4
_NO_SUBJECTS: dict[Subject, tuple[Priority, Offset]] = {}
_NOTHING = [0] * 4

ACCEPTED = Offered(Verdict.ACCEPTED)
_SUPERSEDED = Offered(Verdict.SUPERSEDED)
_REFUSED = Offered(Verdict.REFUSED)


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

    Invariants, each held by the state machine in tests/core/test_buffer.py:

    - `offered = taken + conflated + expired + evicted + refused + held`, at every step;
    - `held <= capacity` and `held_bytes <= max_bytes`;
    - what is taken is the first of the best lane that holds anything;
    - what gives way is the oldest of the lowest lane, and never better than the newcomer;
    - of each subject (topic, user and key) at most the newest message is held;
    - gaps are never evicted, and neighbours are one only when they are taken: until then, each
      goes with its own topics, and with its own stretch of the log.

    All operations are O(1) amortised, except `discard` and `withdraw`, which are linear in what
    is held, and that what is evicted is looked for behind the gaps in front of it. Nothing waits
    and nothing raises for a full buffer.
    """

    __slots__ = (
        "_bytes",
        "_conflated",
        "_count",
        "_evicted",
        "_expired",
        "_held",
        "_high_water",
        "_lanes",
        "_offered",
        "_refused",
        "_size",
        "_subjects",
        "_taken",
        "capacity",
        "max_bytes",
    )

    def __init__(
        self, capacity: int = DEFAULT_CAPACITY, *, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        if capacity < 1 or max_bytes < 1:
            raise ValueError("a buffer holds at least one message and one byte")
        self.capacity = capacity
        self.max_bytes = max_bytes
        # What holds messages is made with the first: most connections never have one to hold.
        self._lanes = _NO_LANES
        self._subjects = _NO_SUBJECTS
        self._held = self._bytes = _NOTHING  # by lane; and in all:
        self._count = self._size = 0
        self._offered = self._taken = self._conflated = 0
        self._expired = self._evicted = self._refused = self._high_water = 0

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        """Whether anything can be taken, a gap included."""
        return any(self._lanes)

    @property
    def held_bytes(self) -> int:
        """The bytes of all messages that are held."""
        return self._size

    def first_place(self, lane: Priority) -> Offset | None:
        """The lowest place in use in `lane`, or `None` when it is empty."""
        entries = self._lanes[lane]
        return next(iter(entries)) if entries else None

    def offer(self, message: Message) -> Offered:
        """Hold `message` if there is, or can be made, room for it.

        Offsets are offered in ascending order within a lane. A message that supersedes a pending
        one of its own lane takes over its place, if its bytes fit there; at the tail, a key that
        changes faster than the lane drains would never be sent.
        """
        self._offered += 1
        subject = message.subject
        if subject is not None:
            pending = self._subjects.get(subject)
            if pending is not None:
                return self._conflate(message, *pending)
        return self._append(message, subject)

    def mark(self, gap: Gap) -> None:
        """Put `gap` at the tail of its lane; its caller bounds how many there are."""
        self._lane(gap.priority)[gap.first] = gap

    def take(self, now: float) -> Message | Gap | None:
        """Remove and return the next message or gap, or `None`; what has expired is dropped."""
        for lane in BEST_FIRST:
            entries = self._lanes[lane]
            while entries:
                _, entry = entries.popitem(last=False)
                if isinstance(entry, Gap):
                    return _joined(entry, entries)
                self._forget(lane, entry)
                if entry.expires_at is None or not entry.has_expired(now):
                    self._taken += 1
                    return entry
                self._expired += 1
        return None

    def withdraw(self, lane: Priority, after: Offset) -> None:
        """Evict all of `lane` that stands after the place `after`, gaps included."""
        entries = self._lanes[lane]
        while entries:
            place = next(reversed(entries))
            if place <= after:
                break
            entry = entries.pop(place)
            if isinstance(entry, Message):
                self._forget(lane, entry)
                self._evicted += 1

    def discard(self, unwanted: Callable[[str], bool]) -> int:
        """Evict every message of an `unwanted` topic, and return how many those were.

        Of the gaps remains what is of other topics (`Gap.without`).
        """
        count = 0
        for lane in BEST_FIRST:
            entries = self._lanes[lane] or OrderedDict()
            for place, entry in list(entries.items()):
                if isinstance(entry, Gap):
                    rest = entry.without(unwanted)
                    if rest is None:
                        del entries[place]
                    else:
                        entries[place] = rest
                elif unwanted(entry.topic):
                    del entries[place]
                    self._forget(lane, entry)
                    count += 1
        self._evicted += count
        return count

    def __iter__(self) -> Iterator[Message | Gap]:
        """What is held, in the order in which it would be taken."""
        for lane in BEST_FIRST:
            yield from (self._lanes[lane] or {}).values()

    def passed(self, taken: int, conflated: int, expired: int) -> None:
        """Count messages that went through while nothing was held, without being held."""
        self._offered += taken + conflated + expired
        self._taken += taken
        self._conflated += conflated
        self._expired += expired

    def came_back(self, count: int) -> None:
        """Count so many of what had `passed` as evicted instead."""
        self._taken -= count
        self._evicted += count

    def statistics(self) -> BufferStatistics:
        """The account as it stands."""
        return BufferStatistics(
            offered=self._offered,
            taken=self._taken,
            conflated=self._conflated,
            expired=self._expired,
            evicted=self._evicted,
            refused=self._refused,
            held=len(self),
            held_bytes=self.held_bytes,
            high_water=self._high_water,
        )

    def has_room_for(self, message: Message) -> bool:
        """Whether `offer` would hold `message` and evict nothing of its own lane or a better."""
        lane = message.priority
        return (
            len(self) - sum(self._held[:lane]) < self.capacity
            and self.held_bytes - sum(self._bytes[:lane]) + message.size <= self.max_bytes
        )

    # -- the lanes ---------------------------------------------------------------------------

    def _lane(self, lane: Priority) -> OrderedDict[Offset, Message | Gap]:
        if self._lanes is _NO_LANES:
            self._lanes, self._subjects = _NO_LANES.copy(), {}
            self._held, self._bytes = _NOTHING.copy(), _NOTHING.copy()
        entries = self._lanes[lane]
        if entries is None:
            entries = self._lanes[lane] = OrderedDict()
        return entries

    def _append(self, message: Message, subject: Subject | None) -> Offered:
        lane, size = message.priority, len(message.body)
        outcome = ACCEPTED
        if self._count >= self.capacity or self._size + size > self.max_bytes:
            outcome = self._make_room(lane, size)
            if outcome is _REFUSED:
                self._refused += 1
                return outcome
        entries = self._lanes[lane]
        if entries is None:
            entries = self._lane(lane)
        entries[message.offset] = message
        self._held[lane] += 1
        self._bytes[lane] += size
        self._size += size
        self._count = count = self._count + 1
        self._high_water = max(self._high_water, count)
        if subject is not None:
            self._subjects[subject] = (lane, message.offset)
        return outcome

    def _make_room(self, lane: Priority, size: int) -> Offered:
        """Evict for one more message of `lane`, if what may give way is enough."""
        below = lane + 1
        excess = self._count + 1 - self.capacity
        excess_bytes = self._size + size - self.max_bytes
        if excess > sum(self._held[:below]) or excess_bytes > sum(self._bytes[:below]):
            return _REFUSED
        return Offered(
            Verdict.ACCEPTED, self._shrink(lane, self.capacity - 1, self.max_bytes - size)
        )

    def _conflate(self, message: Message, lane: Priority, place: Offset) -> Offered:
        """Let the newer of `message` and the pending one of its subject supersede the other."""
        entries = self._lane(lane)
        older = entries[place]
        assert isinstance(older, Message)
        self._conflated += 1
        if older.offset >= message.offset:
            return _SUPERSEDED
        grown = message.size - older.size
        if lane is message.priority and self.held_bytes + grown <= self.max_bytes:
            entries[place] = message
            self._bytes[lane] += grown
            self._size += grown
            return ACCEPTED
        # The older value is out of date whether or not the newer one finds room.
        del entries[place]
        self._forget(lane, older)
        return self._append(message, message.subject)

    def _shrink(
        self, best: Priority, capacity: int, max_bytes: int
    ) -> tuple[tuple[Priority, Offset], ...]:
        """Evict oldest first from the lowest lane up, `best` at the most, down to the bounds."""
        evicted: list[tuple[Priority, Offset]] = []
        lane = Priority.LOW
        while self._count > capacity or self._size > max_bytes:
            while not self._held[lane]:
                lane = Priority(lane + 1)
            assert lane <= best
            evicted.append((lane, self._evict_oldest(lane)))
        return tuple(evicted)

    def _evict_oldest(self, lane: Priority) -> Offset:
        entries = self._lane(lane)
        place, entry = next((p, e) for p, e in entries.items() if isinstance(e, Message))
        del entries[place]
        self._forget(lane, entry)
        self._evicted += 1
        return place

    def _forget(self, lane: Priority, message: Message) -> None:
        size = len(message.body)
        self._held[lane] -= 1
        self._bytes[lane] -= size
        self._count -= 1
        self._size -= size
        if message.subject is not None:
            del self._subjects[message.subject]


def _joined(gap: Gap, entries: OrderedDict[Offset, Message | Gap]) -> Gap:
    """`gap` and those that follow it at the front of `entries`, removed from there, as one."""
    while entries:
        place = next(iter(entries))
        following = entries[place]
        if not isinstance(following, Gap):
            break
        del entries[place]
        gap = gap.merged(following)
    return gap
