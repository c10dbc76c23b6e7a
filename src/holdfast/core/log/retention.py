"""Retention: how much of what was published is kept."""

from __future__ import annotations

from dataclasses import dataclass

from ..validation import check_number, suggest_options


@suggest_options
@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The bounds of one log (one topic, one lane), and of all of them together.

    `limit` in messages, `age` in seconds (`None`: no bound by age), `max_bytes` per log,
    `total_bytes` and `max_logs` for the whole history.
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
