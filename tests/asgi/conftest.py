"""The event loop of these tests is virtual: a wait of an hour takes no time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.asgi import live_app
from tests.support.virtual_loop import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from holdfast import Broadcaster
    from holdfast.asgi import LiveApp


@pytest.fixture
def app(broadcaster: Broadcaster) -> LiveApp:
    """Return a LiveApp with all endpoints."""
    return live_app(broadcaster)
