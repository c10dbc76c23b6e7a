"""A broker whose log survives kill -9: the memory broker, kept in a file."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING

from holdfast import MemoryBroker
from holdfast.brokers.memory import MemoryTokens

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.core.cursor import Head
    from holdfast.core.message import Draft, UserId
    from holdfast.core.tokens import ConnectionId, Redemption, Session, Token


class DurableTokens(MemoryTokens):
    """The memory broker's tokens. Each change is written before the call returns."""

    def __init__(self, broker: DurableBroker) -> None:
        super().__init__(None, broker.now)
        self._broker = broker

    async def issue(self, session: Session, connection: ConnectionId | None) -> Token:
        token = await super().issue(session, connection)
        self._broker.keep()
        return token

    async def redeem(self, token: str, user: UserId | None, connection: ConnectionId) -> Redemption:
        answer = await super().redeem(token, user, connection)
        self._broker.keep()
        return answer

    async def save(self, connection: ConnectionId, session: Session) -> bool:
        saved = await super().save(connection, session)
        self._broker.keep()
        return saved

    async def detach(self, connection: ConnectionId, session: Session | None) -> None:
        await super().detach(connection, session)
        self._broker.keep()

    async def drop_user(self, user: UserId) -> int:
        dropped = await super().drop_user(user)
        self._broker.keep()
        return dropped


class DurableBroker(MemoryBroker):
    """Its log, its epoch and its sessions are in the file at ``path``, written at every change.

    So a server that is killed and started again goes on with its log, as it does with a broker of
    its own process. It writes everything each time: for logs of a few hundred messages.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._tokens = DurableTokens(self)
        if path.exists():
            kept = pickle.loads(path.read_bytes())  # noqa: S301 - written by `keep`
            self._epoch, self._history, self._tokens.registry = kept

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        return self._clock()

    def keep(self) -> None:
        """Write everything, or nothing."""
        state = (self._epoch, self._history, self.tokens.registry)
        new = self._path.with_suffix(".new")
        new.write_bytes(pickle.dumps(state))
        os.replace(new, self._path)

    async def start(self) -> None:
        await super().start()
        self.keep()

    async def publish(self, draft: Draft) -> Head:
        head = await super().publish(draft)
        self.keep()
        return head
