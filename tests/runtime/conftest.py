"""Time is virtual here: a test that waits for an hour takes none."""

from __future__ import annotations

from tests.support.virtual_loop import anyio_backend as anyio_backend
