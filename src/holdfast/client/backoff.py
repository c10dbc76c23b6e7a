"""How long to wait before the next try."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class Backoff:
    """Delays with full jitter: drawn from `least` up to a bound that doubles with each failure.

    All in seconds; never more than `most`. Full jitter spreads returning clients best
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """

    __slots__ = ("_failures", "_least", "_most")

    def __init__(self, least: float, most: float) -> None:
        self._least = least
        self._most = most
        self._failures = 0

    def reset(self) -> None:
        """The stream works: begin anew."""
        self._failures = 0

    def next(self, asked: float | None = None) -> float:
        """The delay before the next try, at least what the server `asked` for, up to the most."""
        self._failures = min(self._failures + 1, 30)
        bound = min(self._most, max(self._least, 0.001) * 2.0**self._failures)
        delay = random.uniform(self._least, max(self._least, bound))  # noqa: S311 - jitter
        return min(self._most, max(delay, asked or 0.0))


def retry_after(value: str | None) -> float | None:
    """The seconds that a `Retry-After` header names (RFC 9110, section 10.2.3), if any."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        when = parsedate_to_datetime(value)
        return max(
            0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        )
    except (ValueError, OverflowError):
        return None
