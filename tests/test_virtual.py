"""The virtual loop of the tests: time passes only while nothing can run."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.virtual_loop import EPOCH, run_ready, run_virtual, wall_clock


def test_hours_take_no_time() -> None:
    """A sleep of hours ends at once, and the loop's clock says that they have passed."""

    async def main() -> float:
        await asyncio.sleep(3000.0)
        return asyncio.get_running_loop().time()

    begun = time.monotonic()
    assert run_virtual(main()) == pytest.approx(3000.0)
    assert time.monotonic() - begun < 5.0


def test_timers_keep_their_order_and_distance() -> None:
    """A task that sleeps shorter wakes first, at its own time, and no time passes in between."""
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await run_ready()
        woken.append((name, wall_clock() - EPOCH))

    async def main() -> None:
        await asyncio.gather(sleeper("long", 20.0), sleeper("short", 5.0), sleeper("none", 0.0))

    run_virtual(main())
    assert [name for name, _ in woken] == ["none", "short", "long"]
    assert [at for _, at in woken] == pytest.approx([0.0, 5.0, 20.0])


def test_whoever_waits_for_ever_fails() -> None:
    """A wait that nothing will end is a failure, and does not hang the tests."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run_virtual(main())
