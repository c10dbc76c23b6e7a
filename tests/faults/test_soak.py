"""Random faults under load, for some seconds; soak.py runs the same for hours."""

from __future__ import annotations

import asyncio
import random

from tests.faults.soak import Plan, soak


def test_random_faults_break_no_promise() -> None:
    """Whatever is cut, stalled, doubled and killed: each client gets what it is owed, once."""
    plan = Plan(
        seconds=12,
        seed=random.randrange(10**6),
        cuts=1000,
        deliveries=40_000,
        clients=120,
        restarts=1,
    )
    report = asyncio.run(soak(plan))
    assert report.breaches == 0, report.table()
    # That it ran at all: a third of what a machine with nothing else to do manages.
    assert report.cuts_in_all > 330, report.table()
    assert report.happened["deliveries"] > 13_000, report.table()
    assert report.happened["session: resumed"] > 200, report.table()
    assert report.happened["polls answered"] > 50, report.table()
    assert report.happened["session: gap, restart"] >= plan.clients, report.table()
