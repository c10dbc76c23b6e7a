"""The fixtures that run each test with every implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from holdfast.brokers.protocol import Broker
from tests.contract.implementations import FACTORIES, Make


@pytest.fixture(params=FACTORIES)
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Return the factory of each implementation."""
    async with FACTORIES[request.param]() as factory:
        yield factory


@pytest.fixture
async def broker(make: Make) -> AsyncIterator[Broker]:
    """Return a started broker with an empty log."""
    started = make()
    await started.start()
    yield started
    await started.close()
