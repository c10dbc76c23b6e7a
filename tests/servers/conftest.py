"""One server of each kind for the tests of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import SERVERS
from tests.support.live_server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=SERVERS)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Return the port of the server, for tests that leave it running."""
    with serve(request.param) as server:
        yield server.port
