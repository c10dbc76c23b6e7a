"""The oracle: what one client is entitled to over all its connections, and what it received.

tests/model/ has an oracle of its own: it reads the state of both nodes at every step, and stops at
the first violation. This oracle sees only the frames of a real server in real time, and counts. A
message that was published while a request was in flight may come before or after that request, so
the oracle accepts both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tests.fuzz.reference import covers

from .expected import ExpectedMessages
from .published import PublishedMessage, PublishedMessages

Change = Literal["subscribe", "unsubscribe"]


@dataclass(slots=True)
class ConnectAttempt:
    """A connection that is being opened.

    `confirmed` is `PublishedMessages.confirmed` at that time. `token` is the token in the presented
    event id, if any.
    """

    confirmed: int
    token: str | None = None


class ClientOracle:
    """The sessions, subscriptions and messages of one client.

    `base_topics` are named in each request of the client.
    """

    def __init__(
        self,
        name: str,
        published: PublishedMessages,
        user: str | None,
        base_topics: tuple[str, ...],
    ) -> None:
        self.name, self.published = name, published
        self.user, self.base_topics = user, base_topics
        self.expected = ExpectedMessages(name, published)
        self.epoch = ""
        self.subscribed: set[str] = set()
        self.unanswered: dict[str, Change] = {}
        """Topic → the change that the client requested and that has no answer yet."""
        self.token: str | None = None
        self.has_copied_token = False
        """True from `copy` until the first connection, which copies the session of the token."""
        self._presented_token: str | None = None

    def copy(self, name: str) -> ClientOracle:
        """Return the oracle of a second client with the same event id."""
        twin = ClientOracle(name, self.published, self.user, self.base_topics)
        twin.expected, twin.epoch = self.expected.copy(name), self.epoch
        twin.token, twin._presented_token = self.token, self._presented_token
        twin.has_copied_token = True
        twin.subscribed, twin.unanswered = set(self.subscribed), dict(self.unanswered)
        if twin.epoch == self.published.epoch:
            twin._update_topics()
        return twin

    def close(self) -> None:
        """Stop expecting messages: the client has left for good, or its session is gone."""
        self.published.subscribe(self, {})

    def _matching(self, expressions: set[str]) -> set[str]:
        return {t for t in self.published.topics if any(covers(e, t) for e in expressions)}

    def _update_topics(self) -> None:
        personal = set() if self.user is None else {"$user"}
        leaving = {topic for topic, how in self.unanswered.items() if how == "unsubscribe"}
        topics = dict.fromkeys(self._matching(self.subscribed | set(self.unanswered)), False)
        topics |= dict.fromkeys(self._matching(self.subscribed - leaving) | personal, True)
        self.published.subscribe(self, topics)

    def _violation(self, kind: str, detail: str) -> None:
        self.published.results.violation(kind, f"{self.name}: {detail}")

    # -- connecting ------------------------------------------------------------------------------

    def connect(self) -> ConnectAttempt:
        """Record that the client is about to connect, with its last event id if it has one."""
        if self._presented_token is not None:
            self.published.spent_tokens.add(self._presented_token)
        return ConnectAttempt(self.published.confirmed, self.token)

    def connected(self, attempt: ConnectAttempt, epoch: str, first_frame: dict[str, Any]) -> None:
        """Check the first frame of a connection."""
        session, cause = first_frame["session"], first_frame.get("gap", {}).get("cause")
        described = session if cause is None else f"gap, {cause}"
        self.published.results.events[f"session: {described}"] += 1
        if epoch not in self.published.epochs:
            self._violation("unjustified", f"the log {epoch} was never started")
        if self.token is None:
            if session != "fresh":
                self._violation("unjustified", f"{described} at the first connection")
            self._start_session(attempt, epoch, first_frame)
        elif session == "resumed" or cause == "trimmed":
            self._resume_session(attempt, epoch, first_frame)
        else:
            restart = epoch != self.epoch
            spent = attempt.token in self.published.spent_tokens
            if not (cause == "restart" if restart else cause == "unknown" and spent):
                self._violation("unjustified", f"{described}, {restart=}, {spent=}")
            self._start_session(attempt, epoch, first_frame)
        self._presented_token = attempt.token
        self.token = first_frame["reconnectToken"]
        self.has_copied_token = False

    def _start_session(
        self, attempt: ConnectAttempt, epoch: str, first_frame: dict[str, Any]
    ) -> None:
        self.epoch = epoch
        self.unanswered.clear()
        self.subscribed = set(self.base_topics)
        self._check_topics(first_frame)
        self.close()
        window = list[PublishedMessage]()
        if epoch == self.published.epoch:
            topics = self._matching(self.subscribed) | (set() if self.user is None else {"$user"})
            window = self.published.since(attempt.confirmed, topics, self.user)
            self._update_topics()
        self.expected.reset(window)

    def _resume_session(
        self, attempt: ConnectAttempt, epoch: str, first_frame: dict[str, Any]
    ) -> None:
        if epoch != self.epoch:
            self._violation("contradicted", f"resumed from the log {self.epoch} in {epoch}")
        for topic, change in list(self.unanswered.items()):
            del self.unanswered[topic]
            if topic in first_frame["topics"]:
                self.subscribed.add(topic)
            else:
                self.subscribed.discard(topic)
                if change == "unsubscribe":
                    self._withdraw(topic, certain=True)
        if self.epoch == self.published.epoch:
            self._update_topics()
        self._check_topics(first_frame)
        certain, possible = self.expected.missing(attempt.confirmed)
        if first_frame["session"] == "resumed":
            if certain:
                self._violation("contradicted", f"resumed, but {certain} messages were trimmed")
        elif not possible:
            self._violation("unjustified", "a gap, but no message was trimmed")
        else:
            count = first_frame["gap"]["count"]
            self.expected.check_count(count, certain, possible, f"{self.name}, first frame")

    def _check_topics(self, first_frame: dict[str, Any]) -> None:
        if set(first_frame["topics"]) != self.subscribed or first_frame["rejected"]:
            detail = f"subscribed {sorted(self.subscribed)}, told {sorted(first_frame['topics'])}"
            self._violation("contradicted", detail)

    # -- subscribing -----------------------------------------------------------------------------

    def request_change(self, topic: str, change: Change) -> None:
        """Record that the client is about to subscribe to a topic, or to unsubscribe."""
        if change == "subscribe":
            new = self._matching({topic}) - self._matching(self.subscribed)
            self.expected.allow(self.published.since(self.published.confirmed, new, self.user))
        else:
            self._withdraw(topic, certain=False)
        self.unanswered[topic] = change
        self._update_topics()

    def confirm_change(self, topic: str, *, in_order: bool) -> None:
        """Record the answer. `in_order`: it stands among the messages, and no older one follows."""
        change = self.unanswered.pop(topic)
        if change == "subscribe":
            self.subscribed.add(topic)
        else:
            self.subscribed.discard(topic)
            self._withdraw(topic, certain=in_order)
        self._update_topics()

    def _withdraw(self, topic: str, *, certain: bool) -> None:
        gone = self._matching({topic}) - self._matching(self.subscribed - {topic})
        self.expected.withdraw(gone, certain=certain)
