"""Profiles of the property tests, the event loop, and the programs that a test needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from holdfast import Broadcaster
from tests.support import require
from tests.support.processes import Starts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TESTS = Path(__file__).parent
# Folders and files that start programs. Programs are slow, and read the real clock.
PROGRAMS = tuple(
    "benchmarks brokers browser faults servers soak bad_inputs/test_raw_sockets.py"
    " client/test_acknowledger.py client/test_build.py client/test_node.py"
    " client/test_real_servers.py client/test_requested_topics.py client/test_stream.py"
    " test_client_types.py test_nginx.py test_support.py".split()
)
# These have long scripts and many inputs, without a program.
SLOW = (*PROGRAMS, "bad_inputs", "fuzz", "model")
# A busy machine can fail these.
REAL_TIME = (*PROGRAMS, "test_sockets.py")

# No deadline per example: on a busy machine it measures the machine. The timeout per test remains.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=False, print_blob=True)
settings.register_profile("fast", deadline=None, max_examples=10)


def pytest_configure(config: pytest.Config) -> None:
    """Draw fewer examples in the fast tests, and more information in CI."""
    ci = "ci" if os.environ.get("CI") == "true" else "default"
    settings.load_profile("fast" if "not slow" in config.option.markexpr else ci)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as slow or real_time by their folder, and the contract where it runs on Redis."""
    for item in items:
        place = item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""
        on_redis = place.startswith("contract/") and "[redis" in item.name
        if on_redis or place.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if on_redis or place.startswith(REAL_TIME):
            item.add_marker(pytest.mark.real_time)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, the only loop that the supported servers have."""
    return "asyncio"


@pytest.fixture
async def broadcaster() -> AsyncIterator[Broadcaster]:
    """A running Broadcaster; a file whose tests need other options has its own."""
    async with Broadcaster() as made:
        yield made


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked with `needs`, or fail it in CI, before any of its fixtures is made."""
    Starts.are_allowed = item.get_closest_marker("slow") is not None
    for mark in item.iter_markers("needs"):
        require(**mark.kwargs)
