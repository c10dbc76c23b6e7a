"""The ledger: everything that was published, and which of it a server may have forgotten.

It knows docs/protocol.md and docs/guarantees.md, and nothing of how holdfast works. A message is
known by its number, in publish order; it is entered *before* it is sent, so that whatever is
delivered was entered.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .oracle import Account

LANES = ("critical", "high", "normal", "low")

BREACHES = (
    *("lost", "duplicated", "reordered", "stale", "corrupted", "spurious"),
    *("contradicted", "unjustified", "miscounted", "stuck"),
)
"""What must not happen, each counted."""


def covers(expression: str, topic: str) -> bool:
    """Whether a topic or pattern covers a topic (docs/protocol.md, section 1)."""
    wanted, given = expression.split("."), topic.split(".")
    if wanted[-1] == "**":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(
        one in ("*", other) for one, other in zip(wanted, given, strict=True)
    )


@dataclass(slots=True, eq=False)
class Message:
    """What was published. `expires_at` is the earliest time at which the server may drop it."""

    number: int
    topic: str
    lane: str
    checksum: int
    key: str | None = None
    to_user: str | None = None
    expires_at: float | None = None
    entered_at: float = 0.0
    superseded: bool = False
    trimmed: bool = False
    trimmed_by: int = 0
    """The message at whose publishing this one left the history."""

    @property
    def subject(self) -> tuple[str, str | None, str] | None:
        """What a newer message supersedes an older one by."""
        return None if self.key is None else (self.topic, self.to_user, self.key)

    def is_void(self, now: float) -> bool:
        """Whether nobody misses it: a newer value was published, or its time is over."""
        return self.superseded or (self.expires_at is not None and self.expires_at <= now)


@dataclass
class Ledger:
    """What was published, and what became of everybody.

    `limit` is how many messages the server was told to keep per topic, user and lane. `topics` are
    all to which anything is published.
    """

    limit: int
    topics: tuple[str, ...]
    clock: Callable[[], float] = time.time
    messages: list[Message] = field(default_factory=list)
    answered: int = -1
    """The number of the last message whose publishing has been answered."""
    epoch: str = ""
    epochs: set[str] = field(default_factory=set)
    begin: int = 0
    """The number of the first message of this epoch."""
    spent: set[str] = field(default_factory=set)
    """Tokens whose successor has been presented: the server knows them no more."""
    counts: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    readers: dict[str, dict[Account, bool]] = field(default_factory=dict)
    """Topic → who is subscribed to it; true: for certain, false: perhaps already or still."""
    _kept: dict[tuple[str, str | None, str], deque[Message]] = field(default_factory=dict)
    _live: Counter[tuple[str, str | None, str]] = field(default_factory=Counter)
    _newest: dict[tuple[str, str | None, str], Message] = field(default_factory=dict)

    def breach(self, kind: str, what: str) -> None:
        """Count a broken promise; the first ones are kept in words."""
        assert kind in BREACHES, kind
        self.counts[kind] += 1
        if len(self.examples) < 40:
            self.examples.append(f"{kind}: {what}")

    # -- what is published -----------------------------------------------------------------------

    def enter(
        self,
        topic: str,
        lane: str,
        checksum: int,
        *,
        key: str | None = None,
        to_user: str | None = None,
        ttl: float | None = None,
    ) -> Message:
        """Note what is about to be published, and who is owed it."""
        now = self.clock()
        message = Message(len(self.messages), topic, lane, checksum, key, to_user)
        message.entered_at = now
        message.expires_at = None if ttl is None else now + ttl
        self.messages.append(message)
        self._supersede(message)
        self._trim(message)
        for account, certain in self.readers.get(topic, {}).items():
            if to_user is None or account.user == to_user:
                account.owe(message, certain=certain)
        return message

    def answer(self, through: int) -> None:
        """The server has answered the publishing of everything up to this number."""
        self.answered = through

    def _supersede(self, message: Message) -> None:
        subject = message.subject
        if subject is None:
            return
        older = self._newest.get(subject)
        self._newest[subject] = message
        if older is not None:
            older.superseded = True
            if not older.trimmed:
                self._live[older.topic, older.to_user, older.lane] -= 1

    def _trim(self, message: Message) -> None:
        log = (message.topic, message.to_user, message.lane)
        kept = self._kept.setdefault(log, deque())
        kept.append(message)
        self._live[log] += 1
        while self._live[log] > self.limit:
            oldest = kept.popleft()
            if not oldest.superseded:
                self._live[log] -= 1
                oldest.trimmed = True
                oldest.trimmed_by = message.number

    # -- the life of the log ---------------------------------------------------------------------

    def start(self, epoch: str) -> None:
        """A log with this name begins."""
        if epoch in self.epochs:
            self.breach("contradicted", f"a new log has the name {epoch} of an older one")
        self.epochs.add(epoch)
        self.epoch = epoch

    def end(self) -> None:
        """The log is gone, with the server."""
        self.epoch = ""
        self.begin = len(self.messages)
        self.answered = self.begin - 1
        self.readers.clear()
        self._kept.clear()
        self._live.clear()
        self._newest.clear()

    # -- who reads -------------------------------------------------------------------------------

    def since(self, number: int, topics: Iterable[str], user: str | None) -> list[Message]:
        """The messages of this epoch after a number, on these topics, that the user may have."""
        wanted = set(topics)
        return [
            message
            for message in self.messages[max(number + 1, self.begin) :]
            if message.topic in wanted and message.to_user in (None, user)
        ]

    def place(self, account: Account, topics: dict[str, bool]) -> None:
        """From now on the account reads these topics, and no others."""
        for topic in self.topics:
            if topic in topics:
                self.readers.setdefault(topic, {})[account] = topics[topic]
            else:
                self.readers.get(topic, {}).pop(account, None)

    @property
    def breaches(self) -> int:
        """All broken promises together."""
        return sum(self.counts[kind] for kind in BREACHES)
