"""TokenRegistry beside a plain list of sessions, and the table of its docstring row by row."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError, dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.core.cursor import Cursor, Epoch, Position
from holdfast.core.message import Offset, UserId
from holdfast.core.tokens import (
    ConnectionId,
    RedeemStatus,
    Redemption,
    Session,
    Token,
    TokenLimits,
    TokenRegistry,
    is_token,
    make_successor,
)
from tests.core.builders import NASTY

ANN, BOB = UserId("ann"), UserId("bob")
FIRST, SECOND, THIRD = map(ConnectionId, ("first", "second", "third"))
LIFETIME, GRACE = 100.0, 10.0
EPOCH = Epoch("e" * 12)
POSITION = Position(EPOCH, Cursor.at(5))

Marks = tuple[Offset, Offset, Offset, Offset]
SENT: Marks = (Offset(3), Offset(4), Offset(4), Offset(5))

users = st.sampled_from([ANN, BOB, None])


def fresh(number: int) -> Token:
    """Return the token of these random bits."""
    return Token(f"T{number:021}")


@dataclass(eq=False)
class ModelSession:
    """A session of the model: its tokens, oldest first, and the time of its detachment."""

    session: Session
    tokens: list[Token]
    connection: ConnectionId | None
    grace_until: float = 0.0
    detached_at: float = 0.0


class TokenMachine(RuleBasedStateMachine):
    """Sessions are issued, redeemed, saved, detached and expire. The model searches a list."""

    @initialize(
        per_user=st.integers(1, 3),
        total=st.integers(1, 5),
        sessions=st.lists(st.tuples(users, st.booleans()), min_size=1, max_size=4),
    )
    def begin(self, per_user: int, total: int, sessions: list[tuple[UserId | None, bool]]) -> None:
        self.limits = TokenLimits(lifetime=LIFETIME, grace=GRACE, per_user=per_user, total=total)
        self.registry = TokenRegistry(self.limits)
        self.now = 0.0
        self.numbers = itertools.count()
        self.sessions: list[ModelSession] = []
        self.detached: list[ModelSession] = []  # in the order of their detachment
        self.tokens: dict[Token, ModelSession] = {}  # all issued tokens
        self.connections: list[ConnectionId] = []  # all connections, with and without a session
        self.texts: list[str] = []  # all reprs, which may contain no token
        for user, attached in sessions:
            self.issue(user, attached)

    def new_connection(self) -> ConnectionId:
        self.connections.append(ConnectionId(f"connection {next(self.numbers)}"))
        return self.connections[-1]

    def new_session(self, user: UserId | None, *, is_long_poll: bool = False) -> Session:
        """Return a session that differs from every other one."""
        number = next(self.numbers)
        return Session(
            user,
            {"t": Offset(number)},
            frozenset({f"requested {number}"}),
            frozenset({f"refused {number}"}),
            Position(EPOCH, Cursor.at(number)),
            acknowledged=number % 2 == 1,
            is_long_poll=is_long_poll,
        )

    def holder(self, connection: ConnectionId) -> ModelSession | None:
        """Return the session that the connection has in the model."""
        found = [each for each in self.sessions if each.connection == connection]
        assert len(found) <= 1
        return found[0] if found else None

    def drop(self, entry: ModelSession) -> None:
        self.sessions.remove(entry)
        self.detached.remove(entry)

    def note_detached(self, entry: ModelSession) -> None:
        entry.connection, entry.detached_at = None, self.now
        entry.grace_until = self.now + (LIFETIME if entry.session.is_long_poll else GRACE)
        self.detached.append(entry)
        user = entry.session.user
        of_user = [each for each in self.detached if each.session.user == user]
        if user is not None and len(of_user) > self.limits.per_user:
            self.drop(of_user[0])
        same_kind = [
            each for each in self.detached if (each.session.user is None) is (user is None)
        ]
        if len(same_kind) > self.limits.total:
            self.drop(same_kind[0])

    def expire_model(self) -> int:
        expired = [each for each in self.detached if each.detached_at + LIFETIME <= self.now]
        for each in expired:
            self.drop(each)
        return len(expired)

    @rule(user=users, attached=st.booleans())
    def issue(self, user: UserId | None, attached: bool) -> None:
        """A new session has a connection, or none, as that of a page that is still to come."""
        token = fresh(next(self.numbers))
        connection = self.new_connection() if attached else None
        entry = ModelSession(self.new_session(user), [token], connection)
        self.registry.issue(token, entry.session, self.now, connection)
        self.sessions.append(entry)
        self.tokens[token] = entry
        if connection is None:
            self.note_detached(entry)

    @rule(
        data=st.data(),
        kind=st.sampled_from(["current", "previous", "any"]),
        user=st.sampled_from(["own", "own", "own", ANN, BOB, None]),
    )
    def redeem(self, data: st.DataObject, kind: str, user: UserId | None) -> None:
        """An issued token is presented, by its owner or by another user."""
        entry = data.draw(st.sampled_from(self.sessions or list(self.tokens.values())))
        token = data.draw(st.sampled_from(list(self.tokens)))
        if kind != "any":
            token = entry.tokens[-2:][kind == "current" and len(entry.tokens) > 1]
        self.present(token, self.tokens[token].session.user if user == "own" else user)

    def present(self, token: Token, user: UserId | None) -> None:
        self.expire_model()
        entry = self.tokens[token]
        connection = self.new_connection()
        nonce = next(self.numbers).to_bytes(16, "big")
        status = self.expected(entry, token, user)
        shared = token != entry.tokens[-1] and entry.connection is not None
        answer = self.registry.redeem(token, user, connection, nonce, self.now)
        self.texts += [repr(answer), str(answer)]
        if status is not RedeemStatus.ACCEPTED:
            assert answer == Redemption(status)
            return
        assert answer.token is not None
        assert is_token(answer.token)
        if shared:
            self.copied(entry, answer, connection)
            return
        if entry.connection is None:
            self.detached.remove(entry)
        else:
            entry.session = replace(entry.session, position=None, acknowledged=False)
        assert answer == Redemption(status, entry.session, answer.token, entry.connection)
        if token == entry.tokens[-1]:
            assert answer.token not in self.tokens
            self.tokens[answer.token] = entry
            entry.tokens.append(answer.token)
        assert answer.token == entry.tokens[-1]
        entry.connection = connection

    def copied(self, entry: ModelSession, answer: Redemption, connection: ConnectionId) -> None:
        """Check that the second client has its own session: no takeover, and no shared token."""
        copy, token = answer.session, answer.token
        assert copy is not None
        assert token is not None
        assert answer.taken_over is None
        assert token not in self.tokens
        original = entry.session
        assert copy == replace(original, position=None, acknowledged=False, is_long_poll=False)
        self.tokens[token] = ModelSession(copy, [token], connection)
        self.sessions.append(self.tokens[token])

    def expected(self, entry: ModelSession, token: Token, user: UserId | None) -> RedeemStatus:
        """Return the answer of the table in the module's docstring."""
        if entry not in self.sessions or token not in entry.tokens[-2:]:
            return RedeemStatus.UNKNOWN
        if user != entry.session.user:
            return RedeemStatus.FOREIGN
        if token == entry.tokens[-1] or entry.connection is not None:
            return RedeemStatus.ACCEPTED
        return RedeemStatus.SPENT if self.now >= entry.grace_until else RedeemStatus.ACCEPTED

    @rule(text=st.text() | st.integers(10**6, 10**21 - 1).map(fresh))
    def redeem_garbage(self, text: str) -> None:
        """A text that was never issued is unknown."""
        self.expire_model()
        answer = self.registry.redeem(text, ANN, self.new_connection(), b"n" * 16, self.now)
        assert answer == Redemption(RedeemStatus.UNKNOWN)

    def draw_connection(self, data: st.DataObject, *, late: bool) -> ConnectionId:
        """Return a connection with a session, or without one."""
        holders = [each.connection for each in self.sessions if each.connection is not None]
        others = [each for each in self.connections if each not in holders]
        return data.draw(st.sampled_from((others if late else holders) or [self.new_connection()]))

    @rule(data=st.data(), late=st.sampled_from([False, False, True]), is_long_poll=st.booleans())
    def save(self, data: st.DataObject, late: bool, is_long_poll: bool) -> None:
        """A connection replaces the session that it holds, and no session if it holds none."""
        connection = self.draw_connection(data, late=late)
        entry = self.holder(connection)
        session = self.new_session(entry.session.user if entry else ANN, is_long_poll=is_long_poll)
        assert self.registry.save(connection, session) is (entry is not None)
        if entry is not None:
            entry.session = session

    @rule(
        data=st.data(),
        late=st.sampled_from([False, False, True]),
        as_saved=st.booleans(),
        is_long_poll=st.booleans(),
    )
    def detach(self, data: st.DataObject, late: bool, as_saved: bool, is_long_poll: bool) -> None:
        """A connection ends, perhaps one that was taken over or never had a session."""
        connection = self.draw_connection(data, late=late)
        entry = self.holder(connection)
        user = entry.session.user if entry else ANN
        session = None if as_saved else self.new_session(user, is_long_poll=is_long_poll)
        assert self.registry.detach(connection, session, self.now) is (entry is not None)
        if entry is not None:
            entry.session = session or entry.session
            self.note_detached(entry)

    @rule(user=st.sampled_from([ANN, BOB]))
    def drop_user(self, user: UserId) -> None:
        """After a logout the user's detached sessions are gone, and the attached ones stay."""
        of_user = [each for each in self.detached if each.session.user == user]
        assert self.registry.drop_user(user) == len(of_user)
        for each in of_user:
            self.drop(each)

    @rule(seconds=st.sampled_from([0.5, 0.5, GRACE / 2, GRACE, LIFETIME / 2, LIFETIME]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        """The sessions that were detached for a lifetime are dropped, and counted."""
        assert self.registry.expire(self.now) == self.expire_model()

    @invariant()
    def keeps_what_the_list_keeps(self) -> None:
        """There are as many sessions as in the model, and no other connection has one of them."""
        assert len(self.registry) == len(self.sessions)
        other_session = Session(UserId("a user without sessions"))
        for connection in self.connections:
            if self.holder(connection) is None:
                assert not self.registry.save(connection, other_session)

    def teardown(self) -> None:
        """Each session is found by its current token, and no repr has a token in it."""
        for entry in list(self.sessions):
            self.present(entry.tokens[-1], entry.session.user)
        self.texts += [repr(each.session) for each in self.tokens.values()]
        self.texts += [repr(self.registry), str(self.registry)]
        assert not any(token in text for token in self.tokens for text in self.texts)


TestTokens = TokenMachine.TestCase
TestTokens.settings = settings(stateful_step_count=100)


class Bench:
    """A registry with one session of Ann's on its FIRST connection."""

    def __init__(self, **limits: int) -> None:
        self.registry = TokenRegistry(TokenLimits(lifetime=LIFETIME, grace=GRACE, **limits))
        self.numbers = itertools.count()
        self.session = Session(ANN, {"orders": Offset(7)}, frozenset({"orders"}))
        self.registry.issue(fresh(0), self.session, 0.0, FIRST)

    def redeem(
        self,
        token: str,
        connection: ConnectionId | None = None,
        *,
        user: UserId | None = ANN,
        now: float = 0.0,
        nonce: bytes = b"n" * 16,
    ) -> Redemption:
        """Present a token for a connection, by default for a new one."""
        connection = connection or ConnectionId(f"connection {next(self.numbers)}")
        return self.registry.redeem(token, user, connection, nonce, now)

    def accepted(
        self, token: str, connection: ConnectionId | None = None, now: float = 0.0
    ) -> Token:
        answer = self.redeem(token, connection, now=now)
        assert answer.status is RedeemStatus.ACCEPTED
        assert answer.session == self.session
        assert answer.token is not None
        return answer.token

    def detach(self, connection: ConnectionId, now: float = 0.0) -> bool:
        return self.registry.detach(connection, self.session, now)

    def holders(self) -> list[ConnectionId]:
        """Return the connections that have a session; each saves Ann's."""
        return [each for each in (FIRST, SECOND, THIRD) if self.registry.save(each, self.session)]


def test_current_token_of_an_ended_connection_restores_the_session() -> None:
    """Row 1: the session gets a new token, and no connection is taken over."""
    bench = Bench()
    stored_session = replace(bench.session, position=POSITION, acknowledged=True)
    bench.registry.detach(FIRST, stored_session, 0.0)
    answer = bench.redeem(fresh(0), SECOND)
    assert answer.session == stored_session
    assert answer.taken_over is None
    assert answer.token not in (None, fresh(0))
    assert bench.holders() == [SECOND]


def test_current_token_of_an_open_connection_takes_it_over() -> None:
    """Row 2: the session moves, and the answer names the connection that has lost it."""
    bench = Bench()
    assert bench.redeem(fresh(0), SECOND).taken_over == FIRST
    assert bench.holders() == [SECOND]


def test_taken_over_session_has_no_position() -> None:
    """Row 2: the old connection has moved on from the stored position, so it is not returned."""
    bench = Bench()
    stored = replace(bench.session, position=POSITION, acknowledged=True)
    assert bench.registry.save(FIRST, stored)
    answer = bench.redeem(fresh(0), SECOND)
    assert answer.session == replace(stored, position=None, acknowledged=False)
    assert bench.registry.detach(SECOND, None, 1.0)
    assert answer.token is not None
    assert bench.redeem(answer.token, THIRD, now=2.0).session == answer.session


def test_previous_token_gives_the_same_successor_again() -> None:
    """Row 3: a client whose answer was lost presents the old token, and gets the same successor."""
    bench = Bench()
    lost = bench.accepted(fresh(0), SECOND)
    bench.detach(SECOND, 1.0)
    repeated = bench.redeem(fresh(0), THIRD, now=2.0, nonce=b"m" * 16)
    assert repeated == Redemption(RedeemStatus.ACCEPTED, bench.session, lost)
    assert bench.holders() == [THIRD]
    bench.accepted(lost)


def test_previous_token_of_an_open_connection_opens_a_copy() -> None:
    """Row 4: two tabs that share a token get two sessions with the same subscriptions."""
    bench = Bench()
    bench.session = replace(bench.session, refused=frozenset({"secret"}))
    bench.registry.save(FIRST, bench.session)
    first = bench.accepted(fresh(0), SECOND)
    answer = bench.redeem(fresh(0), THIRD, nonce=b"m" * 16)
    assert answer.session == bench.session
    assert answer.taken_over is None
    assert answer.token not in (None, first, fresh(0))
    assert answer.token is not None
    assert bench.redeem(first).taken_over == SECOND
    assert bench.redeem(answer.token).taken_over == THIRD


def test_saving_a_copy_leaves_the_original() -> None:
    """Row 4: the two sessions have nothing in common after the copy."""
    bench = Bench()
    first = bench.accepted(fresh(0), SECOND)
    bench.redeem(fresh(0), THIRD, nonce=b"m" * 16)
    assert bench.registry.save(THIRD, replace(bench.session, subscriptions={}))
    assert bench.redeem(first, FIRST).session == bench.session


def test_copy_has_no_position() -> None:
    """Row 4: a position that the other connection acknowledged does not apply to the copy."""
    bench = Bench()
    bench.accepted(fresh(0), SECOND)
    stored = replace(bench.session, position=POSITION, acknowledged=True, is_long_poll=True)
    bench.registry.save(SECOND, stored)
    assert bench.redeem(fresh(0), THIRD).session == bench.session


def test_previous_token_is_spent_after_the_grace() -> None:
    """Row 5: at the end of the grace time the previous token opens nothing."""
    bench = Bench()
    bench.accepted(fresh(0), SECOND)
    bench.detach(SECOND, 1.0)
    assert bench.redeem(fresh(0), THIRD, now=1.0 + GRACE) == Redemption(RedeemStatus.SPENT)
    assert bench.holders() == []


def test_previous_token_of_a_long_poll_is_good_for_the_lifetime() -> None:
    """Row 5: a client of long polls may notice late that an answer was lost."""
    bench = Bench()
    successor = bench.accepted(fresh(0), SECOND)
    bench.registry.detach(SECOND, replace(bench.session, is_long_poll=True), 0.0)
    repeated = bench.redeem(fresh(0), THIRD, now=LIFETIME - 0.1)
    assert (repeated.status, repeated.token) == (RedeemStatus.ACCEPTED, successor)


def test_grace_begins_at_the_end_of_the_connection() -> None:
    """A half-open connection does not shorten the grace time, however long it stays."""
    bench = Bench()
    successor = bench.accepted(fresh(0), SECOND)
    copy = bench.redeem(fresh(0), THIRD, now=100 * GRACE, nonce=b"m" * 16)
    assert copy.status is RedeemStatus.ACCEPTED
    assert copy.token != successor
    bench.detach(SECOND, 100 * GRACE)
    assert bench.accepted(fresh(0), FIRST, now=101 * GRACE - 0.1) == successor


def test_grace_lasts_until_its_end() -> None:
    """Just before the end of the grace time the previous token is still good."""
    bench = Bench()
    successor = bench.accepted(fresh(0), SECOND)
    bench.detach(SECOND, 1.0)
    assert bench.accepted(fresh(0), THIRD, now=GRACE - 0.1) == successor


@pytest.mark.parametrize("user", [BOB, None, UserId("ANN"), UserId("")])
def test_token_of_another_user_is_foreign(user: UserId | None) -> None:
    """Row 6: another user gets no session, by the current or the previous token."""
    bench = Bench()
    successor = bench.accepted(fresh(0), SECOND)
    bench.detach(SECOND)
    for token in (fresh(0), successor):
        assert bench.redeem(token, user=user) == Redemption(RedeemStatus.FOREIGN)
    assert bench.holders() == []
    bench.accepted(successor)


def test_token_of_an_unidentified_client_is_foreign_to_an_identified_user() -> None:
    """An identified user does not open the session of an unidentified client."""
    bench = Bench()
    bench.registry.issue(fresh(1), Session(None), 0.0, None)
    assert bench.redeem(fresh(1)).status is RedeemStatus.FOREIGN
    assert bench.redeem(fresh(1), user=None).status is RedeemStatus.ACCEPTED


def test_token_two_generations_old_is_unknown() -> None:
    """Row 7: the predecessor of the predecessor opens nothing."""
    bench = Bench()
    bench.accepted(bench.accepted(fresh(0)))
    assert bench.redeem(fresh(0)) == Redemption(RedeemStatus.UNKNOWN)


@pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text[:12]))
def test_nasty_token_is_unknown(text: str) -> None:
    """Row 7: a text that was never issued is unknown, alone and beside a real token."""
    bench = Bench()
    for token in (text, fresh(0) + (text or " "), (text or " ") + fresh(0), fresh(0)[:-1] + text):
        assert bench.redeem(token) == Redemption(RedeemStatus.UNKNOWN)


@pytest.mark.parametrize("change", [str.lower, lambda token: token + "=", lambda token: token[:-1]])
def test_altered_token_is_unknown(change) -> None:
    """A token in another case, padded or cut is another token."""
    assert Bench().redeem(change(fresh(0))).status is RedeemStatus.UNKNOWN


def test_refused_token_changes_nothing() -> None:
    """After each kind of refusal, the session resumes as if there had been no attempt."""
    bench, untouched = Bench(), Bench()
    for each in (bench, untouched):
        each.detach(FIRST)
    for token, user in ((fresh(0), BOB), (fresh(0), None), (fresh(9), ANN), ("", ANN)):
        assert bench.redeem(token, user=user).session is None
    assert bench.accepted(fresh(0)) == untouched.accepted(fresh(0))
    assert len(bench.registry) == len(untouched.registry) == 1


def test_detached_session_expires_after_its_lifetime() -> None:
    """A session expires exactly a lifetime after the end of its connection."""
    for now, status in ((LIFETIME - 0.1, RedeemStatus.ACCEPTED), (LIFETIME, RedeemStatus.UNKNOWN)):
        bench = Bench()
        bench.detach(FIRST, 0.0)
        assert bench.redeem(fresh(0), now=now).status is status


def test_attached_session_does_not_expire() -> None:
    """A connection that stays for years keeps its session."""
    bench = Bench()
    assert bench.registry.expire(1000 * LIFETIME) == 0
    bench.accepted(fresh(0), now=1000 * LIFETIME)


def test_lifetime_begins_again_with_each_connection() -> None:
    """The lifetime counts from the end of the last connection."""
    bench = Bench()
    bench.detach(FIRST, 0.0)
    successor = bench.accepted(fresh(0), now=LIFETIME - 1)
    bench.detach(SECOND, LIFETIME)
    bench.accepted(successor, now=2 * LIFETIME - 1)


def test_late_end_of_an_old_connection_changes_nothing() -> None:
    """A connection that was taken over can neither save nor detach."""
    bench = Bench()
    successor = bench.accepted(fresh(0), SECOND)
    other = replace(bench.session, subscriptions={}, position=POSITION)
    assert not bench.registry.save(FIRST, other)
    assert not bench.registry.detach(FIRST, other, 1.0)
    assert not bench.registry.detach(FIRST, None, 1.0)
    assert bench.redeem(successor) == Redemption(
        RedeemStatus.ACCEPTED, bench.session, make_successor(successor, b"n" * 16), SECOND
    )


def test_saved_session_is_kept_when_its_connection_ends() -> None:
    """`detach` without a session keeps the one that was saved last, with its position."""
    bench = Bench()
    saved = replace(bench.session, position=POSITION, acknowledged=True)
    assert bench.registry.save(FIRST, saved)
    assert bench.registry.detach(FIRST, None, 0.0)
    assert not bench.registry.save(FIRST, bench.session)
    assert not bench.registry.detach(FIRST, bench.session, 0.0)
    assert bench.redeem(fresh(0)).session == saved


def test_position_of_a_failed_handshake_is_kept() -> None:
    """A connection that redeems a token and ends at once leaves the session as it was."""
    bench = Bench()
    stored_session = replace(bench.session, position=POSITION, acknowledged=True)
    bench.registry.detach(FIRST, stored_session, 0.0)
    answer = bench.redeem(fresh(0), SECOND)
    assert answer.token is not None
    assert bench.registry.detach(SECOND, None, 1.0)
    assert bench.redeem(answer.token, now=2.0).session == stored_session


def test_user_with_too_many_detached_sessions_loses_the_oldest() -> None:
    """The limit of a user costs that user's oldest session, and no other user's."""
    bench = Bench(per_user=2)
    bench.registry.issue(fresh(1), Session(BOB), 0.0, None)
    for number in (2, 3, 4):
        bench.registry.issue(fresh(number), Session(ANN), 0.0, None)
    statuses = [bench.redeem(fresh(number)).status for number in (2, 3, 4)]
    assert statuses == [RedeemStatus.UNKNOWN, RedeemStatus.ACCEPTED, RedeemStatus.ACCEPTED]
    assert bench.redeem(fresh(1), user=BOB).status is RedeemStatus.ACCEPTED


def test_unidentified_clients_have_no_limit_except_the_total() -> None:
    """Unidentified clients are not one user."""
    bench = Bench(per_user=1, total=3)
    for number in (1, 2, 3, 4):
        bench.registry.issue(fresh(number), Session(None), 0.0, None)
    statuses = [bench.redeem(fresh(number), user=None).status for number in (1, 2, 3, 4)]
    assert statuses == [RedeemStatus.UNKNOWN, *[RedeemStatus.ACCEPTED] * 3]


def test_unidentified_clients_do_not_displace_users() -> None:
    """Sessions of users stay, whatever the number of unidentified clients."""
    bench = Bench(total=2)
    bench.detach(FIRST, 0.0)
    for number in (1, 2, 3):
        bench.registry.issue(fresh(number), Session(None), 0.0, None)
    assert len(bench.registry) == 3
    assert bench.redeem(fresh(1), user=None).status is RedeemStatus.UNKNOWN
    bench.accepted(fresh(0))


def test_logout_drops_both_tokens_of_the_user() -> None:
    """After a logout neither the current nor the previous token opens anything."""
    bench = Bench()
    successor = bench.accepted(fresh(0), SECOND)
    bench.detach(SECOND, 0.0)
    assert bench.registry.drop_user(ANN) == 1
    assert bench.registry.drop_user(ANN) == 0
    for token in (fresh(0), successor):
        assert bench.redeem(token).status is RedeemStatus.UNKNOWN
    assert len(bench.registry) == 0


def test_dropped_sessions_do_not_count_for_the_limits() -> None:
    """A session that was redeemed or dropped does not count for the limits."""
    bench = Bench(per_user=1, total=1)
    bench.registry.issue(fresh(1), bench.session, 0.0, None)
    bench.registry.drop_user(ANN)
    bench.registry.issue(fresh(2), bench.session, 0.0, None)
    bench.accepted(fresh(2), SECOND)
    bench.registry.issue(fresh(3), bench.session, 0.0, None)
    bench.accepted(fresh(3), THIRD)


def test_successor_depends_on_the_nonce() -> None:
    """An old token alone does not reveal its successor."""
    successors = {Bench().redeem(fresh(0), nonce=bytes([n]) * 16).token for n in range(9)}
    assert len(successors) == 9


def test_no_token_in_any_repr() -> None:
    """The reprs of an answer, a session and the registry contain no token."""
    bench = Bench()
    answer = bench.redeem(fresh(0))
    assert answer.token is not None
    for text in map(repr, (answer, answer.session, bench.registry)):
        assert fresh(0) not in text
        assert answer.token not in text


def test_session_comes_back_as_it_was_issued() -> None:
    """A session that was issued without a connection has all its fields when it is redeemed."""
    registry = TokenRegistry()
    session = Session(ANN, {"a": Offset(3)}, frozenset("a"), frozenset("b"), POSITION, True, True)
    registry.issue(fresh(0), session, 0.0, None)
    assert registry.redeem(fresh(0), ANN, FIRST, b"n" * 16, 1.0).session == session


def test_session_is_frozen() -> None:
    """A change of a session replaces the record, so that parts that share it agree."""
    session = Session(ANN)
    with pytest.raises(FrozenInstanceError):
        session.acknowledged = True  # type: ignore[misc]


marks = st.tuples(*[st.integers(0, 3).map(Offset)] * 4)


@pytest.mark.parametrize(
    ("stored", "acknowledged", "at", "is_taken"),
    [
        ((9, 9, 9, 9), False, (0, 0, 0, 0), True),
        ((9, 9, 9, 9), False, (3, 4, 4, 5), True),
        ((9, 9, 9, 9), False, (3, 4, 4, 6), False),
        ((9, 9, 9, 9), False, (4, 4, 4, 4), False),
        ((2, 4, 4, 4), True, (2, 4, 4, 4), True),
        ((2, 4, 4, 4), True, (3, 4, 4, 4), True),
        ((2, 4, 4, 4), True, (3, 4, 3, 4), False),
    ],
    ids=["nothing", "all", "beyond", "beyond in one lane", "again", "more", "back in one lane"],
)
def test_acknowledged_position_is_one_that_was_sent(
    stored: Marks, acknowledged: bool, at: Marks, is_taken: bool
) -> None:
    """The resume point moves up to what was sent, and not behind the last acknowledged one."""
    before, after = Position(EPOCH, Cursor(stored)), Position(EPOCH, Cursor(at))
    session = Session(None, position=before, acknowledged=acknowledged)
    taken = replace(session, position=after, acknowledged=True)
    assert session.acknowledge(after, Cursor(SENT)) == (taken if is_taken else None)


@given(marks, st.lists(marks, max_size=8))
def test_acknowledged_position_never_goes_back(sent: Marks, script: list[Marks]) -> None:
    """After any acknowledgements, the resume point is within `sent` and at its farthest so far."""
    session, farthest = Session(ANN, {"t": Offset(1)}), Cursor.at(0)
    for at in map(Cursor, script):
        taken = session.acknowledge(Position(EPOCH, at), Cursor(sent))
        assert (taken is not None) is (at <= Cursor(sent) and farthest <= at)
        if taken is not None:
            assert taken == replace(session, position=Position(EPOCH, at), acknowledged=True)
            session, farthest = taken, at


@pytest.mark.parametrize("acknowledged", [False, True])
def test_acknowledged_position_outweighs_a_sent_one(acknowledged: bool) -> None:
    """At the end of a connection, only a position that is not certain is replaced."""
    session = Session(ANN, position=POSITION, acknowledged=acknowledged)
    end = Position(EPOCH, Cursor.at(9))
    stored_session = session.with_sent_position(end)
    assert stored_session == replace(session, position=POSITION if acknowledged else end)
