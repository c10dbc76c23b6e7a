"""The oracle: the messages that a client has to get, and those that it got.

The oracle applies the rules to the published messages, without any part of holdfast.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


class Violation(AssertionError):
    """A broken promise. The first word names the kind."""


@dataclass(frozen=True)
class Published:
    offset: int
    topic: str
    lane: str
    key: str | None
    to_user: str | None
    expires_at: float | None = None

    @property
    def subject(self):
        return None if self.key is None else (self.topic, self.to_user, self.key)

    @property
    def log(self):
        return self.topic, self.to_user, self.lane


@dataclass
class Log:
    """All published messages, and those that a store with this retention may have trimmed."""

    limit: int
    messages: list[Published] = field(default_factory=list)
    superseded: set[int] = field(default_factory=set)
    now: float = 0.0
    trimmable: set[int] = field(default_factory=set)

    def is_void(self, message: Published) -> bool:
        """Return whether the message need not arrive: it is superseded or expired."""
        expired = message.expires_at is not None and message.expires_at <= self.now
        return expired or message.offset in self.superseded

    def publish(self, message: Published) -> None:
        if message.subject is not None:
            for older in self.messages:
                if older.subject == message.subject:
                    self.superseded.add(older.offset)
        self.messages.append(message)
        kept = [
            m.offset
            for m in self.messages
            if m.log == message.log and m.offset not in self.superseded | self.trimmable
        ]
        if len(kept) > self.limit:
            self.trimmable.update(kept[: -self.limit])


@dataclass
class ClientAccount:
    """The messages of one client, over all its connections."""

    name: str
    log: Log
    subscribed: dict[str, int] = field(default_factory=dict)
    """Topic → the offset that the node had delivered when the topic was subscribed."""
    expected: dict[int, Published] = field(default_factory=dict)
    delivered: list[Published] = field(default_factory=list)
    newest: dict[object, int] = field(default_factory=dict)
    optional: set[int] = field(default_factory=set)
    """Offsets published before a subscription, but not yet delivered by the node at that time."""
    withdrawn: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    covered: set[int] = field(default_factory=set)
    gap_open: set[tuple[str, str | None, str]] = field(default_factory=set)
    gap_counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    gap_unknown: set[str] = field(default_factory=set)

    def published(self, message: Published) -> None:
        if message.topic in self.subscribed and message.to_user in (None, self.name):
            self.expected[message.offset] = message

    def subscribe(self, topic: str, since: int) -> None:
        if topic in self.subscribed:
            return
        self.subscribed[topic] = since
        for message in self.log.messages:
            is_own = message.topic == topic and message.to_user in (None, self.name)
            if is_own and message.offset > since:
                self.optional.add(message.offset)
                self.expected[message.offset] = message

    def unsubscribe(self, topic: str) -> None:
        self.subscribed.pop(topic, None)
        for offset in [o for o, m in self.expected.items() if m.topic == topic]:
            self.withdraw(offset)

    def restart(self) -> None:
        """Begin again: a client that never got a first frame expects no message."""
        self.expected.clear()
        self.covered.clear()
        self.subscribed.clear()

    def withdraw(self, offset: int) -> None:
        """Expect the message no longer. A gap may have counted it."""
        message = self.expected.pop(offset)
        if offset in self.log.trimmable:
            self.withdrawn[message.lane] += 1
        self.covered.discard(offset)

    def receive(self, message: Published) -> None:
        since = self.subscribed.get(message.topic)
        if since is None or message.to_user not in (None, self.name):
            raise Violation(f"private: {message} to {self.name}, who has {self.subscribed}")
        if message.offset <= since:
            raise Violation(f"private: {message} is older than the subscription of {since}")
        is_repeated = message in self.delivered
        if is_repeated and message.key is None:
            raise Violation(f"duplicated: {message}")
        if message.offset in self.covered:
            raise Violation(f"contradicted: {message} was in a gap before")
        self._check_order(message)
        self.delivered.append(message)
        self.expected.pop(message.offset, None)
        if message.key is None:
            self._check_earlier(message)

    def _check_order(self, message: Published) -> None:
        if message.subject is not None:
            if message.offset < self.newest.get(message.subject, 0):
                raise Violation(f"stale: {message} after {self.newest[message.subject]}")
            self.newest[message.subject] = message.offset
            return
        before = [m.offset for m in self.delivered if m.lane == message.lane and m.key is None]
        if before and message.offset < before[-1]:
            raise Violation(f"reordered: {message} after {before[-1]} in its lane")

    def _check_earlier(self, message: Published) -> None:
        """Check that each earlier message of this log has arrived or is in a gap."""
        for other in list(self.expected.values()):
            if other.log != message.log or other.offset > message.offset:
                continue
            self._check_covered(other)
        # The gap covers one hole: the next hole in this log needs a gap of its own.
        self.gap_open.discard(message.log)

    def _check_covered(self, message: Published) -> None:
        if message.offset in self.covered or self.log.is_void(message):
            return
        if message.log not in self.gap_open:
            if message.offset in self.optional:
                return
            raise Violation(f"lost: {message} of {self.name} was skipped without a gap")
        if message.offset not in self.log.trimmable:
            if message.offset in self.optional:
                return
            raise Violation(f"unjustified: {message} is in a gap, but had to be kept")
        self.covered.add(message.offset)

    def gap(self, lane: str, topics: list[str], count: int | None) -> None:
        if not set(topics) <= self.subscribed.keys():
            raise Violation(f"private: a gap of {topics} to {self.name}, who has {self.subscribed}")
        undelivered = [m for m in self.expected.values() if m.lane == lane and m.topic in topics]
        if not any(m.offset in self.log.trimmable for m in undelivered):
            raise Violation(f"spurious: a gap in {lane} of {topics}, where nothing is missing")
        if count is None:
            self.gap_unknown.add(lane)
        else:
            self.gap_counts[lane] += count
        for topic in topics:
            self.gap_open |= {(topic, None, lane), (topic, self.name, lane)}

    def finish(self) -> None:
        """Check that no expected message is missing at the end."""
        for message in list(self.expected.values()):
            self._check_covered(message)
        for lane, count in self.gap_counts.items():
            trimmed = [
                m
                for m in self.expected.values()
                if m.lane == lane and m.offset in self.log.trimmable
            ]
            missed = [m for m in trimmed if not self.log.is_void(m)]
            missing = sum(m.offset in self.covered - self.optional for m in missed)
            withdrawn = self.withdrawn[lane] + len(trimmed) - missing
            # A value that superseded an older one in its place may be counted, if it was trimmed
            # before the client had reached its own place.
            withdrawn += sum(
                m.lane == lane and m.key is not None and m.offset in self.log.trimmable
                for m in self.delivered
            )
            if lane not in self.gap_unknown and not missing <= count <= missing + withdrawn:
                raise Violation(
                    f"miscounted: {lane} reported {count}, missing {missing} (+{withdrawn})"
                )
