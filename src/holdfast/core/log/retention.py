"""Retention: how much of the published messages the log keeps."""

from __future__ import annotations

from dataclasses import dataclass

from ..validation import check_number, suggest_options


@suggest_options
@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The bounds of each log (one topic, one user or all, one lane) and of the whole history.

    Args:
        limit: Messages per log.
        age: Seconds that a message is kept, `None` for no bound.
        max_bytes: Bytes of all bodies per log.
        total_bytes: Bytes of all bodies in the history.
        max_logs: Pairs of topic and user in the history; each has four logs, one per lane.

    Raises:
        ConfigurationError: A bound is not a number, or is below 0; `age` is not over 0.
    """

    limit: int = 1000
    age: float | None = 3600.0
    max_bytes: int = 16 * 1024 * 1024
    total_bytes: int = 256 * 1024 * 1024
    max_logs: int = 100_000

    def __post_init__(self) -> None:
        for name in ("limit", "max_bytes", "total_bytes", "max_logs"):
            check_number(name, getattr(self, name), whole=True, zero=True)
        if self.age is not None:
            check_number("age", self.age)
