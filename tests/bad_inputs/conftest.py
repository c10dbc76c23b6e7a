"""Time is virtual, and nothing that a client or publisher does may get into a log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.transports.websocket import InboundLimits
from tests.bad_inputs.inputs import MARK
from tests.support.asgi import live
from tests.support.virtual import anyio_backend as anyio_backend
from tests.support.virtual import wall_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails if anything was logged: an unhandled exception, or what a client sent."""
    caplog.set_level(logging.DEBUG, logger="holdfast")
    yield
    said = [record for record in caplog.get_records("call") if record.name != "asyncio"]
    said += [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING]
    assert not said, [record.getMessage() for record in said]
    assert MARK not in caplog.text


@pytest.fixture
async def broadcaster() -> AsyncIterator[Broadcaster]:
    """A running broadcaster, by the virtual clock."""
    async with Broadcaster(clock=wall_clock) as made:
        yield made


@pytest.fixture
def app(broadcaster: Broadcaster) -> LiveApp:
    """All endpoints, and a test may say all it has."""
    return live(broadcaster, inbound=InboundLimits(rate=1e6, burst=1_000_000))
