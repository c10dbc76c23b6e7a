"""PeriodicSource: publishes the result of a function while the topic has a listener."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import cast

from ..core.publishing import PublishOptions, make_draft
from ..core.validation import check_function, check_number

Source = Callable[[], object]
"""Returns the data to publish, or `None` to publish nothing this time.

A plain function is called in a worker thread, because it may block. A coroutine function is
awaited in the event loop.
"""

Publish = Callable[..., Awaitable[object]]
"""A function with the signature of `Broadcaster.publish`."""

_logger = logging.getLogger("holdfast")


class PeriodicSource:
    """A source, its topic and its schedule; the result of `Broadcaster.periodic`.

    The source is called when the topic gets its first listener, then every `interval` seconds
    until the last listener has left; never twice within `interval`. An exception of the source is
    logged and counted, and the next call is on schedule.

    A PeriodicSource outlives the runs of its Broadcaster: each run calls `run` once.

    Args:
        topic: The name of a topic, not a pattern.
        source: Returns the data to publish, or `None` to publish nothing this time.
        interval: Seconds between two calls of `source`.
        options: The options of `Broadcaster.publish`.
        max_bytes: Bytes of an encoded message, at most.

    Raises:
        ConfigurationError: `interval` is not a number over 0.
        PublishError: `topic` or an option is not valid.
        TypeError: `source` is not a function, or an option does not exist.
    """

    def __init__(
        self,
        topic: str,
        source: Source,
        interval: float,
        options: PublishOptions,
        *,
        max_bytes: int,
    ) -> None:
        check_number("interval", interval)
        check_function("source", source, "a function that returns the data to publish")
        # A dry run, because a mistake should raise here and not at the first publish.
        make_draft(topic, None, **options, now=0.0, max_bytes=max_bytes)
        self.topic = topic
        self._source = source
        self._interval = interval
        self._options = options
        self._wake_up: asyncio.Event | None = None
        self._is_cancelled = False

    def __repr__(self) -> str:
        return f"<PeriodicSource {self.topic!r} every {self._interval} s>"

    @property
    def is_cancelled(self) -> bool:
        """True after `cancel`."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Stop for good, after a call of the source that is running."""
        self._is_cancelled = True
        self.listeners_changed()

    def listeners_changed(self) -> None:
        """Let `run` check again for a listener."""
        if self._wake_up is not None:
            self._wake_up.set()

    async def run(
        self,
        publish: Publish,
        has_listeners: Callable[[str], bool],
        on_error: Callable[[], None],
    ) -> None:
        """Call the source on schedule until `cancel`, in a task of the Broadcaster.

        Args:
            publish: Publishes one result of the source.
            has_listeners: Returns True if a topic has a listener now.
            on_error: Called for each call of the source or of `publish` that raises.

        Cancellation:
            A plain function that runs in a worker thread is abandoned, and its result is not
            published.
        """
        wake_up = self._wake_up = asyncio.Event()
        while not self._is_cancelled:
            wake_up.clear()
            if not has_listeners(self.topic):
                await wake_up.wait()
                continue
            try:
                data = await self._call()
                if data is not None:
                    await publish(self.topic, data, **self._options)
            except Exception:
                on_error()
                _logger.exception("the periodic source of %r failed; it is retried", self.topic)
            await asyncio.sleep(self._interval)

    async def _call(self) -> object:
        method = getattr(self._source, "__call__", None)  # noqa: B004 - of an instance
        if inspect.iscoroutinefunction(self._source) or inspect.iscoroutinefunction(method):
            return await cast("Awaitable[object]", self._source())
        # A worker thread of anyio lives until the Broadcaster's task ends. On daphne no lifespan
        # ends it, so the thread would keep the process alive after SIGTERM.
        return await asyncio.to_thread(self._source)
