"""All published messages, and which of them the history may have dropped.

The module follows docs/protocol.md and docs/guarantees.md, and imports nothing from holdfast. Each
message has a number, in publish order. The publisher adds a message *before* it sends the request,
so that each delivered message is already here.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .oracle import ClientOracle
    from .results import Results

LANES = ("critical", "high", "normal", "low")

Subject = tuple[str, str | None, str]
"""Topic, user and key: a newer message supersedes an older one of the same subject."""

LogName = tuple[str, str | None, str]
"""Topic, user and lane: the history is bounded per log."""


@dataclass(slots=True, eq=False)
class PublishedMessage:
    """One message. `expires_at` is the earliest time at which the server may drop it."""

    number: int
    topic: str
    lane: str
    checksum: int
    key: str | None = None
    to_user: str | None = None
    expires_at: float | None = None
    added_at: float = 0.0
    superseded: bool = False
    trimmed: bool = False
    trimmed_by: int = 0
    """The number of the message whose publishing removed this one from the history."""

    @property
    def subject(self) -> Subject | None:
        return None if self.key is None else (self.topic, self.to_user, self.key)

    def may_be_omitted(self, now: float) -> bool:
        """Return whether the message was superseded or has expired."""
        return self.superseded or (self.expires_at is not None and self.expires_at <= now)


@dataclass
class PublishedMessages:
    """The messages of all publishers, and the oracle of each client that may receive them.

    `limit` is the number of messages that the server keeps per log; None: the history is never
    trimmed. `topics` are all topics that anything is published to.
    """

    limit: int | None
    topics: tuple[str, ...]
    results: Results
    clock: Callable[[], float] = time.time
    messages: list[PublishedMessage] = field(default_factory=list)
    epoch: str = ""
    epochs: set[str] = field(default_factory=set)
    first: int = 0
    """The number of the first message of this epoch."""
    spent_tokens: set[str] = field(default_factory=set)
    """Tokens whose successor has been presented. The server no longer accepts them."""
    readers: dict[str, dict[ClientOracle, bool]] = field(default_factory=dict)
    """Topic → its subscribers. True: subscribed for certain. False: a change is in flight."""
    _unconfirmed: set[int] = field(default_factory=set)
    _kept: dict[LogName, deque[PublishedMessage]] = field(default_factory=dict)
    _live: Counter[LogName] = field(default_factory=Counter)
    _newest: dict[Subject, PublishedMessage] = field(default_factory=dict)

    # -- publishing ------------------------------------------------------------------------------

    def add(
        self,
        topic: str,
        lane: str,
        checksum: int = 0,
        *,
        key: str | None = None,
        to_user: str | None = None,
        ttl: float | None = None,
    ) -> PublishedMessage:
        """Record a message that is about to be published, and expect it at each subscriber."""
        now = self.clock()
        message = PublishedMessage(len(self.messages), topic, lane, checksum, key, to_user)
        message.added_at = now
        message.expires_at = None if ttl is None else now + ttl
        self.messages.append(message)
        self._unconfirmed.add(message.number)
        self._supersede(message)
        if self.limit is not None:
            self._trim(message, self.limit)
        for oracle, certain in self.readers.get(topic, {}).items():
            if to_user is None or oracle.user == to_user:
                oracle.expected.expect(message, certain=certain)
        return message

    def confirm(self, *numbers: int) -> None:
        """Record that the server has answered the publishing of these messages."""
        self._unconfirmed.difference_update(numbers)

    @property
    def confirmed(self) -> int:
        """The highest number below which the server has answered every publish request."""
        return min(self._unconfirmed, default=len(self.messages)) - 1

    def _supersede(self, message: PublishedMessage) -> None:
        subject = message.subject
        if subject is None:
            return
        older = self._newest.get(subject)
        self._newest[subject] = message
        if older is not None:
            older.superseded = True
            if not older.trimmed:
                self._live[older.topic, older.to_user, older.lane] -= 1

    def _trim(self, message: PublishedMessage, limit: int) -> None:
        log = (message.topic, message.to_user, message.lane)
        kept = self._kept.setdefault(log, deque())
        kept.append(message)
        self._live[log] += 1
        while self._live[log] > limit:
            oldest = kept.popleft()
            if not oldest.superseded:
                self._live[log] -= 1
                oldest.trimmed = True
                oldest.trimmed_by = message.number

    # -- epochs of the log -----------------------------------------------------------------------

    def start_epoch(self, epoch: str) -> None:
        """Record the start of a log with this name."""
        if epoch in self.epochs:
            self.results.violation("contradicted", f"a new log reuses the epoch {epoch}")
        self.epochs.add(epoch)
        self.epoch = epoch

    def end_epoch(self) -> None:
        """Record that the log was lost together with its server."""
        self.epoch = ""
        self.first = len(self.messages)
        self._unconfirmed.clear()
        self.readers.clear()
        self._kept.clear()
        self._live.clear()
        self._newest.clear()

    # -- subscribers -----------------------------------------------------------------------------

    def since(self, number: int, topics: Iterable[str], user: str | None) -> list[PublishedMessage]:
        """Return this epoch's messages after `number` on `topics` that `user` may receive."""
        wanted = set(topics)
        return [
            message
            for message in self.messages[max(number + 1, self.first) :]
            if message.topic in wanted and message.to_user in (None, user)
        ]

    def subscribe(self, oracle: ClientOracle, topics: dict[str, bool]) -> None:
        """Replace the topics of a client (topic → whether the subscription is certain)."""
        for topic in self.topics:
            if topic in topics:
                self.readers.setdefault(topic, {})[oracle] = topics[topic]
            else:
                self.readers.get(topic, {}).pop(oracle, None)
