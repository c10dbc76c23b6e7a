"""The memory broker bounds everything that it stores, and executes no input."""

from __future__ import annotations

import ast
import gc
import tracemalloc
from pathlib import Path

import pytest

import holdfast
from holdfast import Broadcaster, MemoryBroker, Retention
from tests.support.virtual_loop import wall_clock

SOURCES = sorted(Path(holdfast.__file__).parent.rglob("*.py"))
EXECUTES = {
    "pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle",
    "yaml", "copyreg", "code", "codeop",
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_library_never_unpickles_or_evaluates_input(source: Path) -> None:
    """No module of the library imports code that unpickles or compiles, or calls eval or exec."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & EXECUTES
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").partition(".")[0] not in EXECUTES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "__import__"}


@pytest.mark.slow
async def test_flood_of_topics_and_keys_stays_within_bounds() -> None:
    """A publisher that invents topics, keys and users for ever stays within the bounds."""
    keep = Retention(limit=10, total_bytes=200_000, max_logs=100)
    broker = MemoryBroker(retention=keep, clock=wall_clock)
    async with Broadcaster(broker=broker, clock=wall_clock) as broadcaster:

        async def publish(numbers: range) -> None:
            for n in numbers:
                key = ("", f"k{n}", None)[n % 3]
                user = ("ann", f"user{n}", None)[n % 3]
                await broadcaster.publish(
                    f"t{n}.x", "x" * 100, key=key, to_user=user, idempotency_key=f"i{n % 50}-{n}"
                )

        await publish(range(11_000))  # idempotency keys also reach their limit
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            await publish(range(11_000, 14_000))
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    # Only the newcomers are traced; they replace the entries that were there before.
    assert grown < 3_000_000
