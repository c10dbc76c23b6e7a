"""PeriodicSource: publishes what a function returns, only while somebody listens."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio.to_thread
from typing_extensions import Unpack

from ..core.validation import check_number
from .publishing import PublishOptions, make_draft

if TYPE_CHECKING:
    from .node import Node

Source = Callable[[], object]
"""Returns what to publish, or `None` for nothing this time. A plain function is called in a
worker thread, because it may block; a coroutine function is awaited in the event loop."""

_logger = logging.getLogger("holdfast")


class PeriodicSource:
    """One source and its schedule; made by `Broadcaster.periodic`.

    It is called when the first listener comes, then every `interval` seconds until the last one
    has gone, and never more often than that. What it raises is logged and counted, and the
    schedule goes on.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        source: Source,
        publish: Callable[..., Awaitable[object]],
        interval: float,
        **options: Unpack[PublishOptions],
    ) -> None:
        """Raises `ConfigurationError` and `PublishError` for what could never be published."""
        check_number("interval", interval)
        max_bytes = node.options.max_message_bytes
        make_draft(topic, None, **options, now=0.0, max_bytes=max_bytes)
        self.topic = topic
        self._node = node
        self._source = source
        self._publish = partial(publish, topic, **options)
        self._interval = interval
        self._changed = asyncio.Event()
        self._cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether it was stopped for good."""
        return self._cancelled

    def cancel(self) -> None:
        """Stop for good, after the call that is under way."""
        self._cancelled = True
        self._changed.set()

    def listeners_changed(self) -> None:
        """Look again whether anybody listens."""
        self._changed.set()

    async def run(self) -> None:
        """The task; it belongs to the Broadcaster."""
        self._changed = asyncio.Event()  # of this loop, if another one ran before
        while not self._cancelled:
            self._changed.clear()
            if not self._node.registry.has_listeners(self.topic):
                await self._changed.wait()
                continue
            await self._publish_once()
            await asyncio.sleep(self._interval)

    async def _publish_once(self) -> None:
        try:
            data = await self._call()
            if data is not None:
                await self._publish(data)
        except Exception:
            self._node.counters.source_errors += 1
            _logger.exception(
                "the periodic source of %r failed; it will be called again", self.topic
            )

    async def _call(self) -> object:
        if inspect.iscoroutinefunction(self._source) or inspect.iscoroutinefunction(
            getattr(self._source, "__call__", None)  # noqa: B004 - the method itself is asked for
        ):
            return await cast("Awaitable[object]", self._source())
        return await anyio.to_thread.run_sync(self._source, abandon_on_cancel=True)
