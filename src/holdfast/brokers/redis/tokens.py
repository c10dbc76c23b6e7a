"""RedisTokens: sessions that any node can restore."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
from collections import deque
from typing import Any

from ...core.cursor import Cursor, Epoch, Position
from ...core.message import UserId
from ...core.tokens import (
    ConnectionId,
    RedeemStatus,
    Redemption,
    Session,
    Token,
    hash_token,
    is_token,
    make_successor,
)
from ...errors import BrokerUnavailable, OutcomeUnknown
from .keys import owner
from .line import Line
from .script import HEAD, End, Operation, text

OWED = 10_000
"""Sessions whose connections went while Redis was away; it hears of them afterwards.

Of others it does not hear. Their clients come back as those do whose node was killed."""

REFRESHED = 100
"""Sessions in one operation of a refresh."""


class RedisTokens:
    """A `TokenStore` in a hub. Redis sees hashes of tokens only.

    What was asked of Redis happens, whether or not the one who asked has been cancelled; so does
    what follows from the answer here.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        # The sessions that have a connection here, and what they are called there.
        self._attached: dict[ConnectionId, tuple[Session, str]] = {}
        self._owed: deque[Operation] = deque(maxlen=OWED)

    async def issue(self, session: Session, connection: ConnectionId | None) -> Token:
        """See `TokenStore.issue`."""
        token, id = Token(secrets.token_urlsafe(16)), secrets.token_urlsafe(12)
        hashed = _hash(token)
        arguments = (id, hashed, owner(session.user), connection or "")

        def issued(_: Any, __: End) -> None:
            if connection is not None:
                self._attached[connection] = (session, id)

        await self._line.call(
            Operation(
                "issue_token", (*arguments, _data(session), _position(session), _long_poll(session))
            ),
            issued,
        )
        return token

    async def redeem(self, token: str, user: UserId | None, connection: ConnectionId) -> Redemption:
        """See `TokenStore.redeem`."""
        if not is_token(token):
            return Redemption(RedeemStatus.UNKNOWN)
        presented, nonce = Token(token), secrets.token_bytes(16)
        successor, new = make_successor(presented, nonce), secrets.token_urlsafe(12)

        def redeemed(value: list[bytes], _: End) -> Redemption:
            verdict = RedeemStatus(text(value[0]))
            if verdict is not RedeemStatus.ACCEPTED:
                return Redemption(verdict)
            _verdict, id, data, position, long_poll, known_nonce, taken_over = value
            session = _session(user, data, position, long_poll)
            self._attached[connection] = (session, text(id))
            return Redemption(
                verdict,
                session,
                make_successor(presented, known_nonce),
                ConnectionId(text(taken_over)) if taken_over else None,
            )

        arguments = (_hash(presented), owner(user), connection, nonce, _hash(successor), new)
        answer: Redemption = await self._line.call(Operation("redeem_token", arguments), redeemed)
        return answer

    async def save(self, connection: ConnectionId, session: Session) -> bool:
        """See `TokenStore.save`."""
        known = self._attached.get(connection)
        if known is None:
            return False
        _, id = known
        stored = (_data(session), _position(session), _long_poll(session))
        saved = await self._line.call(Operation("save_session", (id, connection, *stored)))
        if saved and connection in self._attached:  # it may have been detached meanwhile
            self._attached[connection] = (session, id)
        return bool(saved)

    async def detach(self, connection: ConnectionId, session: Session | None) -> None:
        """See `TokenStore.detach`."""
        if session is None:
            with contextlib.suppress(BrokerUnavailable, OutcomeUnknown):
                await self._line.call(HEAD)  # after the issue or redeem of this connection
        known = self._attached.pop(connection, None)
        if known is None:
            return
        kept = known[0] if session is None else session
        stored = (_data(kept), _position(kept), _long_poll(kept))
        with contextlib.suppress(BrokerUnavailable, OutcomeUnknown):
            operation = Operation("detach_session", (known[1], connection, *stored))
            await asyncio.shield(self._owe(operation))

    async def drop_user(self, user: UserId) -> int:
        """See `TokenStore.drop_user`."""
        count: int = await self._line.call(Operation("drop_user_sessions", (owner(user),)))
        return count

    def catch_up(self) -> None:
        """Redis is back: tell it what happened meanwhile. What fails again stays owed."""
        for operation in [self._owed.popleft() for _ in range(len(self._owed))]:
            _ = self._owe(operation)

    def _owe(self, operation: Operation) -> asyncio.Future[Any]:
        """Ask for what has to be done, now or when it is possible, whoever waits for it."""

        def answered(answer: asyncio.Future[Any]) -> None:
            if isinstance(answer.exception(), (BrokerUnavailable, OutcomeUnknown)):
                self._owed.append(operation)

        answer = self._line.ask(operation)
        answer.add_done_callback(answered)
        return answer

    async def refresh(self) -> None:
        """Keep the sessions of connections that last from expiring; try again what failed."""
        if self._line.is_up:
            self.catch_up()
        ids = [id for _, id in self._attached.values()]
        for start in range(0, len(ids), REFRESHED):
            await self._line.call(Operation("refresh_sessions", ids[start : start + REFRESHED]))


def _hash(token: Token) -> str:
    return base64.urlsafe_b64encode(hash_token(token)).decode()


def _data(session: Session) -> str:
    return json.dumps(
        {
            "subscriptions": dict(session.subscriptions),
            "requested": sorted(session.requested),
            "refused": sorted(session.refused),
        },
        separators=(",", ":"),
    )


def _position(session: Session) -> str:
    at = session.position
    return "" if at is None else f"{at.epoch} {at.cursor} {int(session.acknowledged)}"


def _long_poll(session: Session) -> str:
    return "1" if session.is_long_poll else ""


def _session(user: UserId | None, data: bytes, position: bytes, long_poll: bytes) -> Session:
    stored = json.loads(data)
    parts = text(position).split()
    cursor = Cursor.parse(parts[1]) if len(parts) == 3 else None
    return Session(
        user,
        stored["subscriptions"],
        frozenset(stored["requested"]),
        frozenset(stored["refused"]),
        position=Position(Epoch(parts[0]), cursor) if cursor is not None else None,
        acknowledged=cursor is not None and parts[2] == "1",
        is_long_poll=text(long_poll) == "1",
    )
