"""A server for the tests of a file that leave it running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.live import serve

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server that sends heartbeats rarely enough not to be in the way."""
    with serve(heartbeat_interval=8.0) as server:
        yield server.port
