"""Watch: tells the other nodes who is here, and the application who came and went anywhere."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.message import UserId
from ..core.presence import Attendance, Member, Movement, NodeId
from ..errors import BrokerUnavailable, OutcomeUnknown

if TYPE_CHECKING:
    from .node import Node

_logger = logging.getLogger("holdfast")

INTERVAL = 1.0
"""Seconds between two tellings. Who is back within that has not been away."""

LEASE = 10.0
"""Seconds after which a node that tells nothing is dead."""


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """A user came to a topic or left it: with the first connection, or the last, over all nodes.

    `topic` is what was subscribed to, a topic or a pattern; `$user` stands for being online.
    """

    topic: str
    user: UserId
    is_present: bool


PresenceHook = Callable[[PresenceChange], Awaitable[None] | None]
"""Called for each change on one node only, in the event loop. What it raises is logged."""


class Watch:
    """One per node that keeps presence."""

    def __init__(self, node: Node, hook: PresenceHook | None) -> None:
        self._node = node
        self._hook = hook
        self._attendance = node.registry.attendance = Attendance()
        self._id = NodeId("")

    async def run(self) -> None:
        """The task; it belongs to the Broadcaster, and takes its members with it when it ends."""
        self._id = NodeId(secrets.token_urlsafe(9))  # made here, so that no fork inherits it
        try:
            while True:
                await self._tell()
                await asyncio.sleep(INTERVAL)
        finally:
            self._attendance.forget_told()
            self._node.run_to_end(self._leave())

    async def _tell(self) -> None:
        store = self._node.broker.presence
        came, went = self._attendance.changes()
        try:
            moved = await store.update(self._id, came, went, LEASE)
        except (BrokerUnavailable, OutcomeUnknown):
            self._attendance.forget_told()  # whatever it knows: told again, it changes nothing
            return
        if not moved.is_known:
            # Taken for dead, or the roster was lost: who was told before has to be told again.
            self._attendance.forget_told()
        await self._report(moved)

    async def _leave(self) -> None:
        try:
            moved = await self._node.broker.presence.remove(self._id)
        except (BrokerUnavailable, OutcomeUnknown):
            return  # the lease ends by itself
        await self._report(moved)

    async def _report(self, moved: Movement) -> None:
        await self._call(moved.came, is_present=True)
        await self._call(moved.went, is_present=False)

    async def _call(self, members: Iterable[Member], *, is_present: bool) -> None:
        if self._hook is None:
            return
        for topic, user in members:
            try:
                answer = self._hook(PresenceChange(topic, user, is_present))
                if answer is not None:
                    await answer
            except Exception:
                _logger.exception("the presence hook failed on %r", topic)
