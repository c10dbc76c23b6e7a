"""Replica: the recent part of the log, as far as this process has followed it.

Most clients come back soon, and what they missed is here; so a thousand of them ask Redis nothing.
What is older is asked for (`archive.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from ...core.cursor import Cursor
from ...core.log.history import History
from ...core.log.pages import Subscriptions
from ...core.log.retention import Retention
from ...core.message import LANES, Offset, Priority


class Replica(History):
    """A `History` that begins in the middle of the log, at `base`.

    Its floor is therefore no loss: it says from where this process knows. Ask it only for what it
    `covers`; then it answers as the log itself would (tests/brokers/redis/test_retention.py).
    """

    def __init__(self, retention: Retention, base: Offset) -> None:
        super().__init__(retention)
        self.head = base
        self._floor = [base] * len(LANES)

    def covers(
        self, cursor: Cursor, subscriptions: Subscriptions, lanes: Iterable[Priority] = LANES
    ) -> bool:
        """Whether everything after `cursor` that the subscriptions may see is known here."""
        return all(
            max(cursor[lane], since) >= self._floor[lane]
            for lane, since in product(lanes, subscriptions.values())
        )

    def _shrink(self, total: int, now: float) -> None:
        """Drop what was longest not written to; it can be asked for again."""
        while self._bytes > total and self._logs:
            self._drop_address(now)
