"""The Redis soak, for some seconds (`python -m tests.soak redis` runs longer)."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.soak.redis_nodes import Plan, soak

pytestmark = [pytest.mark.slow, pytest.mark.real_time]


def test_nodes_that_are_ended_break_no_promise() -> None:
    """Each client receives every message of its topics once and in order."""
    report = asyncio.run(soak(Plan(seconds=8, seed=random.randrange(10**6), clients=40)))
    results, table = report.results, report.table()
    assert results.total_violations == 0, table
    assert results.events["session: resumed"] > 50, table
    assert results.events["servers ended by SIGKILL"] >= 2, table
