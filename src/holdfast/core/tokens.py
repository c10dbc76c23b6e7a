"""TokenRegistry: resume tokens and the sessions that they restore.

A token never authenticates: it is presented *beside* credentials, and opens only a session of the
same user. Each connection gets a new one. Of a session, two tokens are known: the current one,
and its immediate predecessor, until a grace time after the connection that got the current one
has gone; so a client whose answer was lost on the way can present it again and gets the *same*
successor. Only hashes are stored; the successor is derived from the presented token and a nonce,
so that neither the store nor an old token gives it away.

    token presented      its session's connection      answer
    current              gone                          the session; a successor is made
    current              still looks alive             the same, and that connection is taken over
    previous, in grace   gone                          the session; the same successor again
    previous             alive                         a copy of the session, and a token for it
    previous, later      gone                          SPENT  (of a poll: as in grace)
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
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

from .cursor import Cursor, Epoch
from .message import Offset, UserId
from .validation import check_number

Token = NewType("Token", str)
"""22 characters of `[A-Za-z0-9_-]`: 128 random bits (OWASP asks for 64 at least)."""

ConnectionId = NewType("ConnectionId", str)

NONE_REFUSED: frozenset[str] = frozenset()
"""Shared by all sessions; every empty `frozenset(…)` is an object of its own."""

_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_TOKEN = re.compile("[A-Za-z0-9_-]{22}", re.ASCII)
_Hash = bytes


def is_token(text: str) -> bool:
    """Whether `text` has the form of a token; says nothing about whether it was issued."""
    return _TOKEN.fullmatch(text) is not None


def base64url(data: bytes) -> str:
    """Base64 for URLs (RFC 4648, section 5), without padding: 22 characters for 16 bytes."""
    return binascii.b2a_base64(data).translate(_URL_SAFE, b"=\n").decode()


def hash_token(token: str) -> bytes:
    """What a store keeps of a token (SHA-256): enough to know it again."""
    return hashlib.sha256(token.encode("ascii")).digest()


def make_successor(token: Token, nonce: bytes) -> Token:
    """The token that follows `token`: who knows both it and the nonce can make it again."""
    return Token(base64url(hmac.digest(nonce, token.encode("ascii"), "sha256")[:16]))


@dataclass(frozen=True, slots=True)
class Position:
    """A cursor in the log of an epoch."""

    epoch: Epoch
    cursor: Cursor


@dataclass(slots=True, eq=False)
class Session:
    """What History cannot know of a client: who it is, and what it is subscribed to.

    `subscriptions` maps topic or pattern to its `since`, and is never changed in place.
    `requested` are the topics that the
    first request named: one that names the same again means "go on", whatever was subscribed
    since; `refused` are topics that it may not have at present, to be asked for again.
    `position` is the stored resume point (the last acknowledged, or else what was handed
    over), used when a token comes without an event id; `acknowledged` tells which. `is_long_poll`:
    its client gets a token only with the answer that ends the connection (long polling), and may
    notice late that this was lost: the grace time is as long as the lifetime.
    """

    user: UserId | None
    subscriptions: Mapping[str, Offset] = field(default_factory=dict[str, Offset])
    requested: frozenset[str] = frozenset()
    refused: frozenset[str] = NONE_REFUSED
    position: Position | None = None
    acknowledged: bool = False
    is_long_poll: bool = False
    connection: ConnectionId | None = None


class RedeemStatus(Enum):
    """How a presented token fared; all but ACCEPTED look alike to the client."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    FOREIGN = "foreign"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class Redemption:
    """The answer to a presented token; `session` and `token` only when it was accepted."""

    verdict: RedeemStatus
    session: Session | None = None
    token: Token | None = field(default=None, repr=False)
    taken_over: ConnectionId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """`lifetime` and `grace` in seconds; the detached sessions kept, per user and in all.

    `total` counts the sessions of identified users and those of nobody in particular apart, so
    that strangers cannot push out users.
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
    """A session, the hashes of its two tokens, and until when they are good."""

    session: Session
    current: _Hash
    previous: _Hash = b""
    nonce: bytes = b""
    grace_until: float = 0.0
    expires_at: float = 0.0


class TokenRegistry:
    """All sessions that can be resumed.

    A session with a connection is *attached* and does not expire; what is not attached expires
    `lifetime` seconds after its connection went, and is what the limits count (the limits on
    connections bound the others).

    Invariants (the machine of tests/core/test_tokens.py): a session has at most one connection;
    two sessions never share a token; what is refused changes nothing; a session is known by at
    most two hashes; the detached ones are within the limits; expiry is O(1) amortised.
    """

    def __init__(self, limits: TokenLimits | None = None) -> None:
        self.limits = limits or TokenLimits()
        self._by_hash: dict[_Hash, _Entry] = {}
        self._entries: dict[Session, _Entry] = {}
        # In the order in which they were detached, which is that in which they expire.
        self._detached: OrderedDict[Session, _Entry] = OrderedDict()
        self._strangers: OrderedDict[Session, _Entry] = OrderedDict()  # the same, without a user
        self._of_user: dict[UserId, OrderedDict[Session, None]] = {}

    def __len__(self) -> int:
        """How many sessions are kept."""
        return len(self._entries)

    def issue(
        self, token: Token, session: Session, now: float, connection: ConnectionId | None
    ) -> None:
        """Make `token`, fresh and random, the current one of a new session."""
        entry = _Entry(session, hash_token(token))
        self._by_hash[entry.current] = self._entries[session] = entry
        session.connection = connection
        if connection is None:
            self._detach(entry, now)

    def redeem(
        self, token: str, user: UserId | None, connection: ConnectionId, nonce: bytes, now: float
    ) -> Redemption:
        """Present `token` for a new `connection` of `user`; `nonce` is 16 or more random bytes."""
        self.expire(now)
        presented = hash_token(token) if is_token(token) else b""
        entry = self._by_hash.get(presented)
        if entry is None:
            return Redemption(RedeemStatus.UNKNOWN)
        session = entry.session
        if session.user != user:
            return Redemption(RedeemStatus.FOREIGN)
        if presented == entry.previous:
            if session.connection is not None:
                return self._copy(session, Token(token), connection, nonce, now)
            if entry.grace_until <= now:
                return Redemption(RedeemStatus.SPENT)
            successor = make_successor(Token(token), entry.nonce)
        else:
            successor = make_successor(Token(token), nonce)
            self._rotate(entry, successor, nonce)
        taken_over = session.connection
        if taken_over is None:
            self._reattach(session)
        session.connection = connection
        return Redemption(RedeemStatus.ACCEPTED, session, successor, taken_over)

    def detach(self, session: Session, connection: ConnectionId, now: float) -> bool:
        """Note that `connection` is gone; `False` (nothing done) if the session has another."""
        entry = self._entries.get(session)
        if entry is None or session.connection != connection:
            return False
        session.connection = None
        self._detach(entry, now)
        return True

    def abandon(self, connection: ConnectionId, now: float) -> bool:
        """Detach whatever session `connection` got; for when nobody knows. Costs a search."""
        return any(self.detach(session, connection, now) for session in list(self._entries))

    def forget(self, user: UserId) -> int:
        """Drop every detached session of `user` (a logout); return how many those were."""
        sessions = list(self._of_user.get(user, ()))
        for session in sessions:
            self._drop(session)
        return len(sessions)

    def expire(self, now: float) -> int:
        """Drop what has expired; return how many sessions that were."""
        count = 0
        for detached in (self._detached, self._strangers):
            while detached:
                session, entry = next(iter(detached.items()))
                if entry.expires_at > now:
                    break
                self._drop(session)
                count += 1
        return count

    def _copy(
        self, session: Session, token: Token, connection: ConnectionId, nonce: bytes, now: float
    ) -> Redemption:
        """Part two clients that present the same token, a duplicated tab's: each goes on by itself.

        If it is one client on a link that is half-open, the original is left to its end. What was
        acknowledged on the other connection says nothing about this one.
        """
        copy = Session(session.user, session.subscriptions, session.requested, session.refused)
        successor = make_successor(token, nonce)
        self.issue(successor, copy, now, connection)
        return Redemption(RedeemStatus.ACCEPTED, copy, successor)

    def _rotate(self, entry: _Entry, successor: Token, nonce: bytes) -> None:
        """Consume the current token: `successor` is the current one from now on."""
        self._by_hash.pop(entry.previous, None)
        entry.previous, entry.nonce = entry.current, nonce
        entry.current = hash_token(successor)
        self._by_hash[entry.current] = entry

    # -- the detached ------------------------------------------------------------------------

    def _detach(self, entry: _Entry, now: float) -> None:
        session = entry.session
        entry.expires_at = now + self.limits.lifetime
        grace = self.limits.lifetime if session.is_long_poll else self.limits.grace
        entry.grace_until = now + grace
        detached = self._strangers if session.user is None else self._detached
        detached[session] = entry
        if session.user is not None:
            own = self._of_user.setdefault(session.user, OrderedDict())
            own[session] = None
            if len(own) > self.limits.per_user:
                self._drop(next(iter(own)))
        if len(detached) > self.limits.total:
            self._drop(next(iter(detached)))

    def _reattach(self, session: Session) -> None:
        if session.user is None:
            del self._strangers[session]
            return
        del self._detached[session]
        own = self._of_user[session.user]
        del own[session]
        if not own:
            del self._of_user[session.user]

    def _drop(self, session: Session) -> None:
        self._reattach(session)
        entry = self._entries.pop(session)
        self._by_hash.pop(entry.current, None)
        self._by_hash.pop(entry.previous, None)
