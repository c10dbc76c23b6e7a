"""BroadcasterRun: the node and the tasks of a Broadcaster, from one start to its stop.

One task, the owner, starts and ends all others. The application can therefore start a Broadcaster
in one task and stop it in another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from functools import partial

import anyio

from ..brokers.protocol import Broker
from ..core.presence import LocalPresence
from ..errors import BrokerUnavailable, OutcomeUnknown, WrongThread
from ..reasons import Reason
from .audit import AuditHook, AuditTrail
from .clock import Clock
from .handshake import Handshake
from .node import Node
from .options import Options
from .periodic import PeriodicSource, Publish
from .presence import PresenceHook, PresenceReporter
from .signals import DrainAtSignal
from .subscriptions import SubscriptionControl

_logger = logging.getLogger("holdfast")

DRAIN_TIMEOUT = 1.5
"""Seconds that a drain waits for connections to end."""

Task = Callable[[], Awaitable[None]]


class BroadcasterState(Enum):
    """The phase of a Broadcaster's life, where `CLOSED` allows another start."""

    NEW = "new"
    RUNNING = "running"
    DRAINING = "draining"
    FAILED = "failed"
    CLOSED = "closed"


class BroadcasterRun:
    """The node, the tasks and the event loop of one run.

    Invariants (tests/runtime/test_lifecycle.py): no task outlives `stop`, however often `stop` is
    cancelled; after a background task has died, every connection ends, and `failure` has the
    exception.

    Args:
        broker: The log, which the run starts and closes.
        options: The options of the Broadcaster.
        time: Returns seconds since the Unix epoch.
        audit: The application's audit hook.
        presence: True or a presence hook, to count the present users; False to count none.
        publish: Publishes the results of periodic sources.
    """

    def __init__(
        self,
        broker: Broker,
        options: Options,
        *,
        time: Callable[[], float],
        audit: AuditHook | None,
        presence: bool | PresenceHook,
        publish: Publish,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = Clock(time, self.loop.time)
        self.state = BroadcasterState.NEW
        self.failure: Exception | None = None
        self._broker = broker
        self._options = options
        self._audit = audit
        self._presence = presence
        self._publish = publish
        self._sources: list[PeriodicSource] = []
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stop_requested = asyncio.Event()
        self._signals = DrainAtSignal(self.begin_drain)
        self._started_at = 0.0

    async def start(self, sources: Iterable[PeriodicSource]) -> None:
        """Start the broker, then the tasks. A start that fails or is cancelled is undone."""
        self._sources = list(sources)
        started = self.loop.create_future()
        self._owner = self.loop.create_task(
            self._run_until_stopped(started), name="holdfast broadcaster"
        )
        try:
            await asyncio.wait([self._owner, started], return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._owner.cancel()
            await _wait_done(self._owner)
            raise
        if self._owner.done():
            started.cancel()
            self._owner.result()

    def check_loop(self) -> None:
        """Raise `WrongThread` unless the caller is in the event loop of this run."""
        if asyncio._get_running_loop() is not self.loop:
            raise WrongThread("call this in the Broadcaster's event loop, or publish_from_thread")

    @property
    def is_over(self) -> bool:
        """True once all tasks of the run have ended and the broker is closed."""
        return self._owner.done()

    async def stop(self) -> None:
        """Drain, end all tasks and close the broker. A cancellation is raised after that.

        A run that is still starting is stopped when it has started.
        """
        if self._is_inside():
            raise RuntimeError(
                "a periodic source or a presence hook cannot wait for the end of its Broadcaster: "
                "call asyncio.create_task(broadcaster.stop())"
            )
        self._stop_requested.set()
        await _wait_done(self._owner)
        # `start` raises the error of a run that never began.
        if self.state is BroadcasterState.CLOSED and not self._owner.cancelled():
            self._owner.result()

    def _is_inside(self) -> bool:
        """Return True in the owner, and in a task that the owner waits for."""
        parents = {task.id: task.parent_id for task in anyio.get_running_tasks()}
        task: int | None = anyio.get_current_task().id
        while task is not None and task != id(self._owner):
            task = parents.get(task)
        return task is not None

    async def _run_until_stopped(self, started: asyncio.Future[None]) -> None:
        """Start the broker and all tasks, wait for the stop, and end everything."""
        await self._broker.start()
        try:
            head = await self._broker.head()
            local = LocalPresence() if self._presence else None
            audit = AuditTrail(self._audit, self.clock.time)
            self.node = Node(
                self._broker,
                self._options,
                self.clock,
                audit,
                head,
                presence=local,
                on_subscribed=self._on_subscribed,
            )
            self.subscriptions = SubscriptionControl(self.node)
            self.handshake = Handshake(self.node, self.subscriptions)
            reporter = self._make_reporter(local)
            remove_callback = self._broker.on_availability(self.node.set_reachable)
            failure: Exception | None = None
            try:
                async with anyio.create_task_group() as self._tasks:
                    self._start_tasks(self._tasks, reporter)
                    if not started.done():
                        started.set_result(None)
                    try:
                        await self._stop_requested.wait()
                    finally:
                        failure = await self._wind_down(reporter)
                        self._tasks.cancel_scope.cancel()
                if failure is not None:
                    raise failure  # outside the task group, which would wrap it in a group
            finally:
                self._tasks = None
                self.state = BroadcasterState.CLOSED
                remove_callback()
                with anyio.CancelScope(shield=True):
                    await self.node.wait_background()
        finally:
            self._signals.remove()
            with anyio.CancelScope(shield=True):
                await self._broker.close()

    def _make_reporter(self, local: LocalPresence | None) -> PresenceReporter | None:
        if local is None:
            return None
        hook = None if isinstance(self._presence, bool) else self._presence
        return PresenceReporter(self._broker.presence, local, hook, self.clock.monotonic)

    def _start_tasks(self, tasks: anyio.abc.TaskGroup, reporter: PresenceReporter | None) -> None:
        self._started_at = self.clock.monotonic()
        self.state = BroadcasterState.RUNNING
        for task in (self.node.follow, self.node.timers.run, self._sweep):
            tasks.start_soon(self._supervise, task)
        if reporter is not None:
            tasks.start_soon(self._supervise, reporter.run)
        for source in self._sources:
            self._start_source(tasks, source)
        if self._options.drain_at_signal:
            self._signals.install()

    def add_source(self, source: PeriodicSource) -> None:
        """Run a periodic source, until it is cancelled or the run ends."""
        self._sources = [each for each in self._sources if not each.is_cancelled]
        self._sources.append(source)
        if self._tasks is not None:
            self._start_source(self._tasks, source)

    def _start_source(self, tasks: anyio.abc.TaskGroup, source: PeriodicSource) -> None:
        run = partial(
            source.run, self._publish, self.node.registry.has_listeners, self._count_source_error
        )
        tasks.start_soon(self._supervise, run)

    def _count_source_error(self) -> None:
        self.node.count(source_errors=1)

    def _on_subscribed(self) -> None:
        for source in self._sources:
            source.listeners_changed()

    async def _wind_down(self, reporter: PresenceReporter | None) -> Exception | None:
        """End the connections and the presence; return the exception if that fails."""
        try:
            with anyio.CancelScope(shield=True):
                await self.drain(DRAIN_TIMEOUT)
                if reporter is not None:
                    await reporter.stop()  # now, because the presence hook may still publish
                await self.node.wait_background()
        except Exception as error:
            return error
        return None

    # -- while it runs -------------------------------------------------------------------------

    @property
    def uptime(self) -> float:
        """Seconds since the start; 0 before the start and after the end."""
        return 0.0 if self._tasks is None else self.clock.monotonic() - self._started_at

    def begin_drain(self) -> None:
        """Refuse new connections, and close all existing ones."""
        if self.state is BroadcasterState.RUNNING:
            self.state = BroadcasterState.DRAINING
        self.node.close_all(Reason.DRAIN)

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109
        """Call `begin_drain`, and wait up to `timeout` seconds; True if all connections ended."""
        self.begin_drain()
        try:
            async with asyncio.timeout(timeout):
                await self.node.wait_empty()
        except TimeoutError:
            return False
        return True

    async def _sweep(self) -> None:
        """Call the broker's `sweep` every `cleanup_interval` seconds, until cancelled."""
        while True:
            await asyncio.sleep(self._options.cleanup_interval)
            try:
                await self._broker.sweep()
            except (BrokerUnavailable, OutcomeUnknown) as error:
                _logger.warning("the sweep was skipped: %s", error)

    async def _supervise(self, task: Task) -> None:
        """Run a background task. If it dies, close every connection."""
        try:
            await task()
        except Exception as error:
            self.failure = error
            self.state = BroadcasterState.FAILED
            _logger.exception("a background task of the Broadcaster died; closing all connections")
            self.node.close_all(Reason.FAILED)


async def _wait_done(task: asyncio.Task[None]) -> None:
    """Wait for the end of `task`, and raise a cancellation of the caller only after that."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()
        raise cancelled
