"""Replica: the recent part of the log, kept in this process.

Most clients return soon, and the replica has what they missed, so that a thousand of them cost
Redis no read. `RemoteHistory` reads what is older.
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
    """A `History` that begins at `base`, in the middle of the log.

    Its floor is therefore the offset up to which the replica has nothing, and not a loss. A replica
    that `covers` a request replies as the log itself (tests/brokers/redis/test_retention.py).
    """

    def __init__(self, retention: Retention, base: Offset) -> None:
        super().__init__(retention)
        self.head = base
        self._dropped_through = [base] * len(LANES)

    def covers(
        self, cursor: Cursor, subscriptions: Subscriptions, lanes: Iterable[Priority] = LANES
    ) -> bool:
        """Return True if the replica has all messages of the subscriptions after `cursor`."""
        return all(
            max(cursor[lane], since) >= self._dropped_through[lane]
            for lane, since in product(lanes, subscriptions.values())
        )

    def _reduce_to(self, total: int, now: float) -> None:
        """Drop the addresses that were written to longest ago; Redis still has them."""
        while self._bytes > total and self._logs:
            self._drop_address(now)
