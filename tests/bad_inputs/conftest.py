"""The clock is virtual, and input of a client or publisher must not reach a log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.transports.websocket import InboundLimits
from tests.bad_inputs.inputs import MARK
from tests.support.asgi import live_app
from tests.support.virtual_loop import anyio_backend as anyio_backend
from tests.support.virtual_loop import wall_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if a record was logged: an unhandled exception, or input of a client."""
    caplog.set_level(logging.DEBUG, logger="holdfast")
    yield
    said = [record for record in caplog.get_records("call") if record.name != "asyncio"]
    said += [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING]
    assert not said, [record.getMessage() for record in said]
    assert MARK not in caplog.text


@pytest.fixture
async def broadcaster() -> AsyncIterator[Broadcaster]:
    """Start a broadcaster on the virtual clock."""
    async with Broadcaster(clock=wall_clock) as made:
        yield made


@pytest.fixture
def app(broadcaster: Broadcaster) -> LiveApp:
    """Return all endpoints with raised limits, so that a test can send all its inputs."""
    return live_app(broadcaster, inbound=InboundLimits(rate=1e6, burst=1_000_000))
