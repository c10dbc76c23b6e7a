"""Thresholds that raise and clear alerts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alert:
    """The data of one message on the topic ``alerts``."""

    source: str
    state: str  # raised, cleared or test
    text: str


@dataclass(slots=True)
class Threshold:
    """Raises once at ``raise_at``, and clears once at ``clear_at``.

    A value that fluctuates around a limit raises no series of alerts, for two reasons: the two
    limits differ, and the value has to stay beyond a limit for ``patience`` samples.
    """

    source: str
    label: str
    raise_at: float
    clear_at: float
    patience: int = 3
    raised: bool = False
    beyond: int = 0

    def observe(self, value: float) -> Alert | None:
        """Record the next value. Returns an alert if the value raises or clears one, else None."""
        crossed = value <= self.clear_at if self.raised else value >= self.raise_at
        self.beyond = self.beyond + 1 if crossed else 0
        if self.beyond < self.patience:
            return None
        self.raised, self.beyond = not self.raised, 0
        if self.raised:
            return Alert(
                source=self.source, state="raised", text=f"{self.label} is at {value:.0f} %"
            )
        return Alert(
            source=self.source, state="cleared", text=f"{self.label} is back at {value:.0f} %"
        )
