"""A server for all tests of one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.live_server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Return the port of a server whose heartbeats are too rare to disturb a test."""
    with serve(heartbeat_interval=8.0) as server:
        yield server.port
