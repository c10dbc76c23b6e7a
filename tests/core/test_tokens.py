"""TokenRegistry beside a plain list of sessions, and the table of its docstring row by row."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.core.cursor import Cursor, Epoch
from holdfast.core.message import Offset, UserId
from holdfast.core.tokens import (
    ConnectionId,
    Position,
    RedeemStatus,
    Redemption,
    Session,
    Token,
    TokenLimits,
    TokenRegistry,
    is_token,
)
from tests.core.builders import NASTY

ANN, BOB = UserId("ann"), UserId("bob")
FIRST, SECOND, THIRD = map(ConnectionId, ("first", "second", "third"))
LIFETIME, GRACE = 100.0, 10.0

users = st.sampled_from([ANN, BOB, None])


def fresh(number: int) -> Token:
    """The token that stands for so many random bits."""
    return Token(f"T{number:021}")


@dataclass(eq=False)
class Known:
    """A session of the model: every token it ever had, oldest first, and when it was detached."""

    session: Session
    tokens: list[Token]
    connection: ConnectionId | None
    grace_until: float = 0.0
    detached_at: float = 0.0


class TokenMachine(RuleBasedStateMachine):
    """Issuing, presenting, losing, expiring; the model is a list that is searched."""

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
        self.known: list[Known] = []
        self.detached: list[Known] = []  # in the order in which they were
        self.tokens: dict[Token, Known] = {}  # all that were ever issued
        self.texts: list[str] = []  # every repr that was seen
        for user, attached in sessions:
            self.issue(user, attached)

    def new_connection(self) -> ConnectionId:
        return ConnectionId(f"connection {next(self.numbers)}")

    def drop(self, known: Known) -> None:
        self.known.remove(known)
        self.detached.remove(known)

    def note_detached(self, known: Known) -> None:
        known.connection, known.detached_at = None, self.now
        known.grace_until = self.now + GRACE
        self.detached.append(known)
        user = known.session.user
        own = [each for each in self.detached if each.session.user == user]
        if user is not None and len(own) > self.limits.per_user:
            self.drop(own[0])
        alike = [each for each in self.detached if (each.session.user is None) is (user is None)]
        if len(alike) > self.limits.total:
            self.drop(alike[0])

    def expire_model(self) -> int:
        expired = [each for each in self.detached if each.detached_at + LIFETIME <= self.now]
        for each in expired:
            self.drop(each)
        return len(expired)

    @rule(user=users, attached=st.booleans())
    def issue(self, user: UserId | None, attached: bool) -> None:
        """A new session, with a connection or (made ahead for a page) without."""
        token = fresh(next(self.numbers))
        connection = self.new_connection() if attached else None
        known = Known(Session(user), [token], connection)
        self.registry.issue(token, known.session, self.now, connection)
        self.known.append(known)
        self.tokens[token] = known
        if connection is None:
            self.note_detached(known)

    @rule(
        data=st.data(),
        which=st.sampled_from(["current", "previous", "any"]),
        user=st.sampled_from(["own", "own", "own", ANN, BOB, None]),
    )
    def redeem(self, data: st.DataObject, which: str, user: UserId | None) -> None:
        """A token that was issued at some time, presented by its owner or by anybody."""
        known = data.draw(st.sampled_from(self.known or list(self.tokens.values())))
        token = data.draw(st.sampled_from(list(self.tokens)))
        if which != "any":
            token = known.tokens[-2:][which == "current" and len(known.tokens) > 1]
        self.present(token, self.tokens[token].session.user if user == "own" else user)

    def present(self, token: Token, user: UserId | None) -> None:
        self.expire_model()
        known = self.tokens[token]
        connection = self.new_connection()
        nonce = next(self.numbers).to_bytes(16, "big")
        verdict = self.expected(known, token, user)
        shared = token != known.tokens[-1] and known.connection is not None
        answer = self.registry.redeem(token, user, connection, nonce, self.now)
        self.texts += [repr(answer), str(answer)]
        if verdict is not RedeemStatus.ACCEPTED:
            assert answer == Redemption(verdict)
            return
        assert answer.token is not None
        assert is_token(answer.token)
        if shared:
            self.copied(known, answer, connection)
            return
        assert answer == Redemption(verdict, known.session, answer.token, known.connection)
        if token == known.tokens[-1]:
            assert answer.token not in self.tokens
            self.tokens[answer.token] = known
            known.tokens.append(answer.token)
        assert answer.token == known.tokens[-1]
        if known.connection is None:
            self.detached.remove(known)
        known.connection = connection

    def copied(self, known: Known, answer: Redemption, connection: ConnectionId) -> None:
        """A session of its own: nobody is taken over, and no token is shared."""
        copy, token = answer.session, answer.token
        assert copy is not None
        assert token is not None
        assert answer.taken_over is None
        assert token not in self.tokens
        assert all(copy is not each.session for each in self.known)
        assert copy.user == known.session.user
        self.tokens[token] = Known(copy, [token], connection)
        self.known.append(self.tokens[token])

    def expected(self, known: Known, token: Token, user: UserId | None) -> RedeemStatus:
        """The table of the module's docstring."""
        if known not in self.known or token not in known.tokens[-2:]:
            return RedeemStatus.UNKNOWN
        if user != known.session.user:
            return RedeemStatus.FOREIGN
        if token == known.tokens[-1] or known.connection is not None:
            return RedeemStatus.ACCEPTED
        return RedeemStatus.SPENT if self.now >= known.grace_until else RedeemStatus.ACCEPTED

    @rule(text=st.text() | st.integers(10**6, 10**21 - 1).map(fresh))
    def redeem_garbage(self, text: str) -> None:
        """A text that nobody was given."""
        self.expire_model()
        answer = self.registry.redeem(text, ANN, self.new_connection(), b"n" * 16, self.now)
        assert answer == Redemption(RedeemStatus.UNKNOWN)

    @rule(data=st.data(), late=st.sampled_from([False, False, True]), by_name=st.booleans())
    def detach(self, data: st.DataObject, late: bool, by_name: bool) -> None:
        """A connection ends, perhaps one that the session no longer has, or of unknown session."""
        known = data.draw(st.sampled_from(self.known or list(self.tokens.values())))
        current = None if late else known.connection
        connection = current or self.new_connection()
        attached = current is not None
        if by_name:
            assert self.registry.abandon(connection, self.now) is attached
        else:
            assert self.registry.detach(known.session, connection, self.now) is attached
        if attached:
            self.note_detached(known)

    @rule(user=st.sampled_from([ANN, BOB]))
    def forget(self, user: UserId) -> None:
        """A logout: the user's detached sessions are gone, the attached ones stay."""
        own = [each for each in self.detached if each.session.user == user]
        assert self.registry.forget(user) == len(own)
        for each in own:
            self.drop(each)

    @rule(seconds=st.sampled_from([0.5, 0.5, GRACE / 2, GRACE, LIFETIME / 2, LIFETIME]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        """What was detached for a lifetime is dropped, and counted."""
        assert self.registry.expire(self.now) == self.expire_model()

    @invariant()
    def keeps_what_the_list_keeps(self) -> None:
        """As many sessions, each with the connection that it was given."""
        assert len(self.registry) == len(self.known)
        assert [each.session.connection for each in self.known] == [
            each.connection for each in self.known
        ]

    def teardown(self) -> None:
        """No repr of anything that was seen has a token in it."""
        self.texts += [repr(each.session) for each in self.tokens.values()]
        self.texts += [repr(self.registry), str(self.registry)]
        assert not any(token in text for token in self.tokens for text in self.texts)


TestTokens = TokenMachine.TestCase
TestTokens.settings = settings(stateful_step_count=100)


class Bench:
    """A registry with one session of Ann's on its FIRST connection."""

    def __init__(self, **limits: int) -> None:
        self.registry = TokenRegistry(TokenLimits(lifetime=LIFETIME, grace=GRACE, **limits))
        self.session = Session(ANN)
        self.registry.issue(fresh(0), self.session, 0.0, FIRST)

    def redeem(
        self,
        token: str,
        connection: ConnectionId = SECOND,
        *,
        user: UserId | None = ANN,
        now: float = 0.0,
        nonce: bytes = b"n" * 16,
    ) -> Redemption:
        return self.registry.redeem(token, user, connection, nonce, now)

    def accepted(self, token: str, connection: ConnectionId = SECOND, now: float = 0.0) -> Token:
        answer = self.redeem(token, connection, now=now)
        assert answer.verdict is RedeemStatus.ACCEPTED
        assert answer.token is not None
        return answer.token


def test_current_token_of_a_gone_connection_restores_the_session() -> None:
    """Row 1: the session comes back, with a new token and nobody to take over."""
    bench = Bench()
    bench.registry.detach(bench.session, FIRST, 0.0)
    answer = bench.redeem(fresh(0))
    assert answer.session is bench.session
    assert answer.taken_over is None
    assert answer.token not in (None, fresh(0))
    assert bench.session.connection == SECOND


def test_current_token_of_a_live_connection_takes_it_over() -> None:
    """Row 2: the session moves, and the caller is told which connection has lost it."""
    bench = Bench()
    assert bench.redeem(fresh(0)).taken_over == FIRST
    assert bench.session.connection == SECOND


def test_previous_token_gives_the_same_successor_again() -> None:
    """Row 3: a client whose answer was lost presents the old token, and gets the same one."""
    bench = Bench()
    lost = bench.accepted(fresh(0), SECOND)
    bench.registry.detach(bench.session, SECOND, 1.0)
    again = bench.redeem(fresh(0), THIRD, now=2.0, nonce=b"m" * 16)
    assert (again.verdict, again.token) == (RedeemStatus.ACCEPTED, lost)
    assert bench.session.connection == THIRD
    bench.accepted(lost)


def test_previous_token_of_a_live_connection_opens_a_copy() -> None:
    """Row 4: of two tabs that share a token, each goes on by itself, with what was subscribed."""
    bench = Bench()
    bench.session.subscriptions = {"orders": Offset(7)}
    bench.session.requested, bench.session.refused = frozenset({"orders"}), frozenset({"secret"})
    first = bench.accepted(fresh(0), SECOND)
    answer = bench.redeem(fresh(0), THIRD, nonce=b"m" * 16)
    copy = answer.session
    assert copy is not None
    assert copy is not bench.session
    assert (bench.session.connection, copy.connection) == (SECOND, THIRD)
    assert (copy.user, copy.subscriptions) == (ANN, {"orders": 7})
    assert (copy.requested, copy.refused) == (frozenset({"orders"}), frozenset({"secret"}))
    assert answer.taken_over is None
    assert answer.token not in (first, fresh(0))


def test_copy_takes_no_position_along() -> None:
    """What the other connection has acknowledged says nothing about this one."""
    bench = Bench()
    bench.accepted(fresh(0), SECOND)
    bench.session.position = Position(Epoch("e" * 12), Cursor.at(5))
    bench.session.acknowledged = True
    copy = bench.redeem(fresh(0), THIRD).session
    assert copy is not None
    assert (copy.position, copy.acknowledged) == (None, False)


def test_previous_token_is_spent_after_the_grace() -> None:
    """Row 5: at the end of the grace time the previous token opens nothing."""
    bench = Bench()
    bench.accepted(fresh(0), SECOND)
    bench.registry.detach(bench.session, SECOND, 1.0)
    assert bench.redeem(fresh(0), THIRD, now=1.0 + GRACE) == Redemption(RedeemStatus.SPENT)
    assert bench.session.connection is None


def test_grace_begins_when_the_connection_has_gone() -> None:
    """However long a half-open connection stays, who never got its answer is not too late."""
    bench = Bench()
    successor = bench.accepted(fresh(0), SECOND)
    copy = bench.redeem(fresh(0), THIRD, now=100 * GRACE)
    assert copy.verdict is RedeemStatus.ACCEPTED
    assert copy.session is not bench.session
    bench.registry.detach(bench.session, SECOND, 100 * GRACE)
    assert bench.accepted(fresh(0), FIRST, now=101 * GRACE - 0.1) == successor


def test_grace_lasts_until_its_end() -> None:
    """Just before the end of the grace time the previous token is still good."""
    bench = Bench()
    successor = bench.accepted(fresh(0), SECOND)
    bench.registry.detach(bench.session, SECOND, 1.0)
    assert bench.accepted(fresh(0), THIRD, now=GRACE - 0.1) == successor


@pytest.mark.parametrize("user", [BOB, None, UserId("ANN"), UserId("")])
def test_token_of_another_user_is_foreign(user: UserId | None) -> None:
    """Row 6: whoever is not the owner gets nothing, by the current or the previous token."""
    bench = Bench()
    successor = bench.accepted(fresh(0), SECOND)
    bench.registry.detach(bench.session, SECOND, 0.0)
    for token in (fresh(0), successor):
        assert bench.redeem(token, user=user) == Redemption(RedeemStatus.FOREIGN)
    assert bench.session.connection is None
    bench.accepted(successor)


def test_token_of_nobody_is_foreign_to_an_identified_user() -> None:
    """An anonymous session is not opened by somebody who has logged in."""
    bench = Bench()
    bench.registry.issue(fresh(1), Session(None), 0.0, None)
    assert bench.redeem(fresh(1)).verdict is RedeemStatus.FOREIGN
    assert bench.redeem(fresh(1), user=None).verdict is RedeemStatus.ACCEPTED


def test_token_two_generations_old_is_unknown() -> None:
    """Row 7: the predecessor of the predecessor is forgotten."""
    bench = Bench()
    bench.accepted(bench.accepted(fresh(0)))
    assert bench.redeem(fresh(0)) == Redemption(RedeemStatus.UNKNOWN)


@pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text[:12]))
def test_nasty_token_is_unknown(text: str) -> None:
    """Row 7: what nobody was given is unknown, whatever it is, and beside a real token too."""
    bench = Bench()
    for token in (text, fresh(0) + (text or " "), (text or " ") + fresh(0), fresh(0)[:-1] + text):
        assert bench.redeem(token) == Redemption(RedeemStatus.UNKNOWN)


@pytest.mark.parametrize("change", [str.lower, lambda token: token + "=", lambda token: token[:-1]])
def test_altered_token_is_unknown(change) -> None:
    """A token in another case, padded or cut is another token."""
    assert Bench().redeem(change(fresh(0))).verdict is RedeemStatus.UNKNOWN


def test_refused_token_changes_nothing() -> None:
    """After each kind of refusal, the session resumes as if nobody had tried."""
    bench, untouched = Bench(), Bench()
    for each in (bench, untouched):
        each.registry.detach(each.session, FIRST, 0.0)
    for token, user in ((fresh(0), BOB), (fresh(0), None), (fresh(9), ANN), ("", ANN)):
        assert bench.redeem(token, user=user).session is None
    assert bench.accepted(fresh(0)) == untouched.accepted(fresh(0))
    assert len(bench.registry) == len(untouched.registry) == 1


def test_detached_session_expires_after_its_lifetime() -> None:
    """A lifetime after its connection went, a session is gone; just before it is not."""
    for now, verdict in ((LIFETIME - 0.1, RedeemStatus.ACCEPTED), (LIFETIME, RedeemStatus.UNKNOWN)):
        bench = Bench()
        bench.registry.detach(bench.session, FIRST, 0.0)
        assert bench.redeem(fresh(0), now=now).verdict is verdict


def test_attached_session_does_not_expire() -> None:
    """A connection that stays for years keeps its session."""
    bench = Bench()
    assert bench.registry.expire(1000 * LIFETIME) == 0
    bench.accepted(fresh(0), now=1000 * LIFETIME)


def test_lifetime_begins_anew_with_each_connection() -> None:
    """What counts is when the last connection went."""
    bench = Bench()
    bench.registry.detach(bench.session, FIRST, 0.0)
    successor = bench.accepted(fresh(0), now=LIFETIME - 1)
    bench.registry.detach(bench.session, SECOND, LIFETIME)
    bench.accepted(successor, now=2 * LIFETIME - 1)


def test_late_end_of_an_old_connection_detaches_nothing() -> None:
    """A connection that was taken over ends later, and the session keeps the new one."""
    bench = Bench()
    bench.accepted(fresh(0), SECOND)
    assert not bench.registry.detach(bench.session, FIRST, 0.0)
    assert bench.session.connection == SECOND


def test_user_with_too_many_detached_sessions_loses_the_oldest() -> None:
    """The cap of a user costs that user's oldest session, and nobody else's."""
    bench = Bench(per_user=2)
    bench.registry.issue(fresh(1), Session(BOB), 0.0, None)
    for number in (2, 3, 4):
        bench.registry.issue(fresh(number), Session(ANN), 0.0, None)
    verdicts = [bench.redeem(fresh(number)).verdict for number in (2, 3, 4)]
    assert verdicts == [RedeemStatus.UNKNOWN, RedeemStatus.ACCEPTED, RedeemStatus.ACCEPTED]
    assert bench.redeem(fresh(1), user=BOB).verdict is RedeemStatus.ACCEPTED


def test_anonymous_sessions_have_no_cap_but_the_total() -> None:
    """Clients that nobody identified are not one user."""
    bench = Bench(per_user=1, total=3)
    for number in (1, 2, 3, 4):
        bench.registry.issue(fresh(number), Session(None), 0.0, None)
    verdicts = [bench.redeem(fresh(number), user=None).verdict for number in (1, 2, 3, 4)]
    assert verdicts == [RedeemStatus.UNKNOWN, *[RedeemStatus.ACCEPTED] * 3]


def test_strangers_do_not_push_out_users() -> None:
    """However many clients come that nobody identified, the users' sessions stay."""
    bench = Bench(total=2)
    bench.registry.detach(bench.session, FIRST, 0.0)
    for number in (1, 2, 3):
        bench.registry.issue(fresh(number), Session(None), 0.0, None)
    assert len(bench.registry) == 3
    assert bench.redeem(fresh(1), user=None).verdict is RedeemStatus.UNKNOWN
    bench.accepted(fresh(0))


def test_logout_forgets_both_tokens_of_the_user() -> None:
    """After a logout neither the current nor the previous token opens anything."""
    bench = Bench()
    successor = bench.accepted(fresh(0), SECOND)
    bench.registry.detach(bench.session, SECOND, 0.0)
    assert bench.registry.forget(ANN) == 1
    assert bench.registry.forget(ANN) == 0
    for token in (fresh(0), successor):
        assert bench.redeem(token).verdict is RedeemStatus.UNKNOWN
    assert len(bench.registry) == 0


def test_forgotten_sessions_do_not_count_for_the_caps() -> None:
    """What was redeemed or forgotten makes room again."""
    bench = Bench(per_user=1, total=1)
    bench.registry.issue(fresh(1), Session(ANN), 0.0, None)
    bench.registry.forget(ANN)
    bench.registry.issue(fresh(2), Session(ANN), 0.0, None)
    bench.accepted(fresh(2), SECOND)
    bench.registry.issue(fresh(3), Session(ANN), 0.0, None)
    bench.accepted(fresh(3), THIRD)


def test_successor_depends_on_the_nonce() -> None:
    """Nobody who knows an old token can work out the new one."""
    successors = {Bench().redeem(fresh(0), nonce=bytes([n]) * 16).token for n in range(9)}
    assert len(successors) == 9


def test_no_token_in_any_repr() -> None:
    """Neither an answer nor a session shows a token."""
    bench = Bench()
    answer = bench.redeem(fresh(0))
    assert answer.token is not None
    for text in map(repr, (answer, answer.session, bench.registry)):
        assert fresh(0) not in text
        assert answer.token not in text


def test_session_keeps_what_it_was_given() -> None:
    """A redeemed session has its user, subscriptions and position as they were."""
    registry = TokenRegistry()
    session = Session(ANN, {"a": Offset(3)}, frozenset("a"))
    registry.issue(fresh(0), session, 0.0, None)
    answer = registry.redeem(fresh(0), ANN, FIRST, b"n" * 16, 1.0)
    assert answer.session is session
    assert session.user == ANN
    assert session.subscriptions == {"a": 3}
    assert session.requested == {"a"}
    assert session.position is None
    assert not session.acknowledged
