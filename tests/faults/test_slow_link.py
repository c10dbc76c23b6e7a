"""A critical message over a slow link, side by side with a queue per client."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.slow_link import BY_HAND, WITH_SSE, WITH_WEBSOCKET, Contestant, latency

TRIES = 3
"""A machine that is busy with other tests may need more than one."""


@pytest.mark.parametrize("contestant", [WITH_SSE, WITH_WEBSOCKET], ids=lambda each: each.name)
def test_critical_message_comes_within_300_ms(contestant: Contestant) -> None:
    """With 4 MB of LOW pending on 1 Mbit/s, a client that acknowledges gets CRITICAL at once."""
    assert any(asyncio.run(latency(contestant, patience=10.0)) < 0.3 for _ in range(TRIES))


def test_queue_per_client_is_ten_times_later() -> None:
    """The same in the hand-written way is not there after three seconds (but after thirty)."""
    assert asyncio.run(latency(BY_HAND, patience=3.0)) == 3.0
