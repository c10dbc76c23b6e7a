"""A memory broker with delayed calls, a feed that can fail, and a log that can be replaced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast import MemoryBroker

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.brokers.protocol import Batch, PresenceStore
    from holdfast.core.cursor import Cursor, Epoch, Head
    from holdfast.core.log.pages import Page, PageRequest, ReplaySummary, Subscriptions
    from holdfast.core.message import Draft, UserId
    from holdfast.core.tokens import ConnectionId, Redemption, Session, Token


class DelayedTokens:
    """A token store behind a slow network: every call waits before and after it happens."""

    def __init__(self, broker: DelayedBroker) -> None:
        self._broker = broker

    async def issue(self, session: Session, connection: ConnectionId | None) -> Token:
        await self._broker.delay_call()
        token = await self._broker.token_store.issue(session, connection)
        await self._broker.delay_answer()
        return token

    async def redeem(self, token: str, user: UserId | None, connection: ConnectionId) -> Redemption:
        await self._broker.delay_call()
        answer = await self._broker.token_store.redeem(token, user, connection)
        await self._broker.delay_answer()
        return answer

    async def save(self, connection: ConnectionId, session: Session) -> bool:
        await self._broker.delay_call()
        saved = await self._broker.token_store.save(connection, session)
        await self._broker.delay_answer()
        return saved

    async def detach(self, connection: ConnectionId, session: Session | None) -> None:
        await self._broker.delay_call()
        await self._broker.token_store.detach(connection, session)

    async def drop_user(self, user: UserId) -> int:
        await self._broker.delay_call()
        return await self._broker.token_store.drop_user(user)


class DelayedBroker:
    """A broker behind a slow network: every call waits before and after it happens.

    No call happens while `call_gate` is cleared, and no call returns while `answer_gate` is.
    `feed_gate` delays `follow` alone, and `summary_gate` the answer of `summarize`.
    """

    def __init__(self, *, turns: int = 1, make: Callable[[], MemoryBroker] = MemoryBroker) -> None:
        self.log = make()
        self.token_store = self.log.tokens
        self.call_gate, self.answer_gate, self.feed_gate, self.summary_gate = (
            asyncio.Event() for _ in range(4)
        )
        self.release()
        self._make = make
        self._turns = turns
        self._error: Exception | None = None
        self._tokens = DelayedTokens(self)

    def hold(self) -> None:
        """Let no call happen or return until `release`."""
        self.call_gate.clear()
        self.answer_gate.clear()

    def release(self) -> None:
        """Let every call happen and return."""
        for gate in (self.call_gate, self.answer_gate, self.feed_gate, self.summary_gate):
            gate.set()

    async def delay_call(self) -> None:
        """Wait before a call."""
        for _ in range(self._turns):
            await asyncio.sleep(0)
        await self.call_gate.wait()

    async def delay_answer(self) -> None:
        """Wait after a call."""
        for _ in range(self._turns):
            await asyncio.sleep(0)
        await self.answer_gate.wait()

    async def fail(self, error: Exception) -> None:
        """Let every `follow` raise `error`, including the current one."""
        self._error = error
        await self.log.close()

    async def replace_log(self) -> None:
        """Replace the log by an empty one, and keep all sessions."""
        old, self.log = self.log, self._make()
        await self.log.start()
        await old.close()

    @property
    def tokens(self) -> DelayedTokens:
        return self._tokens

    @property
    def presence(self) -> PresenceStore:
        return self.log.presence

    @property
    def history_age(self) -> float | None:
        return self.log.history_age

    @property
    def token_lifetime(self) -> float:
        return self.log.token_lifetime

    async def start(self) -> None:
        await self.log.start()

    def on_availability(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        return self.log.on_availability(callback)

    async def close(self) -> None:
        await self.log.close()

    async def publish(self, draft: Draft) -> Head:
        await self.delay_call()
        head = await self.log.publish(draft)
        await self.delay_answer()
        return head

    async def head(self) -> Head:
        await self.delay_call()
        head = await self.log.head()
        await self.delay_answer()
        return head

    async def follow(self, after: Head) -> Batch:
        while True:
            await self.delay_call()
            await self.feed_gate.wait()
            log = self.log
            try:
                batch = await log.follow(after)
            except Exception:
                if self._error is not None:
                    raise self._error from None
                if log is self.log:
                    raise
                continue
            await self.delay_answer()
            if self.feed_gate.is_set():
                return batch

    async def read(
        self, epoch: Epoch, request: PageRequest, subscriptions: Subscriptions, user: UserId | None
    ) -> Page | None:
        await self.delay_call()
        page = await self.log.read(epoch, request, dict(subscriptions), user)
        await self.delay_answer()
        return page

    async def summarize(
        self, epoch: Epoch, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None
    ) -> ReplaySummary | None:
        await self.delay_call()
        summary = await self.log.summarize(epoch, cursor, dict(subscriptions), user)
        await self.delay_answer()
        await self.summary_gate.wait()
        return summary

    async def sweep(self) -> None:
        await self.log.sweep()
