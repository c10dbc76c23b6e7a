"""Teller: tells the other nodes who is here, and the application who came and went anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from ..core.message import UserId
from ..core.presence import LocalPresence, NodeId, PresenceDelta
from ..errors import BrokerUnavailable, OutcomeUnknown

if TYPE_CHECKING:
    from .node import Node

_logger = logging.getLogger("holdfast")

INTERVAL = 1.0
"""Seconds between two tellings. Who is back within that has not been away."""

LEASE = 10.0
"""Seconds after which a node that tells nothing is dead."""

FULL_SYNC_INTERVAL = 600.0
"""Seconds after which a node tells all again: by then the others know what a store has lost."""

BACKLOG = 10_000
"""Changes that wait for the hook, at the most."""

LAST = 1.0
"""Seconds that the hook has for what is left when the node ends."""


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """A user came to a topic or left it: with the first connection, or the last, over all nodes.

    `topic` is what was subscribed to, a topic or a pattern; `$user` stands for being online.
    """

    topic: str
    user: UserId
    is_present: bool


PresenceHook = Callable[[PresenceChange], Awaitable[None] | None]
"""Called for each change on one node only, in the event loop, one after the other.

What it raises is logged. It may take its time: beyond a backlog the oldest changes are dropped.
"""


class PresenceReporter:
    """One per node that keeps presence.

    Invariant (tests/runtime/test_presence.py): it tells on time, whatever the hook does.
    """

    def __init__(self, node: Node, hook: PresenceHook | None) -> None:
        self._node = node
        self._reports = PresenceHookQueue(hook) if hook is not None else None
        self._attendance = node.registry.attendance = LocalPresence()
        self._id = NodeId("")
        self._has_left = False

    async def run(self) -> None:
        """The task; it belongs to the Broadcaster."""
        self._id = NodeId(secrets.token_urlsafe(9))  # made here, so that no fork inherits it
        self._has_left = False
        async with anyio.create_task_group() as tasks:
            if self._reports is not None:
                tasks.start_soon(self._reports.run)
            await self._tell_for_ever()

    async def leave(self) -> None:
        """The node ends: take its members along, and let the hook hear of it, for a moment."""
        self._has_left = True
        self._attendance.schedule_full_sync()
        with contextlib.suppress(BrokerUnavailable, OutcomeUnknown):  # the lease ends by itself
            self._report(await self._node.broker.presence.remove(self._id))
        if self._reports is not None:
            await self._reports.finish()

    async def _tell_for_ever(self) -> None:
        retell_at = self._node.monotonic() + FULL_SYNC_INTERVAL
        while not self._has_left:
            await self._tell()
            await asyncio.sleep(INTERVAL)
            if self._node.monotonic() >= retell_at:
                self._attendance.schedule_full_sync()
                retell_at += FULL_SYNC_INTERVAL

    async def _tell(self) -> None:
        store = self._node.broker.presence
        joined, left = self._attendance.changes()
        try:
            moved = await store.update(self._id, joined, left, LEASE)
        except (BrokerUnavailable, OutcomeUnknown):
            self._attendance.schedule_full_sync()  # a repeated member changes nothing
            return
        if not moved.is_known:
            self._attendance.schedule_full_sync()
        self._report(moved)

    def _report(self, moved: PresenceDelta) -> None:
        if self._reports is not None:
            self._reports.add(moved)


class PresenceHookQueue:
    """What the hook is still to be told, in order."""

    def __init__(self, hook: PresenceHook) -> None:
        self._hook = hook
        self._waiting: deque[PresenceChange] = deque()
        self._added = asyncio.Event()
        self._is_dropping = False

    def add(self, moved: PresenceDelta) -> None:
        """Report this as well; does not wait."""
        self._waiting.extend(PresenceChange(*member, is_present=True) for member in moved.joined)
        self._waiting.extend(PresenceChange(*member, is_present=False) for member in moved.left)
        self._added.set()
        excess = len(self._waiting) - BACKLOG
        for _ in range(excess):
            self._waiting.popleft()
        if excess > 0 and not self._is_dropping:
            _warn("it takes too long; until it has caught up, the oldest are dropped")
            self._is_dropping = True

    async def run(self) -> None:
        """Call the hook for each, for ever; who cancels it cancels the hook."""
        self._added = asyncio.Event()  # of this loop
        while True:
            await self._call_all()
            self._added.clear()
            await self._added.wait()

    async def finish(self) -> None:
        """Call the hook for what is left, for a moment; then forget the rest."""
        with anyio.move_on_after(LAST):
            await self._call_all()
        if self._waiting:
            _warn(f"the node has ended, and {len(self._waiting)} were left")
        self._waiting.clear()

    async def _call_all(self) -> None:
        while self._waiting:
            await self._call(self._waiting.popleft())
            await asyncio.sleep(0)  # a hook that never waits lets others run all the same
        self._is_dropping = False

    async def _call(self, change: PresenceChange) -> None:
        try:
            answer = self._hook(change)
            if answer is not None:
                await answer
        except Exception:
            _logger.exception("the presence hook failed on %r", change.topic)


def _warn(why: str) -> None:
    _logger.warning("the presence hook is not told of all changes (%s): ask `present` instead", why)
