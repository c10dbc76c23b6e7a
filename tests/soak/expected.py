"""The messages that one client is expected to receive, what it received, and its gaps.

The state of each message is one byte. Expected messages wait in one queue per lane. A delivery
removes from the queue everything below it, so a check costs O(1) amortised.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .published import LANES, PublishedMessage, PublishedMessages, Subject

if TYPE_CHECKING:
    from .results import Results

(
    NOT_ENTITLED,
    EXPECTED,
    OPTIONAL,  # published while a subscription began or ended
    DELIVERED,
    REPORTED_LOST,  # covered by a gap
    SKIPPED,  # omitted or lost: a later message of the lane was delivered
    WITHDRAWN,  # its topic was unsubscribed before
) = range(7)

MIN_UNCOUNTED = 1000
"""A server remembers the last 1,024 trimmed messages, so only a larger gap may lack a count."""


@dataclass(slots=True)
class ReportedGap:
    """The gaps reported in one lane since its last message. The next message shows their extent."""

    topics: set[str] = field(default_factory=set)
    all_topics: bool = False
    count: int | None = 0

    def covers(self, message: PublishedMessage) -> bool:
        return self.all_topics or message.topic in self.topics

    def copy(self) -> ReportedGap:
        return ReportedGap(set(self.topics), self.all_topics, self.count)


class ExpectedMessages:
    """The state of every message for one client, across its connections."""

    def __init__(self, name: str, published: PublishedMessages) -> None:
        self.name, self._published = name, published
        self._state = bytearray()
        self._pending: dict[str, deque[PublishedMessage]] = {lane: deque() for lane in LANES}
        self._last: dict[str, int] = dict.fromkeys(LANES, -1)
        self._newest: dict[Subject | None, int] = {}
        self._gaps: dict[str, ReportedGap] = {}

    @property
    def _results(self) -> Results:
        return self._published.results

    def copy(self, name: str) -> ExpectedMessages:
        """Return the same state for a duplicated tab."""
        twin = ExpectedMessages(name, self._published)
        twin._state = bytearray(self._state)
        twin._pending = {lane: deque(queue) for lane, queue in self._pending.items()}
        twin._last, twin._newest = dict(self._last), dict(self._newest)
        twin._gaps = {lane: gap.copy() for lane, gap in self._gaps.items()}
        return twin

    # -- expectations ----------------------------------------------------------------------------

    def expect(self, message: PublishedMessage, *, certain: bool) -> None:
        """Expect a new message. `certain=False`: the subscription is being changed."""
        self._set_state(message.number, EXPECTED if certain else OPTIONAL)
        self._pending[message.lane].append(message)

    def allow(self, messages: Iterable[PublishedMessage]) -> None:
        """Allow messages that were published while the client subscribed."""
        changed_lanes = set()
        for message in messages:
            if self._state_of(message) in (NOT_ENTITLED, WITHDRAWN):
                self._set_state(message.number, OPTIONAL)
                self._pending[message.lane].append(message)
                changed_lanes.add(message.lane)
        for lane in changed_lanes:
            self._pending[lane] = deque(sorted(self._pending[lane], key=lambda m: m.number))

    def reset(self, window: Iterable[PublishedMessage]) -> None:
        """Count all expected messages as reported lost; those of `window` may still arrive."""
        self._gaps.clear()
        for queue in self._pending.values():
            for message in queue:
                if self._state_of(message) != DELIVERED:
                    self._set_state(message.number, REPORTED_LOST)
            queue.clear()
        window = list(window)
        for message in window:
            if self._state_of(message) == REPORTED_LOST:
                self._set_state(message.number, NOT_ENTITLED)
        self.allow(window)

    def withdraw(self, topics: set[str], *, certain: bool) -> None:
        """Stop expecting messages of `topics`. `certain=False`: they may still arrive."""
        for queue in self._pending.values():
            for message in queue:
                if message.topic in topics and self._state_of(message) in (EXPECTED, OPTIONAL):
                    self._set_state(message.number, WITHDRAWN if certain else OPTIONAL)

    def _set_state(self, number: int, state: int) -> None:
        if number >= len(self._state):
            self._state.extend(bytes(number + 4096 - len(self._state)))
        self._state[number] = state

    def _state_of(self, message: PublishedMessage) -> int:
        number = message.number
        return self._state[number] if number < len(self._state) else NOT_ENTITLED

    # -- deliveries ------------------------------------------------------------------------------

    def deliver(self, number: int) -> None:
        """Check the delivery of an intact message."""
        message = self._published.messages[number]
        state = self._state_of(message)
        if state in (EXPECTED, OPTIONAL):
            self._check_order(message)
        else:
            self._check_unexpected(message, state)
        self._set_state(number, DELIVERED)
        if message.key is None:
            self._last[message.lane] = max(self._last[message.lane], number)
            self._settle(message.lane, message)
        else:
            subject = message.subject
            self._newest[subject] = max(number, self._newest.get(subject, -1))

    def _check_order(self, message: PublishedMessage) -> None:
        newest = -1 if message.key is None else self._newest.get(message.subject, -1)
        last = self._last[message.lane]
        if message.number < newest:
            self._results.violation("stale", f"{message} to {self.name} after {newest}")
        elif message.number < last:
            self._results.violation("reordered", f"{message} to {self.name} after {last}")

    def _check_unexpected(self, message: PublishedMessage, state: int) -> None:
        newest = -1 if message.key is None else self._newest.get(message.subject, -1)
        kinds = {REPORTED_LOST: "contradicted", DELIVERED: "duplicated", SKIPPED: "reordered"}
        kind = kinds.get(state, "spurious")
        if state == DELIVERED and message.number == newest:
            # The latest value of a key has the place of the value that it superseded.
            self._results.events["latest value of a key repeated"] += 1
            return
        if state in (DELIVERED, SKIPPED) and message.number < newest:
            kind = "stale"
        self._results.violation(kind, f"{message} to {self.name}")

    def _settle(self, lane: str, delivered: PublishedMessage | None) -> None:
        """Check that each message of the lane below `delivered` came, or may be missing.

        `delivered=None`: the run has ended, and no further message arrives.
        """
        queue, now = self._pending[lane], self._published.clock()
        if queue and queue[0] is delivered and lane not in self._gaps:
            queue.popleft()  # the usual case, without a scan
            return
        gap, missing, omitted = self._gaps.pop(lane, None), 0, 0
        while queue and (delivered is None or queue[0].number <= delivered.number):
            skipped = queue.popleft()
            if skipped is delivered:
                break
            state = self._state_of(skipped)
            if state == EXPECTED and not skipped.may_be_omitted(now):
                missing += self._check_missing(skipped, gap)
                continue
            omitted += skipped.trimmed  # the gap may include it
            if state == EXPECTED:
                self._results.events["superseded" if skipped.superseded else "expired"] += 1
            if state != DELIVERED:
                self._set_state(skipped.number, SKIPPED if state == EXPECTED else state)
        if gap is not None:
            end = "the end" if delivered is None else delivered.number
            where = f"{self.name} in {lane} of {sorted(gap.topics)} before {end}"
            if not missing + omitted:
                self._results.violation("unjustified", f"nothing is missing in a gap: {where}")
            else:
                self.check_count(gap.count, missing, missing + omitted, where)

    def _check_missing(self, message: PublishedMessage, gap: ReportedGap | None) -> bool:
        """Return whether `gap` covers a message that did not arrive."""
        if gap is None or not gap.covers(message):
            self._set_state(message.number, SKIPPED)
            self._results.violation("lost", f"{message} to {self.name}")
            return False
        self._set_state(message.number, REPORTED_LOST)
        if not message.trimmed:
            detail = f"{message} is reported lost to {self.name}, but is still in the history"
            self._results.violation("unjustified", detail)
        return True

    # -- gaps ------------------------------------------------------------------------------------

    def report_gap(self, lane: str, topics: list[str], count: int | None) -> None:
        """Record a gap frame."""
        self._results.events["gap frames"] += 1
        self._results.events["messages reported lost"] += count or 0
        gap = self._gaps.setdefault(lane, ReportedGap())
        gap.topics.update(topics)
        gap.all_topics |= not topics
        gap.count = None if count is None or gap.count is None else gap.count + count

    def check_count(self, count: int | None, certain: int, possible: int, where: str) -> None:
        """Check the count of a gap of `certain` to `possible` messages."""
        if possible >= MIN_UNCOUNTED if count is None else certain <= count <= possible:
            return
        detail = f"count {count}, {certain} to {possible} missing: {where}"
        self._results.violation("miscounted", detail)

    def missing(self, confirmed: int) -> tuple[int, int]:
        """Return the minimum and maximum number of trimmed messages the client still lacks."""
        now, certain, possible = self._published.clock(), 0, 0
        for lane, queue in self._pending.items():
            gap = self._gaps.get(lane)
            for message in queue:
                if not message.trimmed:
                    continue
                possible += 1
                reported = gap is not None and gap.covers(message)
                expected = self._state_of(message) == EXPECTED and not message.may_be_omitted(now)
                certain += expected and not reported and message.trimmed_by <= confirmed
        return certain, possible

    # -- waiting, and the end --------------------------------------------------------------------

    def waiting_since(self) -> float | None:
        """Return when the oldest message that is certainly expected was added, or None."""
        now, found = self._published.clock(), list[float]()
        for lane, queue in self._pending.items():
            gap = self._gaps.get(lane)
            for message in queue:
                reported = gap is not None and gap.covers(message)
                expected = self._state_of(message) == EXPECTED and not message.may_be_omitted(now)
                if expected and not reported:
                    found.append(message.added_at)
                    break
        return min(found, default=None)

    def finish(self) -> None:
        """Check what is still expected at the end of the run, and each gap that is still open."""
        for lane in LANES:
            self._settle(lane, None)
