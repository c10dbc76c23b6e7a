"""Profiles of the property tests, the event loop, and the programs that a test needs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from holdfast import Broadcaster
from tests.support import require

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# No deadline per example: on a busy machine it measures the machine. The timeout per test remains.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")


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
    for mark in item.iter_markers("needs"):
        require(**mark.kwargs)
