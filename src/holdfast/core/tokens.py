"""TokenRegistry: reconnect tokens and the sessions that they restore.

A token never authenticates: it is presented *beside* credentials, and opens only a session of the
same user. Each connection gets a new one. A session has two valid tokens: the current one, and its
immediate predecessor until a grace time after the connection that got the current one has gone.
So a client that never received the answer can present its old token again, and gets the *same*
successor. Only hashes are stored. The successor is derived from the presented token and a nonce,
so that neither the store nor an old token reveals it.

    token presented      its session's connection      answer
    current              gone                          the session; a successor is made
    current              seems to be alive             the same, and that connection is taken over
    previous, in grace   gone                          the session; the same successor again
    previous             alive                         a copy of the session, and a token for it
    previous, later      gone                          SPENT  (of a long poll: as in grace)
    another user's       -                             FOREIGN
    anything else        -                             UNKNOWN  (never issued, expired, too old)
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

NONE_REFUSED: frozenset[str] = frozenset()
"""Shared by all sessions, because every empty `frozenset(…)` is an object of its own."""

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
    """Return the SHA-256 of a token, which is all that a store keeps of it."""
    return hashlib.sha256(token.encode("ascii")).digest()


def make_successor(token: Token, nonce: bytes) -> Token:
    """Return the token that follows `token`. The same two arguments give the same successor."""
    return Token(base64url(hmac.digest(nonce, token.encode("ascii"), "sha256")[:16]))


@dataclass(frozen=True, slots=True)
class Session:
    """The state of a client that the log does not contain. A change replaces the whole record.

    Attributes:
        user: the identified user, `None` for an unidentified client.
        subscriptions: topic or pattern → `since`, the offset up to which nothing is disclosed.
        requested: the topics that the first request named. A request that names the same topics
            again means "go on", whatever was subscribed since.
        refused: topics that the client may not have at present, to be asked for again.
        position: the stored resume point, used when a token comes without an event id.
        acknowledged: True if the client acknowledged `position`; False if it was only sent.
        is_long_poll: the client gets its token only with the answer that ends the connection, and
            may notice late that the answer was lost. Its grace time is as long as the lifetime.
    """

    user: UserId | None
    subscriptions: Mapping[str, Offset] = field(default_factory=dict[str, Offset])
    requested: frozenset[str] = frozenset()
    refused: frozenset[str] = NONE_REFUSED
    position: Position | None = None
    acknowledged: bool = False
    is_long_poll: bool = False

    def acknowledge(self, position: Position, sent: Cursor) -> Session | None:
        """Return the session with `position` as its resume point; `None` if it may not be that.

        A position beyond `sent`, or behind the last acknowledged one, is rejected.
        """
        if not position.cursor <= sent:
            return None
        before = self.position if self.acknowledged else None
        if before is not None and not before.cursor <= position.cursor:
            return None
        return replace(self, position=position, acknowledged=True)

    def with_sent_position(self, position: Position) -> Session:
        """Return the session as its connection ends at `position`.

        A position that the client acknowledged is kept, because it is certain.
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
    """The outcome of a presented token. All but ACCEPTED look alike to the client."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    FOREIGN = "foreign"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class Redemption:
    """The answer to a presented token. `session` and `token` are there if it was accepted."""

    status: RedeemStatus
    session: Session | None = None
    token: Token | None = field(default=None, repr=False)
    taken_over: ConnectionId | None = None


@suggest_options
@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """The lifetime of tokens, and how many sessions without a connection are kept.

    Args:
        lifetime: seconds that a token is valid after its connection has gone.
        grace: seconds that the previous token is valid after the connection has gone.
        per_user: detached sessions of one user.
        total: detached sessions of all users, and, counted apart so that strangers cannot push
            out users, of all unidentified clients.

    Raises:
        ConfigurationError: a value is not a number, or not in its range.
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

    A session with a connection is *attached*: it does not expire, and only the limits on
    connections bound it. A detached session expires `lifetime` seconds after its connection went.

    Invariants (the state machine in tests/core/test_tokens.py): a session has at most one
    connection; two sessions never share a token; a refused token changes nothing; a session is
    found by at most two hashes; the detached sessions are within the limits; expiry is O(1)
    amortised.
    """

    def __init__(self, limits: TokenLimits | None = None) -> None:
        self.limits = limits or TokenLimits()
        self._by_hash: dict[_Hash, _Entry] = {}
        self._attached: dict[ConnectionId, _Entry] = {}
        # Each in the order of detaching, which is the order of expiry.
        self._detached: OrderedDict[_Entry, None] = OrderedDict()
        self._strangers: OrderedDict[_Entry, None] = OrderedDict()
        self._by_user: dict[UserId, OrderedDict[_Entry, None]] = {}

    def __repr__(self) -> str:
        return f"<TokenRegistry of {len(self)} sessions>"

    def __len__(self) -> int:
        """The number of sessions."""
        return len(self._attached) + len(self._detached) + len(self._strangers)

    def issue(
        self, token: Token, session: Session, now: float, connection: ConnectionId | None
    ) -> None:
        """Add a session with `token`, fresh and random, attached to `connection` or detached."""
        entry = _Entry(session, hash_token(token), connection)
        self._by_hash[entry.current] = entry
        if connection is None:
            self._detach(entry, now)
        else:
            self._attached[connection] = entry

    def redeem(
        self, token: str, user: UserId | None, connection: ConnectionId, nonce: bytes, now: float
    ) -> Redemption:
        """Attach the session of `token` to a new `connection` of `user`.

        The session of a connection that is taken over comes without a position, because that
        connection has moved on from the stored one. `nonce` is at least 16 random bytes.
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
        """Detach the session of a connection that has gone, and keep `session` in its place.

        `None` keeps the session as it was saved. Returns False, and changes nothing, if the
        connection has no session, or another connection has it.
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
        """Drop every detached session of `user`, and return how many there were."""
        entries = list(self._by_user.get(user, ()))
        for entry in entries:
            self._drop(entry)
        return len(entries)

    def expire(self, now: float) -> int:
        """Drop the sessions that have expired, and return how many there were."""
        count = 0
        for detached in (self._detached, self._strangers):
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
        """Give a second client that presents a used token a session of its own.

        The browser duplicated a tab, and both present the same token. If it is one client on a
        half-open link instead, the original session is left to its end. A position that was
        acknowledged on the other connection does not apply to this one.
        """
        copy = Session(session.user, session.subscriptions, session.requested, session.refused)
        successor = make_successor(token, nonce)
        self.issue(successor, copy, now, connection)
        return Redemption(RedeemStatus.ACCEPTED, copy, successor)

    def _rotate(self, entry: _Entry, successor: Token, nonce: bytes) -> None:
        """Make `successor` the current token and the current one the previous."""
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
        detached = self._strangers if session.user is None else self._detached
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
            del self._strangers[entry]
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
