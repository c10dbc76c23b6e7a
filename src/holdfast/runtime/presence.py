"""PresenceReporter: reports the users of this node to the store, and calls the presence hook.

Once a second, the reporter writes the changes of `LocalPresence` to the `PresenceStore`. The store
returns the changes over all nodes. Each of these is returned to one node only, and that node calls
its hook: the node whose report caused the change, or found that another node has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from ..brokers.protocol import PresenceStore
from ..core.message import UserId
from ..core.presence import LocalPresence, NodeId, PresenceDelta
from ..errors import BrokerUnavailable, OutcomeUnknown

_logger = logging.getLogger("holdfast")

REPORT_INTERVAL = 1.0
"""Seconds between two reports. A user who reconnects between two reports causes no change."""

LEASE = 10.0
"""Seconds without a report after which a node counts as dead."""

FULL_SYNC_INTERVAL = 600.0
"""Seconds between two reports of all members, which repair entries that the store has lost."""

MAX_QUEUED_CHANGES = 10_000
"""Changes that wait for the hook, at most; beyond that, the oldest are dropped."""

FINAL_TIMEOUT = 1.0
"""Seconds that the hook has for the queued changes when the node stops."""


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """A user joined or left a topic, counted over all connections of the user on all nodes.

    Example: ann opens two tabs on two nodes. The first tab is a change with `is_present` true, and
    the second tab is not a change. When both are closed, there is one change with `is_present`
    false.

    Attributes:
        topic: The topic or pattern of the subscription; `$user` stands for any connection.
        user: The id of the user.
        is_present: True if the user joined, False if the user left.
    """

    topic: str
    user: UserId
    is_present: bool


PresenceHook = Callable[[PresenceChange], Awaitable[None] | None]
"""A plain or coroutine function of one change, called on one node only, in the event loop.

Changes are passed one at a time and in order. An exception is logged. A slow hook delays only later
changes; beyond 10,000 waiting changes, the oldest are dropped.
"""


class PresenceReporter:
    """The presence task of one run of a node.

    Invariant (tests/runtime/test_presence.py): a slow or failing hook never delays a report.

    Args:
        store: The users of all nodes.
        local: The users of this node; the connection registry updates it.
        hook: Called for each change that the store returns to this node.
        monotonic: Returns seconds of the event loop's clock.
    """

    def __init__(
        self,
        store: PresenceStore,
        local: LocalPresence,
        hook: PresenceHook | None,
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._local = local
        self._queue = PresenceHookQueue(hook) if hook is not None else None
        self._monotonic = monotonic
        self._node = NodeId(secrets.token_urlsafe(9))
        self._is_stopped = False

    async def run(self) -> None:
        """Report every second until `stop`, and call the hook in a task of its own."""
        async with anyio.create_task_group() as tasks:
            if self._queue is not None:
                tasks.start_soon(self._queue.run)
            full_sync_at = self._monotonic() + FULL_SYNC_INTERVAL
            while not self._is_stopped:
                await self._report()
                await asyncio.sleep(REPORT_INTERVAL)
                if self._monotonic() >= full_sync_at:
                    self._local.schedule_full_sync()
                    full_sync_at += FULL_SYNC_INTERVAL

    async def stop(self) -> None:
        """Remove the node from the store, and call the hook for the queued changes.

        Call this while `run` is running and the hook can still publish. The hook has
        `FINAL_TIMEOUT` seconds for all changes.
        """
        self._is_stopped = True
        # If the store cannot be reached, it removes the node at the end of its lease.
        with contextlib.suppress(BrokerUnavailable, OutcomeUnknown):
            self._enqueue(await self._store.remove(self._node))
        if self._queue is not None:
            await self._queue.finish()

    async def _report(self) -> None:
        joined, left = self._local.changes()
        try:
            delta = await self._store.update(self._node, joined, left, LEASE)
        except (BrokerUnavailable, OutcomeUnknown):
            self._local.schedule_full_sync()  # reporting a member twice changes nothing
            return
        if not delta.is_known:
            self._local.schedule_full_sync()
        self._enqueue(delta)

    def _enqueue(self, delta: PresenceDelta) -> None:
        if self._queue is not None:
            self._queue.add(delta)


class PresenceHookQueue:
    """The changes that wait for the hook, in order; at most `MAX_QUEUED_CHANGES`."""

    def __init__(self, hook: PresenceHook) -> None:
        self._hook = hook
        self._waiting: deque[PresenceChange] = deque()
        self._added = asyncio.Event()
        self._is_dropping = False

    def add(self, delta: PresenceDelta) -> None:
        """Queue the changes of `delta`; does not wait."""
        self._waiting.extend(PresenceChange(*member, is_present=True) for member in delta.joined)
        self._waiting.extend(PresenceChange(*member, is_present=False) for member in delta.left)
        self._added.set()
        excess = len(self._waiting) - MAX_QUEUED_CHANGES
        for _ in range(excess):
            self._waiting.popleft()
        if excess > 0 and not self._is_dropping:
            _warn("the hook is too slow, and the oldest changes are dropped until it catches up")
            self._is_dropping = True

    async def run(self) -> None:
        """Call the hook for each change; cancellation also cancels the running call."""
        while True:
            await self._call_all()
            self._added.clear()
            await self._added.wait()

    async def finish(self) -> None:
        """Call the hook for the queued changes for `FINAL_TIMEOUT` seconds; drop the rest."""
        with anyio.move_on_after(FINAL_TIMEOUT):
            await self._call_all()
        if self._waiting:
            _warn(f"the node has stopped, and {len(self._waiting)} changes were left")
        self._waiting.clear()

    async def _call_all(self) -> None:
        while self._waiting:
            change = self._waiting.popleft()
            try:
                result = self._hook(change)
                if result is not None:
                    await result
            except Exception:
                _logger.exception("the presence hook failed on %r", change.topic)
            await asyncio.sleep(0)  # a hook that never waits still lets other tasks run
        self._is_dropping = False


def _warn(reason: str) -> None:
    _logger.warning("the presence hook misses changes (%s): use Broadcaster.presence", reason)
