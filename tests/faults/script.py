"""What happens to one client, step by step, as a test of the oracle writes it."""

from __future__ import annotations

import itertools
from typing import Any

from tests.faults.ledger import Ledger
from tests.faults.oracle import Account


class Script:
    """One client of user ``u`` with the topics ``a`` and ``b``, and a history of two messages."""

    def __init__(self, limit: int = 2) -> None:
        self.now = 1000.0
        self.ledger = Ledger(limit, ("a", "b", "c", "$user"), clock=lambda: self.now)
        self.ledger.start("log-1")
        self.client = Account("client", self.ledger, "u", ("a", "b"))
        self._tokens = itertools.count()
        self.hello(session="fresh")

    def publish(self, topic: str = "a", lane: str = "normal", **options: Any) -> int:
        """Publish, and have it answered; the number."""
        number = self.ledger.enter(topic, lane, 0, **options).number
        self.ledger.answer(number)
        return number

    def hello(
        self,
        session: str = "resumed",
        *,
        client: Account | None = None,
        cause: str | None = None,
        count: int | None = None,
        topics: tuple[str, ...] | None = None,
        epoch: str | None = None,
        published: int = 0,
    ) -> None:
        """The client connects; so many messages are published before the answer."""
        client = client or self.client
        attempt = client.present()
        for _ in range(published):
            self.publish()
        told: dict[str, Any] = {"session": session, "rejected": []}
        told["reconnectToken"] = f"token-{next(self._tokens)}"
        told["topics"] = list(topics or client.subscribed or client.base)
        if cause is not None:
            told["gap"] = {"cause": cause, "count": count}
        client.begin(attempt, epoch or self.ledger.epoch, told)

    def deliver(self, *numbers: int) -> None:
        for number in numbers:
            self.client.debts.deliver(number)

    def gap(self, count: int | None, *topics: str, lane: str = "normal") -> None:
        self.client.debts.gap(lane, list(topics or ("a",)), count)

    def counts(self) -> dict[str, int]:
        """What was counted, at the end of the script."""
        self.client.debts.finish()
        return {kind: count for kind, count in self.ledger.counts.items() if count}
