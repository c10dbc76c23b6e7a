"""Clock: the two clocks of a running Broadcaster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """`time()` is in seconds since the Unix epoch, `monotonic()` in seconds of the event loop."""

    time: Callable[[], float]
    monotonic: Callable[[], float]
