"""Promise 1, delivered or reported, on random traces of the real parts, and its mutants."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .mutants import MUTANTS, hunt, play
from .world import World


@settings(max_examples=150)
@given(st.lists(st.integers(0, 2**16), max_size=400))
def test_every_message_is_delivered_or_reported(script: list[int]) -> None:
    """On any trace, each client gets every message, or a gap."""
    world = World(script)
    try:
        world.play()
    finally:
        world.close()


@pytest.mark.parametrize("block", range(8))
def test_long_random_traces(block: int) -> None:
    """The promise holds on long traces, which hypothesis rarely draws."""
    for seed in range(10_000 + block * 150, 10_000 + (block + 1) * 150):
        play(seed)


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_rule_is_detected(name: str) -> None:
    """The oracle detects each rule of the cursor that a mutant breaks."""
    assert hunt(name) is not None, f"{name} is not detected: {MUTANTS[name].__doc__}"


def test_empty_script_has_no_violation() -> None:
    """An empty script connects all clients, and no message is missing."""
    world = World([])
    world.play()
    world.close()
    assert [len(client.account.delivered) for client in world.clients] == [0, 0]
