"""Lifecycle: owns the tasks of a node, from start to stop; a task that dies fails everyone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from ..core.connection import CloseReason
from ..errors import BroadcasterFailed, NotRunning, WrongThread

if TYPE_CHECKING:
    from .node import Node

_logger = logging.getLogger("holdfast")

DRAIN_TIMEOUT = 1.5
"""Seconds that a drain waits for streams to end."""

Task = Callable[[], Awaitable[None]]


class BroadcasterState(Enum):
    """Where a Broadcaster is in its life; it only moves down, but may be started again."""

    NEW = "new"
    RUNNING = "running"
    DRAINING = "draining"
    FAILED = "failed"
    CLOSED = "closed"


class Lifecycle:
    """The task group of a node, and the event loop that it belongs to.

    Invariants (tests/runtime/test_broadcaster.py): every task runs between `start` and `stop`,
    and none outlives it, however often the owner is cancelled; after a task has died, every
    connection ends and `check_running` raises.
    """

    def __init__(self, node: Node) -> None:
        self.state = BroadcasterState.NEW
        self.loop: asyncio.AbstractEventLoop | None = None
        self._node = node
        self._tasks: TaskGroup | None = None
        self._failure: Exception | None = None
        self._started_at = 0.0

    @property
    def uptime(self) -> float:
        """Seconds since the start, 0 while not running."""
        return self._node.monotonic() - self._started_at if self._tasks is not None else 0.0

    async def start(self) -> None:
        """Start the broker and open the task group; raises `NotRunning` when that is done."""
        if self._tasks is not None:
            raise NotRunning("this Broadcaster is running already: enter it once, in one lifespan")
        self.loop = asyncio.get_running_loop()
        self._node.monotonic = self.loop.time
        self._failure = None
        await self._node.broker.start()
        try:
            self._node.begin(await self._node.broker.head())
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._node.broker.close()
            raise
        self._started_at = self._node.monotonic()
        self._tasks = await anyio.create_task_group().__aenter__()
        self.state = BroadcasterState.RUNNING

    def spawn(self, task: Task) -> None:
        """Run a task until the stop; nothing happens before the start."""
        if self._tasks is not None:
            self._tasks.start_soon(self._watch, task)

    async def stop(self) -> None:
        """Drain, end all tasks, close the broker; a cancellation does not cut it short."""
        tasks = self._tasks
        assert tasks is not None
        try:
            with anyio.CancelScope(shield=True):
                await self.drain()
                await self._node.finish()
        finally:
            self._tasks = None
            tasks.cancel_scope.cancel()
            try:
                await tasks.__aexit__(None, None, None)
            finally:
                self.state = BroadcasterState.CLOSED
                with anyio.CancelScope(shield=True):
                    await self._node.finish()  # what the tasks began at their end
                    await self._node.broker.close()

    def begin_drain(self) -> None:
        """Let nobody in any more and tell every connection to end."""
        if self.state is BroadcasterState.RUNNING:
            self.state = BroadcasterState.DRAINING
        self._node.is_open = False
        self._node.close_all(CloseReason.DRAIN)

    async def drain(self, within: float = DRAIN_TIMEOUT) -> bool:
        """`begin_drain`, then wait up to `within` seconds; whether all connections ended."""
        self.begin_drain()
        try:
            async with asyncio.timeout(within):
                while self._node.outboxes:
                    self._node.emptied.clear()
                    await self._node.emptied.wait()
        except TimeoutError:
            return False
        return True

    def check_running(self) -> None:
        """Raise unless messages can be published and delivered, from where this is called."""
        if self._failure is not None:
            raise BroadcasterFailed("a background task died") from self._failure
        if self._tasks is None:
            raise NotRunning(
                "the Broadcaster is not running: serve LiveApp with lifespan on, or use "
                "`async with broadcaster:` in the lifespan of your framework"
            )
        if asyncio._get_running_loop() is not self.loop:
            raise WrongThread("call this in the Broadcaster's event loop, or publish_from_thread")

    async def _watch(self, task: Task) -> None:
        """Run a task of ours; if it dies, fail everyone who waits for it."""
        try:
            await task()
        except Exception as error:
            self._failure = error
            self.state = BroadcasterState.FAILED
            _logger.exception("a task of the Broadcaster died; all connections are closed")
            self._node.is_open = False
            self._node.close_all(CloseReason.FAILED)
