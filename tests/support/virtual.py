"""An event loop whose clock jumps: what waits for an hour takes no time, and nothing is patched."""

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
"""What `wall_clock` says when the loop's own clock says 0."""


class _Jumping(selectors.DefaultSelector):
    """Where nothing is ready, the time until the next timer passes at once."""

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
            self.limit = math.inf  # so that what is left can be torn down
            raise TimeoutError("the clock ran on for days: something waits for what never comes")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, with a clock that passes only while nothing can run.

    It is for code without threads and without real sockets: those do not stop its clock. When it
    has run on for days, whoever is left waiting has hung, and `run_forever` raises.
    """

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._jumping.now

    @property
    def jumps(self) -> int:
        """How often nothing could run, and the clock went on to the next timer."""
        return self._jumping.jumps


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """asyncio, on a loop whose clock jumps: for a `conftest.py`, or a file of tests, to import."""
    return "asyncio", {"loop_factory": VirtualLoop}


def wall_clock() -> float:
    """Seconds since the Unix epoch that pass with the running loop's clock."""
    return EPOCH + asyncio.get_running_loop().time()


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` in a virtual loop of its own; whoever still waits after an hour has hung."""

    async def bounded() -> T:
        async with asyncio.timeout(3600):
            return await main

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(bounded())


async def settle(rounds: int = 20) -> None:
    """Let everything run that can run now, without any time passing."""
    for _ in range(rounds):
        await asyncio.sleep(0)
