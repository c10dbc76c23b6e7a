"""Brokers that misbehave: late, restarted, or dying. Each keeps a real log."""

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


class LateTokens:
    """A token store behind a slow network: every call waits before and after it happens."""

    def __init__(self, broker: LateBroker) -> None:
        self._broker = broker

    async def issue(self, session: Session, connection: ConnectionId | None) -> Token:
        await self._broker.ask()
        token = await self._broker.sessions.issue(session, connection)
        await self._broker.answer()
        return token

    async def redeem(self, token: str, user: UserId | None, connection: ConnectionId) -> Redemption:
        await self._broker.ask()
        answer = await self._broker.sessions.redeem(token, user, connection)
        await self._broker.answer()
        return answer

    async def save(self, connection: ConnectionId, session: Session) -> bool:
        await self._broker.ask()
        saved = await self._broker.sessions.save(connection, session)
        await self._broker.answer()
        return saved

    async def detach(self, connection: ConnectionId, session: Session | None) -> None:
        await self._broker.ask()
        await self._broker.sessions.detach(connection, session)

    async def drop_user(self, user: UserId) -> int:
        await self._broker.ask()
        return await self._broker.sessions.drop_user(user)


class LateBroker:
    """A broker behind a slow network: every call waits before and after it happens.

    No call happens while `asking` is cleared, and no call returns while `answering` is. `feeding`
    holds back `follow` alone, and `surveying` the answer of `summarize`.
    """

    def __init__(self, *, rounds: int = 1, make: Callable[[], MemoryBroker] = MemoryBroker) -> None:
        self.log = make()
        self.sessions = self.log.tokens
        self.asking, self.answering, self.feeding, self.surveying = (
            asyncio.Event() for _ in range(4)
        )
        self.release()
        self._make = make
        self._rounds = rounds
        self._error: Exception | None = None
        self._tokens = LateTokens(self)

    def hold(self) -> None:
        """Let no call happen or return until `release`."""
        self.asking.clear()
        self.answering.clear()

    def release(self) -> None:
        """Let every call happen and return."""
        for gate in (self.asking, self.answering, self.feeding, self.surveying):
            gate.set()

    async def ask(self) -> None:
        """Wait on the way to the log."""
        for _ in range(self._rounds):
            await asyncio.sleep(0)
        await self.asking.wait()

    async def answer(self) -> None:
        """Wait on the way back."""
        for _ in range(self._rounds):
            await asyncio.sleep(0)
        await self.answering.wait()

    async def die(self, error: Exception) -> None:
        """Let every `follow` raise `error`, also the current one."""
        self._error = error
        await self.log.close()

    async def restart(self) -> None:
        """Replace the log by an empty one, and keep all sessions."""
        lost, self.log = self.log, self._make()
        await self.log.start()
        await lost.close()

    @property
    def tokens(self) -> LateTokens:
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
        await self.ask()
        head = await self.log.publish(draft)
        await self.answer()
        return head

    async def head(self) -> Head:
        await self.ask()
        head = await self.log.head()
        await self.answer()
        return head

    async def follow(self, after: Head) -> Batch:
        while True:
            await self.ask()
            await self.feeding.wait()
            log = self.log
            try:
                batch = await log.follow(after)
            except Exception:
                if self._error is not None:
                    raise self._error from None
                if log is self.log:
                    raise
                continue
            await self.answer()
            if self.feeding.is_set():
                return batch

    async def read(
        self, epoch: Epoch, request: PageRequest, subscriptions: Subscriptions, user: UserId | None
    ) -> Page | None:
        await self.ask()
        page = await self.log.read(epoch, request, dict(subscriptions), user)
        await self.answer()
        return page

    async def summarize(
        self, epoch: Epoch, cursor: Cursor, subscriptions: Subscriptions, user: UserId | None
    ) -> ReplaySummary | None:
        await self.ask()
        summary = await self.log.summarize(epoch, cursor, dict(subscriptions), user)
        await self.answer()
        await self.surveying.wait()
        return summary

    async def sweep(self) -> None:
        await self.log.sweep()
