"""The oracle: what one client was entitled to over all its connections, and what it was told.

The model of tests/model/ has an oracle of its own: it looks into both nodes at every step and stops
at the first violation, where this one sees only what arrives from a real server in real time, and
has to leave open what no client can know: whether something that was published while a request was
under way came before it or after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .debts import Debts
from .ledger import Ledger, Message, covers


@dataclass(slots=True)
class Attempt:
    """A connection that is being opened: what was certain when it began."""

    answered: int
    presented: str | None = None
    """The token in the event id that was presented, if any."""


class Account:
    """The account of one client. ``base`` are the topics that its every request names."""

    def __init__(self, name: str, ledger: Ledger, user: str | None, base: tuple[str, ...]) -> None:
        self.name, self.ledger, self.user, self.base = name, ledger, user, base
        self.debts = Debts(name, ledger)
        self.epoch = ""
        self.subscribed: set[str] = set()
        self.asked: dict[str, str] = {}
        """Topics of a request that has no answer yet → "subscribe" or "unsubscribe"."""
        self.token: str | None = None
        self._parent: str | None = None

    def copy(self, name: str) -> Account:
        """A second client that has the same event id."""
        twin = Account(name, self.ledger, self.user, self.base)
        twin.debts, twin.epoch = self.debts.copy(name), self.epoch
        twin.token, twin._parent = self.token, self._parent
        twin.subscribed, twin.asked = set(self.subscribed), dict(self.asked)
        if twin.epoch == self.ledger.epoch:
            twin._place()
        return twin

    def leave(self) -> None:
        """The client has gone for good, or its session has."""
        self.ledger.place(self, {})

    def owe(self, message: Message, *, certain: bool) -> None:
        """The message was published to a topic that the client has, or perhaps has."""
        self.debts.owe(message, certain=certain)

    def _topics(self, expressions: set[str]) -> set[str]:
        return {t for t in self.ledger.topics if any(covers(e, t) for e in expressions)}

    def _place(self) -> None:
        """Have the ledger note what this account is owed from now on."""
        personal = set() if self.user is None else {"$user"}
        leaving = {topic for topic, how in self.asked.items() if how == "unsubscribe"}
        places = dict.fromkeys(self._topics(self.subscribed | set(self.asked)), False)
        places |= dict.fromkeys(self._topics(self.subscribed - leaving) | personal, True)
        self.ledger.place(self, places)

    # -- connecting ------------------------------------------------------------------------------

    def present(self) -> Attempt:
        """The client is about to connect, with its last event id if it has one."""
        if self._parent is not None:
            self.ledger.spent.add(self._parent)
        return Attempt(self.ledger.answered, self.token)

    def begin(self, attempt: Attempt, epoch: str, hello: dict[str, Any]) -> None:
        """The first frame of a connection has come."""
        session, cause = hello["session"], hello.get("gap", {}).get("cause")
        told = session if cause is None else f"gap, {cause}"
        self.ledger.happened[f"session: {told}"] += 1
        if epoch not in self.ledger.epochs:
            self._breach("unjustified", f"a log {epoch} that nobody began")
        if self.token is None:
            if session != "fresh":
                self._breach("unjustified", f"{told} at the first time")
            self._begin_anew(attempt, epoch, hello)
        elif session == "resumed" or cause == "trimmed":
            self._resume(attempt, epoch, hello)
        else:
            restart, spent = epoch != self.epoch, attempt.presented in self.ledger.spent
            if not (cause == "restart" if restart else cause == "unknown" and spent):
                self._breach("unjustified", f"{told}, {restart=}, {spent=}")
            self._begin_anew(attempt, epoch, hello)
        self._parent = attempt.presented
        self.token = hello["reconnectToken"]

    def _begin_anew(self, attempt: Attempt, epoch: str, hello: dict[str, Any]) -> None:
        """A session of its own, from now on."""
        self.epoch = epoch
        self.asked.clear()
        self.subscribed = set(self.base)
        self._check_topics(hello)
        self.leave()
        window = list[Message]()
        if epoch == self.ledger.epoch:
            topics = self._topics(self.subscribed) | (set() if self.user is None else {"$user"})
            window = self.ledger.since(attempt.answered, topics, self.user)
            self._place()
        self.debts.begin_anew(window)

    def _resume(self, attempt: Attempt, epoch: str, hello: dict[str, Any]) -> None:
        if epoch != self.epoch:
            self._breach("contradicted", f"resumed from the log {self.epoch} in {epoch}")
        for topic, how in list(self.asked.items()):
            del self.asked[topic]
            if topic in hello["topics"]:
                self.subscribed.add(topic)
            else:
                self.subscribed.discard(topic)
                if how == "unsubscribe":
                    self._withdraw(topic, certain=True)
        if self.epoch == self.ledger.epoch:
            self._place()
        self._check_topics(hello)
        certain, possible = self.debts.missing(attempt.answered)
        if hello["session"] == "resumed":
            if certain:
                self._breach("contradicted", f"resumed, but {certain} are gone")
        elif not possible:
            self._breach("unjustified", "a gap, but nothing is gone")
        else:
            count = hello["gap"]["count"]
            self.debts.check_count(count, certain, possible, f"{self.name}, first frame")

    def _check_topics(self, hello: dict[str, Any]) -> None:
        if set(hello["topics"]) != self.subscribed or hello["rejected"]:
            what = f"has {sorted(self.subscribed)}, is told {sorted(hello['topics'])}"
            self._breach("contradicted", what)

    def _breach(self, kind: str, what: str) -> None:
        self.ledger.breach(kind, f"{self.name}: {what}")

    # -- subscribing -----------------------------------------------------------------------------

    def ask(self, topic: str, how: str) -> None:
        """The client is about to subscribe to a topic, or to unsubscribe."""
        if how == "subscribe":
            new = self._topics({topic}) - self._topics(self.subscribed)
            self.debts.offer(self.ledger.since(self.ledger.answered, new, self.user))
        else:
            self._withdraw(topic, certain=False)
        self.asked[topic] = how
        self._place()

    def carried_out(self, topic: str, *, in_order: bool) -> None:
        """That was answered; `in_order` with the messages, so that nothing older follows."""
        how = self.asked.pop(topic)
        if how == "subscribe":
            self.subscribed.add(topic)
        else:
            self.subscribed.discard(topic)
            self._withdraw(topic, certain=in_order)
        self._place()

    def _withdraw(self, topic: str, *, certain: bool) -> None:
        gone = self._topics({topic}) - self._topics(self.subscribed - {topic})
        self.debts.evict_after(gone, certain=certain)
