"""Time is virtual here: a test that waits for an hour takes none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.virtual import VIRTUAL


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """asyncio, on a loop whose clock jumps."""
    return VIRTUAL
