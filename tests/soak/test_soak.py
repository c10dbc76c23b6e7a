"""The single-server soak, for some seconds (`python -m tests.soak single-server` runs longer)."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.soak.single_server import Plan, soak

pytestmark = [pytest.mark.slow, pytest.mark.real_time]


def test_random_faults_break_no_promise() -> None:
    """Each client receives every expected message once, under cuts, stalls and restarts."""
    plan = Plan(
        seconds=12,
        seed=random.randrange(10**6),
        cuts=1000,
        deliveries=40_000,
        clients=120,
        restarts=1,
    )
    report = asyncio.run(soak(plan))
    results, table = report.results, report.table()
    assert results.total_violations == 0, table
    # A third of the numbers of an idle machine proves that the load and the faults were real.
    assert results.cuts.total() > 330, table
    assert results.events["deliveries"] > 13_000, table
    assert results.events["session: resumed"] > 200, table
    assert results.events["polls answered"] > 50, table
    assert results.events["session: gap, restart"] >= plan.clients, table
