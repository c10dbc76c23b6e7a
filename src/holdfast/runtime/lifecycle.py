"""Lifecycle: owns the tasks of a node, from start to stop; a task that dies fails everyone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio
from anyio.abc import TaskGroup

from ..brokers.protocol import Head
from ..core.connection import CloseReason
from ..errors import BroadcasterFailed, NotRunning, WrongThread
from .presence import PresenceReporter

if TYPE_CHECKING:
    from .node import Node
    from .periodic import PeriodicSource, Publish
    from .presence import PresenceHook

_logger = logging.getLogger("holdfast")

DRAIN_TIMEOUT = 1.5
"""Seconds that a drain waits for streams to end."""

Task = Callable[[], Awaitable[None]]
P = ParamSpec("P")
T = TypeVar("T")
Call = Callable[P, Coroutine[Any, Any, T]]


class BroadcasterState(Enum):
    """Where a Broadcaster is in its life; it only moves down, but may be started again."""

    NEW = "new"
    RUNNING = "running"
    DRAINING = "draining"
    FAILED = "failed"
    CLOSED = "closed"


class Lifecycle:
    """The task group of a node, and the event loop that it belongs to.

    Invariants (tests/runtime/test_lifecycle.py): every task runs between `start` and `stop`,
    and none outlives it, however often the owner is cancelled; after a task has died, every
    connection ends and `check_running` raises.
    """

    def __init__(self, node: Node, publish: Publish, presence_hook: PresenceHook | None) -> None:
        self.state = BroadcasterState.NEW
        self._node = node
        self._publish = publish
        self._presence_hook = presence_hook
        self._reporter: PresenceReporter | None = None
        self._sources: list[PeriodicSource] = []
        node.on_listeners = self._listeners_changed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: TaskGroup | None = None
        self._failure: Exception | None = None
        self._started_at = 0.0

    @property
    def uptime(self) -> float:
        """Seconds since the start, 0 while not running."""
        return self._node.monotonic() - self._started_at if self._tasks is not None else 0.0

    async def start(self) -> None:
        """Start the broker, then the tasks; raises `NotRunning` when that is done."""
        if self._tasks is not None:
            raise NotRunning("this Broadcaster is running already: enter it once, in one lifespan")
        self._loop = asyncio.get_running_loop()
        self._node.monotonic = self._loop.time
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
        upkeep = self._node.upkeep
        tasks: list[Task] = [self._follow, upkeep.heartbeats, upkeep.sweeps]
        tasks += [self._run_of(source) for source in self._sources]
        if (local := self._node.registry.attendance) is not None:
            local.schedule_full_sync()  # the store does not have the members of an earlier run
            store = self._node.broker.presence
            self._reporter = PresenceReporter(
                store, local, self._presence_hook, self._node.monotonic
            )
            tasks.append(self._reporter.run)
        for task in tasks:
            self._tasks.start_soon(self._watch, task)

    def add_source(self, source: PeriodicSource) -> None:
        """Run it from now on, or from the start on, whenever that is."""
        self._sources = [known for known in self._sources if not known.is_cancelled]
        self._sources.append(source)
        if self._tasks is not None:
            self._tasks.start_soon(self._watch, self._run_of(source))

    async def stop(self) -> None:
        """Drain, end all tasks, close the broker; a cancellation does not cut it short."""
        tasks = self._tasks
        assert tasks is not None
        try:
            with anyio.CancelScope(shield=True):
                await self.drain()
                if self._reporter is not None:
                    await self._reporter.stop()  # while its hook can still publish
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
        if asyncio._get_running_loop() is not self._loop:
            raise WrongThread("call this in the Broadcaster's event loop, or publish_from_thread")

    def block_on(
        self, timeout: float | None, call: Call[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function in the event loop, and block this other thread meanwhile."""
        if self._loop is None or self.state in (BroadcasterState.NEW, BroadcasterState.CLOSED):
            raise NotRunning("the Broadcaster is not running")
        if asyncio._get_running_loop() is not None:
            raise WrongThread("this would block the event loop: await publish instead")
        return asyncio.run_coroutine_threadsafe(call(*args, **kwargs), self._loop).result(timeout)

    async def _follow(self) -> None:
        """Read the log and fan it out, for ever; all that is published in one tick at once."""
        node = self._node
        while True:
            node.deliver(await node.broker.follow(Head(node.epoch, node.ingested)))
            await asyncio.sleep(node.options.flush_interval or 0)

    def _run_of(self, source: PeriodicSource) -> Task:
        has_listeners = self._node.registry.has_listeners
        return partial(source.run, self._publish, has_listeners, self._count_source_error)

    def _count_source_error(self) -> None:
        self._node.counters.source_errors += 1

    def _listeners_changed(self) -> None:
        for source in self._sources:
            source.listeners_changed()

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
