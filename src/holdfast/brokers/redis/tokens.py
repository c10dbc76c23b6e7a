"""RedisTokens: sessions that every node can restore."""

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
from .keys import format_user
from .script import HEAD, LogState, Operation, to_text
from .script_client import ScriptClient

MAX_PENDING_DETACHES = 10_000
"""Detaches that wait for Redis to reply again; the oldest are dropped beyond.

A session whose detach was dropped resumes as that of a node that was killed.
"""

SESSIONS_PER_REFRESH = 100
"""Sessions in one operation, at most."""


class RedisTokens:
    """A `TokenStore` in a namespace. Redis receives hashes of tokens, and no token.

    An operation that was submitted runs, and its result is applied here, even if the caller is
    cancelled.
    """

    def __init__(self, scripts: ScriptClient) -> None:
        self._scripts = scripts
        # The connections of this process that hold a session, with the session's name in Redis.
        self._session_names: dict[ConnectionId, str] = {}
        self._pending_detaches: deque[Operation] = deque(maxlen=MAX_PENDING_DETACHES)

    async def issue(self, session: Session, connection: ConnectionId | None) -> Token:
        """See `TokenStore.issue`."""
        token, name = Token(secrets.token_urlsafe(16)), secrets.token_urlsafe(12)

        def attach(_: Any, __: LogState) -> None:
            if connection is not None:
                self._session_names[connection] = name

        user = format_user(session.user)
        arguments = (name, _hash(token), user, connection or "", *_encode(session))
        await self._scripts.call(Operation("issue_token", arguments), attach)
        return token

    async def redeem(self, token: str, user: UserId | None, connection: ConnectionId) -> Redemption:
        """See `TokenStore.redeem`."""
        if not is_token(token):
            return Redemption(RedeemStatus.UNKNOWN)
        presented, nonce = Token(token), secrets.token_bytes(16)
        successor, copy_name = make_successor(presented, nonce), secrets.token_urlsafe(12)

        def attach(output: list[bytes], _: LogState) -> Redemption:
            status = RedeemStatus(to_text(output[0]))
            if status is not RedeemStatus.ACCEPTED:
                return Redemption(status)
            _status, name, data, position, long_poll, stored_nonce, taken_over = output
            self._session_names[connection] = to_text(name)
            return Redemption(
                status,
                _decode(user, data, position, long_poll),
                make_successor(presented, stored_nonce),
                ConnectionId(to_text(taken_over)) if taken_over else None,
            )

        hashes = (_hash(presented), _hash(successor))
        arguments = (hashes[0], format_user(user), connection, nonce, hashes[1], copy_name)
        operation = Operation("redeem_token", arguments)
        redemption: Redemption = await self._scripts.call(operation, attach)
        return redemption

    async def save(self, connection: ConnectionId, session: Session) -> bool:
        """See `TokenStore.save`."""
        name = self._session_names.get(connection)
        if name is None:
            return False
        arguments = (name, connection, *_encode(session))
        return bool(await self._scripts.call(Operation("save_session", arguments)))

    async def detach(self, connection: ConnectionId, session: Session | None) -> None:
        """See `TokenStore.detach`. While Redis does not reply, the detach is pending."""
        if session is None:
            with contextlib.suppress(BrokerUnavailable, OutcomeUnknown):
                await self._scripts.call(HEAD)  # runs behind its issue or redeem
        name = self._session_names.pop(connection, None)
        if name is None:
            return
        arguments = (name, connection, *(() if session is None else _encode(session)))
        with contextlib.suppress(BrokerUnavailable, OutcomeUnknown):
            await asyncio.shield(self._submit_detach(Operation("detach_session", arguments)))

    async def drop_user(self, user: UserId) -> int:
        """See `TokenStore.drop_user`."""
        operation = Operation("drop_user_sessions", (format_user(user),))
        count: int = await self._scripts.call(operation)
        return count

    def send_pending_detaches(self) -> None:
        """Send the detaches that failed. A detach that fails again stays pending."""
        pending = [*self._pending_detaches]
        self._pending_detaches.clear()
        for operation in pending:
            _ = self._submit_detach(operation)

    async def refresh(self) -> None:
        """Extend the expiry of the sessions that have a connection; send the pending detaches."""
        if self._scripts.is_available:
            self.send_pending_detaches()
        names = [*self._session_names.values()]
        for start in range(0, len(names), SESSIONS_PER_REFRESH):
            part = names[start : start + SESSIONS_PER_REFRESH]
            await self._scripts.call(Operation("refresh_sessions", part))

    def _submit_detach(self, operation: Operation) -> asyncio.Future[Any]:
        """Submit a detach, which becomes pending if it fails."""

        def keep_if_failed(result: asyncio.Future[Any]) -> None:
            if isinstance(result.exception(), (BrokerUnavailable, OutcomeUnknown)):
                self._pending_detaches.append(operation)

        result = self._scripts.submit(operation)
        result.add_done_callback(keep_if_failed)
        return result


def _hash(token: Token) -> str:
    return base64.urlsafe_b64encode(hash_token(token)).decode()


def _encode(session: Session) -> tuple[str, str, str]:
    """Return the fields data, position and long_poll of lua/sessions.lua."""
    data = {
        "subscriptions": dict(session.subscriptions),
        "requested": sorted(session.requested),
        "refused": sorted(session.refused),
    }
    at = session.position
    return (
        json.dumps(data, separators=(",", ":")),
        "" if at is None else f"{at.epoch} {at.cursor} {int(session.acknowledged)}",
        "1" if session.is_long_poll else "",
    )


def _decode(user: UserId | None, data: bytes, position: bytes, long_poll: bytes) -> Session:
    stored = json.loads(data)
    parts = to_text(position).split()
    cursor = Cursor.parse(parts[1]) if len(parts) == 3 else None
    return Session(
        user,
        stored["subscriptions"],
        frozenset(stored["requested"]),
        frozenset(stored["refused"]),
        position=None if cursor is None else Position(Epoch(parts[0]), cursor),
        acknowledged=cursor is not None and parts[2] == "1",
        is_long_poll=long_poll == b"1",
    )
