"""Clock: the two clocks of a running Broadcaster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """The wall clock and the clock of the event loop, both in seconds.

    Attributes:
        time: Returns seconds since the Unix epoch. This clock may jump.
        monotonic: Returns seconds since any moment. This clock never goes back.
    """

    time: Callable[[], float]
    monotonic: Callable[[], float]
