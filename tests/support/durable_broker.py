"""A broker whose log survives SIGKILL: the memory broker, stored in a file."""

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
    """The token store of the memory broker. Each change is stored before its answer."""

    def __init__(self, broker: DurableBroker) -> None:
        super().__init__(None, broker.now)
        self._broker = broker

    async def issue(self, session: Session, connection: ConnectionId | None) -> Token:
        token = await super().issue(session, connection)
        self._broker.store()
        return token

    async def redeem(self, token: str, user: UserId | None, connection: ConnectionId) -> Redemption:
        answer = await super().redeem(token, user, connection)
        self._broker.store()
        return answer

    async def save(self, connection: ConnectionId, session: Session) -> bool:
        saved = await super().save(connection, session)
        self._broker.store()
        return saved

    async def detach(self, connection: ConnectionId, session: Session | None) -> None:
        await super().detach(connection, session)
        self._broker.store()

    async def drop_user(self, user: UserId) -> int:
        dropped = await super().drop_user(user)
        self._broker.store()
        return dropped


class DurableBroker(MemoryBroker):
    """A memory broker that stores its log, epoch and sessions in the file at `path`.

    A server that is killed and started again continues with its log, as with an external broker.
    Each change writes everything, so the broker suits logs of some hundred messages.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.tokens = DurableTokens(self)
        if path.exists():
            stored = pickle.loads(path.read_bytes())  # noqa: S301 - written by `store`
            self._epoch, self._history, self.tokens.registry = stored

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        return self._clock()

    def store(self) -> None:
        """Write the whole state atomically."""
        state = (self._epoch, self._history, self.tokens.registry)
        new = self._path.with_suffix(".new")
        new.write_bytes(pickle.dumps(state))
        os.replace(new, self._path)

    async def start(self) -> None:
        await super().start()
        self.store()

    async def publish(self, draft: Draft) -> Head:
        head = await super().publish(draft)
        self.store()
        return head
