"""An event loop whose clock jumps: a wait of an hour takes no time, and nothing is patched."""

from __future__ import annotations

import asyncio
import math
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

EPOCH = 1_800_000_000.0
"""The time of `wall_clock` when the loop's own clock is 0."""


class _JumpingSelector(selectors.DefaultSelector):
    """Advances its clock to the next timer when no callback is ready."""

    now = 0.0
    jumps = 0
    limit = 500_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(None)
        self.now += timeout
        self.jumps += 1
        if self.now > self.limit or self.jumps > self.limit / 10:
            self.limit = math.inf  # the teardown still runs
            raise TimeoutError("the clock ran for days: a task waits for an event that never comes")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, with a clock that advances only while no callback is ready.

    The loop serves code without threads and without real sockets, because these do not stop its
    clock. If the clock has run for days, a task has hung, and `run_forever` raises.
    """

    def __init__(self) -> None:
        self._jumping_selector = _JumpingSelector()
        super().__init__(self._jumping_selector)
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._jumping_selector.now

    @property
    def jumps(self) -> int:
        """The number of times at which the clock advanced to the next timer."""
        return self._jumping_selector.jumps


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Return asyncio with a virtual loop. A `conftest.py` or a test file imports this fixture."""
    return "asyncio", {"loop_factory": VirtualLoop}


def wall_clock() -> float:
    """Return seconds since the Unix epoch that pass with the running loop's clock."""
    return EPOCH + asyncio.get_running_loop().time()


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in a virtual loop of its own. A task that still waits after an hour has hung."""

    async def bounded() -> T:
        async with asyncio.timeout(3600):
            return await main

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(bounded())


async def run_ready(rounds: int = 20) -> None:
    """Run all ready callbacks, without any time passing."""
    for _ in range(rounds):
        await asyncio.sleep(0)
