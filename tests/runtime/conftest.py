"""The event loop of these tests is virtual: a wait of an hour takes no time."""

from __future__ import annotations

from tests.support.virtual_loop import anyio_backend as anyio_backend
