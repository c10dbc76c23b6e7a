"""Backoff: the delay before the next attempt."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MAX_FAILURES = 30
"""The bound stops doubling here, because 2.0 ** 1024 overflows. 0.001 s * 2 ** 30 is 12 days."""


class Backoff:
    """Draws delays with full jitter between `min_delay` and a bound that doubles with each failure.

    All delays are in seconds and at most `max_delay`. Example: with 0.5 and 20, the delays are
    drawn from 0.5 to 1, then 2, 4, 8, 16, 20, 20. Full jitter spreads returning clients best
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """

    __slots__ = ("_failures", "_max_delay", "_min_delay")

    def __init__(self, min_delay: float, max_delay: float) -> None:
        self._min_delay = min_delay
        self._max_delay = max_delay
        self._failures = 0

    def reset(self) -> None:
        """Start again with the shortest delays, because the stream works."""
        self._failures = 0

    def draw(self, requested: float = 0.0) -> float:
        """Count a failure and return the delay before the next attempt, in seconds.

        The delay is at least `requested`, which the server has asked for, and at most `max_delay`.
        """
        self._failures = min(self._failures + 1, _MAX_FAILURES)
        bound = min(self._max_delay, max(self._min_delay, 0.001) * 2.0**self._failures)
        delay = random.uniform(self._min_delay, max(self._min_delay, bound))  # noqa: S311 - jitter
        return min(self._max_delay, max(delay, requested))


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds in a `Retry-After` header (RFC 9110, section 10.2.3), or None.

    The header has either of two forms: "120", or "Fri, 31 Dec 1999 23:59:59 GMT".
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        when = parsedate_to_datetime(value)
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds)
