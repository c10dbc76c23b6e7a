"""The history of one client, step by step, for the tests of the oracle."""

from __future__ import annotations

import itertools
from typing import Any

from .oracle import ClientOracle
from .published import PublishedMessages
from .results import Results


class Script:
    """One client of user `u` with the topics `a` and `b`, and a history of two messages per log.

    `limit=None`: the history is never trimmed.
    """

    def __init__(self, limit: int | None = 2) -> None:
        self.now = 1000.0
        self.results = Results()
        self.published = PublishedMessages(
            limit, ("a", "b", "c", "$user"), self.results, clock=lambda: self.now
        )
        self.published.start_epoch("log-1")
        self.client = ClientOracle("client", self.published, "u", ("a", "b"))
        self._tokens = itertools.count()
        self.connect(session="fresh")

    def publish(self, topic: str = "a", lane: str = "normal", **options: Any) -> int:
        """Publish a message that the server confirms. Returns its number."""
        number = self.published.add(topic, lane, **options).number
        self.published.confirm(number)
        return number

    def connect(
        self,
        session: str = "resumed",
        *,
        client: ClientOracle | None = None,
        cause: str | None = None,
        count: int | None = None,
        topics: tuple[str, ...] | None = None,
        epoch: str | None = None,
        published_meanwhile: int = 0,
    ) -> None:
        """Connect the client, and publish some messages between its request and the answer."""
        client = client or self.client
        attempt = client.connect()
        for _ in range(published_meanwhile):
            self.publish()
        first_frame: dict[str, Any] = {"session": session, "rejected": []}
        first_frame["reconnectToken"] = f"token-{next(self._tokens)}"
        first_frame["topics"] = list(topics or client.subscribed or client.base_topics)
        if cause is not None:
            first_frame["gap"] = {"cause": cause, "count": count}
        client.connected(attempt, epoch or self.published.epoch, first_frame)

    def deliver(self, *numbers: int) -> None:
        for number in numbers:
            self.client.expected.deliver(number)

    def report_gap(self, count: int | None, *topics: str, lane: str = "normal") -> None:
        self.client.expected.report_gap(lane, list(topics or ("a",)), count)

    def finish(self) -> dict[str, int]:
        """End the script. Returns the violations."""
        self.client.expected.finish()
        return dict(self.results.violations)
