"""Promise 1, delivered or declared, on random traces of the real parts; and its mutants die."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .mutants import MUTANTS, hunt, play
from .world import World


@settings(max_examples=150)
@given(st.lists(st.integers(0, 2**16), max_size=400))
def test_every_message_is_delivered_or_declared(script: list[int]) -> None:
    """Each client's account balances after any cuts, evictions, trims, revocations and delays."""
    world = World(script)
    try:
        world.play()
    finally:
        world.close()


@pytest.mark.parametrize("block", range(8))
def test_long_random_traces(block: int) -> None:
    """The same on long traces, which hypothesis rarely draws."""
    for seed in range(10_000 + block * 150, 10_000 + (block + 1) * 150):
        play(seed)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_found(name: str) -> None:
    """Each rule of the cursor, broken on purpose, breaks a promise that the oracle checks."""
    assert hunt(name) is not None, f"{name} lives: {MUTANTS[name].__doc__}"


def test_the_oracle_accepts_the_world_with_no_step() -> None:
    """An empty script settles: everybody connects, nothing is owed."""
    world = World([])
    world.play()
    world.close()
    assert [len(seat.account.delivered) for seat in world.seats] == [0, 0]
