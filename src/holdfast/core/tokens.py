"""TokenRegistry: reconnect tokens and the sessions that they restore.

A token does not authenticate. A client presents it *beside* its credentials, and it opens only a
session of the same user. Each connection gets a new token. A session has two valid tokens: the
current one, and the previous one until a grace time after the end of the connection. A client that
did not receive the current token presents the previous one again, and gets the *same* current
token.

The store has only hashes of tokens. The next token is derived from the presented one and a nonce,
so neither the store nor an old token is enough to compute it.

    presented token      connection of its session     answer
    ─────────────────────────────────────────────────────────────────────────────────────────
    current              ended                         the session, and its next token
    current              not ended                     the same, and that connection is taken over
    previous, in grace   ended                         the session, and its current token again
    previous             not ended                     a copy of the session, with its own token
    previous, later      ended                         SPENT; as in grace if it is a long poll
    of another user      any                           FOREIGN
    any other text       -                             UNKNOWN: never issued, expired, or older
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NewType

from .cursor import Cursor, Position
from .message import Offset, UserId
from .validation import check_number, suggest_options

Token = NewType("Token", str)
"""22 characters of `[A-Za-z0-9_-]`: 128 random bits (OWASP asks for at least 64)."""

ConnectionId = NewType("ConnectionId", str)
"""The id of a connection, unique over all nodes: 22 characters, 128 random bits."""

NONE_REFUSED: frozenset[str] = frozenset()
"""The empty set that sessions share, because each `frozenset(…)` would be a new object."""

_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_TOKEN = re.compile("[A-Za-z0-9_-]{22}", re.ASCII)
_Hash = bytes


def is_token(text: str) -> bool:
    """Return True if `text` has the form of a token, whether or not it was issued."""
    return _TOKEN.fullmatch(text) is not None


def base64url(data: bytes) -> str:
    """Encode in Base64 for URLs (RFC 4648, section 5), without padding: 16 bytes give 22."""
    return binascii.b2a_base64(data).translate(_URL_SAFE, b"=\n").decode()


def hash_token(token: str) -> bytes:
    """Return the SHA-256 of a token. A store keeps only this."""
    return hashlib.sha256(token.encode("ascii")).digest()


def make_successor(token: Token, nonce: bytes) -> Token:
    """Return the token that follows `token`; always the same for the same two arguments."""
    return Token(base64url(hmac.digest(nonce, token.encode("ascii"), "sha256")[:16]))


@dataclass(frozen=True, slots=True)
class Session:
    """The state of a client that outlives its connections. A change replaces the whole record.

    Attributes:
        user: The identified user, `None` for an unidentified client.
        subscriptions: Topic or pattern → `since`, the offset after which its messages are sent.
        requested: The topics of the request that began the session. A later request with the same
            topics continues the subscriptions, including topics that were added meanwhile.
        refused: Requested topics that the client may not have. A resume asks for them again.
        position: The stored position, for a token that is presented without an event id.
        acknowledged: True if the client acknowledged `position`, False if it was only sent.
        is_long_poll: True if the connection was a long poll. Its client gets the token only with
            the answer, and may notice late that the answer was lost. Therefore its grace time is
            as long as the lifetime.
    """

    user: UserId | None
    subscriptions: Mapping[str, Offset] = field(default_factory=dict[str, Offset])
    requested: frozenset[str] = frozenset()
    refused: frozenset[str] = NONE_REFUSED
    position: Position | None = None
    acknowledged: bool = False
    is_long_poll: bool = False

    def acknowledge(self, position: Position, sent: Cursor) -> Session | None:
        """Return the session with an acknowledged position.

        Args:
            position: The position that the client acknowledges.
            sent: The cursor of the connection.

        Returns:
            `None` if the position is beyond `sent`, or before the last acknowledged one.
        """
        if not position.cursor <= sent:
            return None
        before = self.position if self.acknowledged else None
        if before is not None and not before.cursor <= position.cursor:
            return None
        return replace(self, position=position, acknowledged=True)

    def with_sent_position(self, position: Position) -> Session:
        """Return the session of a connection that ends at `position`.

        A position that the client acknowledged is kept instead, because it is certain.
        """
        if self.acknowledged:
            return self
        return Session(
            self.user,
            self.subscriptions,
            self.requested,
            self.refused,
            position,
            is_long_poll=self.is_long_poll,
        )


class RedeemStatus(Enum):
    """The outcome of a presented token. A client cannot distinguish the three refusals."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    FOREIGN = "foreign"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class Redemption:
    """The answer to a presented token.

    Attributes:
        status: The outcome.
        session: The session; `None` unless the token was accepted.
        token: The token of the new connection; `None` unless the token was accepted.
        taken_over: The connection that had the session, if it had not ended.
    """

    status: RedeemStatus
    session: Session | None = None
    token: Token | None = field(default=None, repr=False)
    taken_over: ConnectionId | None = None


@suggest_options
@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """The lifetime of reconnect tokens, and the number of sessions without a connection.

    Args:
        lifetime: Seconds that a token is valid after the end of its connection.
        grace: Seconds that the previous token is valid after the end of the connection.
        per_user: Detached sessions of one user, at most.
        total: Detached sessions of all identified users, at most. Sessions of unidentified clients
            have a second limit of the same size, so that they cannot replace those of users.

    Raises:
        ConfigurationError: A value is not a number, or not in its range.
    """

    lifetime: float = 86_400.0
    grace: float = 60.0
    per_user: int = 100
    total: int = 50_000

    def __post_init__(self) -> None:
        check_number("lifetime", self.lifetime)
        check_number("grace", self.grace, zero=True)
        check_number("per_user", self.per_user, whole=True, zero=True)
        check_number("total", self.total, whole=True, zero=True)


@dataclass(slots=True, eq=False)
class _Entry:
    """A session, its connection, the hashes of its two tokens, and their deadlines."""

    session: Session
    current: _Hash
    connection: ConnectionId | None = None
    previous: _Hash = b""
    nonce: bytes = b""
    grace_until: float = 0.0
    expires_at: float = 0.0


class TokenRegistry:
    """All sessions that can be resumed.

    A session with a connection is *attached*, and does not expire. A session without a connection
    is *detached*, and expires `lifetime` seconds after the end of its connection.

    Invariants (the state machine in tests/core/test_tokens.py): a session has at most one
    connection; two sessions never share a token; a refused token changes no session; at most two
    hashes lead to a session; the detached sessions are within the limits; expiry takes O(1)
    amortised.

    Args:
        limits: The lifetime of tokens, and the number of sessions.
    """

    def __init__(self, limits: TokenLimits | None = None) -> None:
        self.limits = limits or TokenLimits()
        self._by_hash: dict[_Hash, _Entry] = {}
        self._attached: dict[ConnectionId, _Entry] = {}
        # The detached sessions of identified users, and of unidentified clients. Their order is
        # that of detaching, which is also that of expiry.
        self._detached: OrderedDict[_Entry, None] = OrderedDict()
        self._unidentified: OrderedDict[_Entry, None] = OrderedDict()
        self._by_user: dict[UserId, OrderedDict[_Entry, None]] = {}

    def __repr__(self) -> str:
        return f"<TokenRegistry of {len(self)} sessions>"

    def __len__(self) -> int:
        """Return the number of sessions."""
        return len(self._attached) + len(self._detached) + len(self._unidentified)

    def issue(
        self, token: Token, session: Session, now: float, connection: ConnectionId | None
    ) -> None:
        """Add a session.

        Args:
            token: A new random token.
            session: The session.
            now: Seconds since the Unix epoch.
            connection: The connection that has the session; `None` adds it detached.
        """
        entry = _Entry(session, hash_token(token), connection)
        self._by_hash[entry.current] = entry
        if connection is None:
            self._detach(entry, now)
        else:
            self._attached[connection] = entry

    def redeem(
        self, token: str, user: UserId | None, connection: ConnectionId, nonce: bytes, now: float
    ) -> Redemption:
        """Attach the session of a token to a new connection, by the table above.

        Args:
            token: The reconnect token that the client presents; any text.
            user: The user that the client has authenticated as.
            connection: The new connection.
            nonce: At least 16 random bytes.
            now: Seconds since the Unix epoch.

        Returns:
            The session and the token of the new connection. A session that is taken over has no
            position, because its connection has moved on from the stored one.
        """
        self.expire(now)
        presented = hash_token(token) if is_token(token) else b""
        entry = self._by_hash.get(presented)
        if entry is None:
            return Redemption(RedeemStatus.UNKNOWN)
        if entry.session.user != user:
            return Redemption(RedeemStatus.FOREIGN)
        if presented == entry.previous:
            if entry.connection is not None:
                return self._copy(entry.session, Token(token), connection, nonce, now)
            if entry.grace_until <= now:
                return Redemption(RedeemStatus.SPENT)
            successor = make_successor(Token(token), entry.nonce)
        else:
            successor = make_successor(Token(token), nonce)
            self._rotate(entry, successor, nonce)
        taken_over = entry.connection
        self._attach(entry, connection)
        if taken_over is not None:
            entry.session = replace(entry.session, position=None, acknowledged=False)
        return Redemption(RedeemStatus.ACCEPTED, entry.session, successor, taken_over)

    def save(self, connection: ConnectionId, session: Session) -> bool:
        """Replace the session of `connection`; return False if it no longer has one."""
        entry = self._attached.get(connection)
        if entry is None:
            return False
        entry.session = session
        return True

    def detach(self, connection: ConnectionId, session: Session | None, now: float) -> bool:
        """Detach the session of a connection that has ended.

        Args:
            connection: The connection.
            session: The session to keep; `None` keeps the saved one.
            now: Seconds since the Unix epoch.

        Returns:
            False, without any effect, if the connection has no session any more.
        """
        entry = self._attached.pop(connection, None)
        if entry is None:
            return False
        if session is not None:
            entry.session = session
        entry.connection = None
        self._detach(entry, now)
        return True

    def drop_user(self, user: UserId) -> int:
        """Drop all detached sessions of a user, and return their number."""
        entries = list(self._by_user.get(user, ()))
        for entry in entries:
            self._drop(entry)
        return len(entries)

    def expire(self, now: float) -> int:
        """Drop the expired sessions, and return their number.

        Args:
            now: Seconds since the Unix epoch.
        """
        count = 0
        for detached in (self._detached, self._unidentified):
            while detached:
                entry = next(iter(detached))
                if entry.expires_at > now:
                    break
                self._drop(entry)
                count += 1
        return count

    def _copy(
        self, session: Session, token: Token, connection: ConnectionId, nonce: bytes, now: float
    ) -> Redemption:
        """Give the second client with one token a copy of the session.

        This happens when a browser duplicates a tab: both present the same token. (If it is one
        client whose old link is half-open, the original session ends with that link.) The copy has
        no position, because the stored one is of the other connection.
        """
        copy = Session(session.user, session.subscriptions, session.requested, session.refused)
        successor = make_successor(token, nonce)
        self.issue(successor, copy, now, connection)
        return Redemption(RedeemStatus.ACCEPTED, copy, successor)

    def _rotate(self, entry: _Entry, successor: Token, nonce: bytes) -> None:
        """Make `successor` the current token, and the current token the previous one."""
        self._by_hash.pop(entry.previous, None)
        entry.previous, entry.nonce = entry.current, nonce
        entry.current = hash_token(successor)
        self._by_hash[entry.current] = entry

    def _attach(self, entry: _Entry, connection: ConnectionId) -> None:
        if entry.connection is None:
            self._remove_detached(entry)
        else:
            del self._attached[entry.connection]
        entry.connection = connection
        self._attached[connection] = entry

    def _detach(self, entry: _Entry, now: float) -> None:
        session = entry.session
        entry.expires_at = now + self.limits.lifetime
        grace = self.limits.lifetime if session.is_long_poll else self.limits.grace
        entry.grace_until = now + grace
        detached = self._unidentified if session.user is None else self._detached
        detached[entry] = None
        if session.user is not None:
            own = self._by_user.setdefault(session.user, OrderedDict())
            own[entry] = None
            if len(own) > self.limits.per_user:
                self._drop(next(iter(own)))
        if len(detached) > self.limits.total:
            self._drop(next(iter(detached)))

    def _remove_detached(self, entry: _Entry) -> None:
        user = entry.session.user
        if user is None:
            del self._unidentified[entry]
            return
        del self._detached[entry]
        own = self._by_user[user]
        del own[entry]
        if not own:
            del self._by_user[user]

    def _drop(self, entry: _Entry) -> None:
        self._remove_detached(entry)
        self._by_hash.pop(entry.current, None)
        self._by_hash.pop(entry.previous, None)
