"""Nodes of one Redis that are killed one after the other; redis_soak.py does it for hours."""

from __future__ import annotations

import asyncio
import random

from tests.faults.redis_soak import BREACHES, Plan, soak


def test_nodes_that_die_break_no_promise() -> None:
    """Whichever node dies: each client sees every message of its topics once and in order."""
    plan = Plan(seconds=8, seed=random.randrange(10**6), clients=40)
    happened = asyncio.run(soak(plan))
    assert not any(happened[name] for name in BREACHES), happened
    assert happened["session: resumed"] > 50, happened
    assert happened["nodes ended by SIGKILL"] >= 2, happened
