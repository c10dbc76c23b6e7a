"""Fixtures of the tests of the Python client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.client.real_server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of one server for all tests of a file that leave it running."""
    with serve() as server:
        yield server.port
