"""The latency of a critical message over a slow link, beside a queue per client."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.slow_link import BY_HAND, WITH_SSE, WITH_WEBSOCKET, Contestant, latency

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

TRIES = 3
"""A busy machine may need more than one attempt."""


@pytest.mark.parametrize("contestant", [WITH_SSE, WITH_WEBSOCKET], ids=lambda each: each.name)
def test_critical_message_arrives_within_300_ms(contestant: Contestant) -> None:
    """An acknowledging client gets CRITICAL at once, before 4 MB of LOW on 1 Mbit/s."""
    assert any(asyncio.run(latency(contestant, patience=10.0)) < 0.3 for _ in range(TRIES))


def test_queue_per_client_takes_more_than_three_seconds() -> None:
    """The hand-written queue needs more than three seconds (and about thirty)."""
    assert asyncio.run(latency(BY_HAND, patience=3.0)) == 3.0
