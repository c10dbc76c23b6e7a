"""The virtual loop of the tests: its clock advances only while no callback is ready."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.virtual_loop import EPOCH, run_ready, run_virtual, wall_clock


@pytest.mark.real_time
def test_hours_take_no_time() -> None:
    """A sleep of hours ends at once, and advances the clock of the loop."""

    async def main() -> float:
        await asyncio.sleep(3000.0)
        return asyncio.get_running_loop().time()

    start = time.monotonic()
    assert run_virtual(main()) == pytest.approx(3000.0)
    assert time.monotonic() - start < 5.0


def test_timers_keep_their_order_and_distance() -> None:
    """Timers end in order, each at its own time."""
    wake_ups: list[tuple[str, float]] = []

    async def sleep_and_record(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await run_ready()
        wake_ups.append((name, wall_clock() - EPOCH))

    async def main() -> None:
        await asyncio.gather(
            sleep_and_record("long", 20.0),
            sleep_and_record("short", 5.0),
            sleep_and_record("none", 0.0),
        )

    run_virtual(main())
    assert [name for name, _ in wake_ups] == ["none", "short", "long"]
    assert [time_ for _, time_ in wake_ups] == pytest.approx([0.0, 5.0, 20.0])


def test_wait_without_an_end_fails() -> None:
    """A task that waits forever raises TimeoutError."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run_virtual(main())
