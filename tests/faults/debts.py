"""What one client is owed, what it got, and what a gap says of the difference.

What a message is to the client is one byte; what is still owed stands in a queue per lane. A
delivery takes from that queue what lies below it, so judging costs O(1) amortised.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from .ledger import LANES, Ledger, Message

Subject = tuple[str, str | None, str]

(
    NOTHING,  # the client has no right to it
    OWED,
    OPTIONAL,  # published while a subscription began or ended
    DELIVERED,
    DECLARED,  # covered by a gap
    PASSED,  # void, or found lost, when something that lies beyond it came
    WITHDRAWN,  # of a topic that was unsubscribed before
) = range(7)

REMEMBERED = 1000
"""A gap may come without a count only when more than about so many messages are missing."""


@dataclass(slots=True)
class Hole:
    """A gap that was told in a lane, until the next message of the lane shows what it was for."""

    topics: set[str] = field(default_factory=set)
    anything: bool = False
    count: int | None = 0

    def covers(self, message: Message) -> bool:
        return self.anything or message.topic in self.topics

    def copy(self) -> Hole:
        return Hole(set(self.topics), self.anything, self.count)


class Debts:
    """The messages of one client, whatever connection they come over."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name, self.ledger = name, ledger
        self._state = bytearray()
        self._pending: dict[str, deque[Message]] = {lane: deque() for lane in LANES}
        self._last: dict[str, int] = dict.fromkeys(LANES, -1)
        self._newest: dict[Subject | None, int] = {}
        self._holes: dict[str, Hole] = {}

    def copy(self, name: str) -> Debts:
        twin = Debts(name, self.ledger)
        twin._state = bytearray(self._state)
        twin._pending = {lane: deque(queue) for lane, queue in self._pending.items()}
        twin._last, twin._newest = dict(self._last), dict(self._newest)
        twin._holes = {lane: hole.copy() for lane, hole in self._holes.items()}
        return twin

    # -- what it is owed -------------------------------------------------------------------------

    def owe(self, message: Message, *, certain: bool) -> None:
        """The message was published to a topic that the client has, or perhaps has."""
        self._mark(message.number, OWED if certain else OPTIONAL)
        self._pending[message.lane].append(message)

    def offer(self, messages: Iterable[Message]) -> None:
        """These may come, too: they were published while the client subscribed."""
        touched = set()
        for message in messages:
            if self._of(message) in (NOTHING, WITHDRAWN):
                self._mark(message.number, OPTIONAL)
                self._pending[message.lane].append(message)
                touched.add(message.lane)
        for lane in touched:
            self._pending[lane] = deque(sorted(self._pending[lane], key=lambda m: m.number))

    def begin_anew(self, window: Iterable[Message]) -> None:
        """Everything owed so far is declared lost; only what is in the window may still come."""
        self._holes.clear()
        for queue in self._pending.values():
            for message in queue:
                if self._of(message) != DELIVERED:
                    self._mark(message.number, DECLARED)
            queue.clear()
        window = list(window)
        for message in window:
            if self._of(message) == DECLARED:
                self._mark(message.number, NOTHING)
        self.offer(window)

    def evict_after(self, topics: set[str], *, certain: bool) -> None:
        """What is pending for these is dropped, or, as long as that is not certain, may be."""
        for queue in self._pending.values():
            for message in queue:
                if message.topic in topics and self._of(message) in (OWED, OPTIONAL):
                    self._mark(message.number, WITHDRAWN if certain else OPTIONAL)

    def _mark(self, number: int, state: int) -> None:
        if number >= len(self._state):
            self._state.extend(bytes(number + 4096 - len(self._state)))
        self._state[number] = state

    def _of(self, message: Message) -> int:
        number = message.number
        return self._state[number] if number < len(self._state) else NOTHING

    # -- what it gets ----------------------------------------------------------------------------

    def deliver(self, number: int) -> None:
        """A message, intact, has come."""
        message = self.ledger.messages[number]
        state = self._of(message)
        if state in (OWED, OPTIONAL):
            self._check_order(message)
        else:
            self._object(message, state)
        self._mark(number, DELIVERED)
        if message.key is None:
            self._last[message.lane] = max(self._last[message.lane], number)
            self._settle(message)
        else:
            subject = message.subject
            self._newest[subject] = max(number, self._newest.get(subject, -1))

    def _check_order(self, message: Message) -> None:
        newest = -1 if message.key is None else self._newest.get(message.subject, -1)
        last = self._last[message.lane]
        if message.number < newest:
            self.ledger.breach("stale", f"{message} to {self.name} after {newest}")
        elif message.number < last:
            self.ledger.breach("reordered", f"{message} to {self.name} after {last}")

    def _object(self, message: Message, state: int) -> None:
        """Something came that was not owed."""
        newest = -1 if message.key is None else self._newest.get(message.subject, -1)
        kind = {DECLARED: "contradicted", DELIVERED: "duplicated", PASSED: "reordered"}.get(
            state, "spurious"
        )
        if state == DELIVERED and message.number == newest:
            # The latest value of a key stands at the place of one that it superseded.
            self.ledger.happened["a key's latest value again"] += 1
            return
        if state in (DELIVERED, PASSED) and message.number < newest:
            kind = "stale"
        self.ledger.breach(kind, f"{message} to {self.name}")

    def _settle(self, message: Message) -> None:
        """Everything of the lane below `message` has come by now, is void, or was declared."""
        queue, now = self._pending[message.lane], self.ledger.clock()
        if queue and queue[0] is message and message.lane not in self._holes:
            queue.popleft()  # nearly always
            return
        hole, missing, slack = self._holes.pop(message.lane, None), 0, 0
        while queue and queue[0].number <= message.number:
            passed = queue.popleft()
            if passed is message:
                break
            state = self._of(passed)
            if state == OWED and not passed.is_void(now):
                missing += self._pass(passed, hole)
                continue
            slack += passed.trimmed  # a gap may have counted it
            if state == OWED:
                self.ledger.happened["superseded" if passed.superseded else "expired"] += 1
            if state != DELIVERED:
                self._mark(passed.number, PASSED if state == OWED else state)
        if hole is not None:
            self._judge(hole, missing, slack, message)

    def _pass(self, passed: Message, hole: Hole | None) -> bool:
        if hole is None or not hole.covers(passed):
            self._mark(passed.number, PASSED)
            self.ledger.breach("lost", f"{passed} to {self.name}")
            return False
        self._mark(passed.number, DECLARED)
        if not passed.trimmed:
            what = f"{passed} is declared lost to {self.name}, but had to be kept"
            self.ledger.breach("unjustified", what)
        return True

    # -- gaps ------------------------------------------------------------------------------------

    def gap(self, lane: str, topics: list[str], count: int | None) -> None:
        """A gap frame has come."""
        self.ledger.happened["gap frames"] += 1
        self.ledger.happened["messages declared lost"] += count or 0
        hole = self._holes.setdefault(lane, Hole())
        hole.topics.update(topics)
        hole.anything |= not topics
        hole.count = None if count is None or hole.count is None else hole.count + count

    def _judge(self, hole: Hole, missing: int, slack: int, message: Message) -> None:
        where = f"{self.name} in {message.lane} of {sorted(hole.topics)} before {message.number}"
        if not missing + slack:
            self.ledger.breach("unjustified", f"a gap for {where}, where nothing is missing")
        else:
            self.check_count(hole.count, missing, missing + slack, where)

    def check_count(self, count: int | None, certain: int, possible: int, where: str) -> None:
        """Whether the count of a gap is one that it can have."""
        if possible >= REMEMBERED if count is None else certain <= count <= possible:
            return
        what = f"{count} told, {certain} to {possible} missing: {where}"
        self.ledger.breach("miscounted", what)

    def missing(self, answered: int) -> tuple[int, int]:
        """How many messages the history has lost for this client: certainly, and at most."""
        now, certain, possible = self.ledger.clock(), 0, 0
        for lane, queue in self._pending.items():
            hole = self._holes.get(lane)
            for message in queue:
                if not message.trimmed:
                    continue
                possible += 1
                told = hole is not None and hole.covers(message)
                owed = self._of(message) == OWED and not message.is_void(now)
                certain += owed and not told and message.trimmed_by <= answered
        return certain, possible

    # -- waiting, and the end --------------------------------------------------------------------

    def waits_since(self) -> float | None:
        """When the oldest message was published that the client is certainly still owed."""
        now, found = self.ledger.clock(), list[float]()
        for lane, queue in self._pending.items():
            hole = self._holes.get(lane)
            for message in queue:
                told = hole is not None and hole.covers(message)
                if self._of(message) == OWED and not told and not message.is_void(now):
                    found.append(message.entered_at)
                    break
        return min(found, default=None)

    def finish(self) -> None:
        """Nothing more comes: whatever is still owed is lost."""
        now = self.ledger.clock()
        for queue in self._pending.values():
            for message in queue:
                if self._of(message) == OWED and not message.is_void(now):
                    self.ledger.breach("lost", f"{message} to {self.name}, at the end")
            queue.clear()
