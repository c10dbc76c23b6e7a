"""The sessions of tokens, as each Broker must keep them."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest

from holdfast import TokenLimits
from holdfast.brokers.protocol import Broker
from holdfast.core.cursor import Cursor, Epoch, Position
from holdfast.core.message import Offset, UserId
from holdfast.core.tokens import ConnectionId, RedeemStatus, Session, Token
from tests.contract.implementations import CLOCK, Make

ANN, BOB = UserId("ann"), UserId("bob")
ONE, TWO, THREE = map(ConnectionId, "123")
SESSION = Session(ANN, {"t": Offset(3), "u.*": Offset(0)}, frozenset({"t"}), frozenset({"secret"}))
STORED = replace(SESSION, position=Position(Epoch("e" * 12), Cursor.at(7)), acknowledged=True)

_numbers = itertools.count()


def new_connection() -> ConnectionId:
    """Return an id that no other connection has."""
    return ConnectionId(f"connection {next(_numbers)}")


async def redeem(
    broker: Broker,
    token: str,
    connection: ConnectionId | None = None,
    *,
    user: UserId | None = ANN,
) -> tuple[Session, Token, ConnectionId | None]:
    """Redeem a token that is accepted; return the session, the token and what is taken over."""
    answer = await broker.tokens.redeem(token, user, connection or new_connection())
    assert answer.status is RedeemStatus.ACCEPTED
    assert answer.session is not None
    assert answer.token not in (None, token)
    assert answer.token is not None
    return answer.session, answer.token, answer.taken_over


async def status(broker: Broker, token: str, user: UserId | None = ANN) -> RedeemStatus:
    """Return the outcome of a presented token, whose answer has a session only if accepted."""
    answer = await broker.tokens.redeem(token, user, new_connection())
    is_accepted = answer.status is RedeemStatus.ACCEPTED
    assert (answer.session is not None) is (answer.token is not None) is is_accepted
    return answer.status


class TestTokens:
    """Issue, redeem, save, detach, drop."""

    async def test_detached_session_comes_back_as_it_ended(self, broker: Broker) -> None:
        """The session with which a connection ended is the one that its token opens."""
        token = await broker.tokens.issue(Session(ANN), ONE)
        await broker.tokens.detach(ONE, STORED)
        session, _, taken_over = await redeem(broker, token, TWO)
        assert (session, taken_over) == (STORED, None)

    async def test_detached_session_comes_back_as_it_was_saved(self, broker: Broker) -> None:
        """`detach` without a session keeps the one that was saved last, with its position."""
        token = await broker.tokens.issue(SESSION, ONE)
        for saved in (STORED, replace(STORED, subscriptions={"v": Offset(9)}, acknowledged=False)):
            assert await broker.tokens.save(ONE, saved)
        await broker.tokens.detach(ONE, None)
        session, _, _ = await redeem(broker, token, TWO)
        assert session == replace(STORED, subscriptions={"v": Offset(9)}, acknowledged=False)

    async def test_issued_session_comes_back_as_it_was_issued(self, broker: Broker) -> None:
        """A session that was made ahead has its position, and loses it to its first connection."""
        token = await broker.tokens.issue(STORED, None)
        session, _, taken_over = await redeem(broker, token)
        assert (session, taken_over) == (STORED, None)

    async def test_failed_handshake_keeps_the_position(self, broker: Broker) -> None:
        """A connection that redeems a token and ends at once leaves the session as it was."""
        token: str = await broker.tokens.issue(STORED, None)
        for connection in (ONE, TWO):
            session, token, _ = await redeem(broker, token, connection)
            assert session == STORED
            await broker.tokens.detach(connection, None)

    async def test_token_of_a_live_connection_takes_over(self, broker: Broker) -> None:
        """The token of an open connection takes its session over, and names that connection."""
        token: str = await broker.tokens.issue(SESSION, ONE)
        for old, new in ((ONE, TWO), (TWO, THREE)):
            session, token, taken_over = await redeem(broker, token, new)
            assert (session, taken_over) == (SESSION, old)

    async def test_taken_over_session_comes_without_a_position(self, broker: Broker) -> None:
        """A session that is taken over has no position, because its connection has moved on."""
        token: str = await broker.tokens.issue(STORED, ONE)
        session, token, _ = await redeem(broker, token, TWO)
        assert session == SESSION
        assert await broker.tokens.save(TWO, STORED)
        session, token, _ = await redeem(broker, token, THREE)
        assert session == SESSION
        await broker.tokens.detach(THREE, None)
        session, _, _ = await redeem(broker, token)
        assert session == SESSION

    async def test_only_the_holder_saves(self, broker: Broker) -> None:
        """`save` replaces the session of the connection that has it, and of no other."""
        token: str = await broker.tokens.issue(SESSION, ONE)
        other = replace(SESSION, subscriptions={})
        assert not await broker.tokens.save(TWO, other)
        _, token, _ = await redeem(broker, token, TWO)
        assert not await broker.tokens.save(ONE, other)
        assert await broker.tokens.save(TWO, SESSION)
        await broker.tokens.detach(TWO, None)
        assert not await broker.tokens.save(TWO, other)
        session, _, _ = await redeem(broker, token, THREE)
        assert session == SESSION

    @pytest.mark.parametrize("session", [None, replace(STORED, subscriptions={})])
    async def test_late_detach_changes_nothing(
        self, broker: Broker, session: Session | None
    ) -> None:
        """The end of a connection that was taken over leaves the new one attached."""
        token: str = await broker.tokens.issue(SESSION, ONE)
        _, token, _ = await redeem(broker, token, TWO)
        await broker.tokens.detach(ONE, session)
        await broker.tokens.detach(THREE, session)  # never had a session
        found, _, taken_over = await redeem(broker, token, THREE)
        assert (found, taken_over) == (SESSION, TWO)

    async def test_second_detach_changes_nothing(self, broker: Broker) -> None:
        """A connection that has ended cannot end again with another session."""
        token = await broker.tokens.issue(SESSION, ONE)
        await broker.tokens.detach(ONE, STORED)
        await broker.tokens.detach(ONE, replace(SESSION, subscriptions={}))
        session, _, _ = await redeem(broker, token)
        assert session == STORED

    async def test_repeated_token_gets_the_same_successor(self, broker: Broker) -> None:
        """Within the grace time, a repeated token gets the same successor."""
        token = await broker.tokens.issue(SESSION, None)
        _, successor, _ = await redeem(broker, token, ONE)
        await broker.tokens.detach(ONE, STORED)
        session, again, taken_over = await redeem(broker, token, TWO)
        assert (session, again, taken_over) == (STORED, successor, None)

    async def test_predecessor_of_a_token_in_use_opens_a_copy(self, broker: Broker) -> None:
        """A second tab with the same token gets a copy, and takes no session over."""
        token = await broker.tokens.issue(SESSION, None)
        _, first, _ = await redeem(broker, token, ONE)
        assert await broker.tokens.save(ONE, replace(STORED, is_long_poll=True))
        copy, second, taken_over = await redeem(broker, token, TWO)
        assert (copy, taken_over) == (SESSION, None)
        assert second != first
        assert await broker.tokens.save(TWO, replace(SESSION, subscriptions={}))
        session, _, taken_over = await redeem(broker, first)
        assert (session.subscriptions, taken_over) == (SESSION.subscriptions, ONE)
        session, _, taken_over = await redeem(broker, second)
        assert (session.subscriptions, taken_over) == ({}, TWO)

    async def test_predecessor_is_spent_after_the_grace(self, make: Make) -> None:
        """The predecessor opens no session after its grace time; the successor does."""
        broker = make(tokens=TokenLimits(grace=10.0))
        await broker.start()
        token = await broker.tokens.issue(SESSION, None)
        _, successor, _ = await redeem(broker, token, ONE)
        await broker.tokens.detach(ONE, SESSION)
        CLOCK.skip(11.0)
        assert await status(broker, token) is RedeemStatus.SPENT
        assert await status(broker, successor) is RedeemStatus.ACCEPTED

    async def test_predecessor_of_a_long_poll_is_valid_for_the_lifetime(self, make: Make) -> None:
        """A client of long polls may notice late that an answer was lost."""
        broker = make(tokens=TokenLimits(grace=10.0, lifetime=1000.0))
        await broker.start()
        token = await broker.tokens.issue(SESSION, None)
        _, successor, _ = await redeem(broker, token, ONE)
        await broker.tokens.detach(ONE, replace(SESSION, is_long_poll=True))
        CLOCK.skip(900.0)
        session, again, _ = await redeem(broker, token, TWO)
        assert again == successor
        await broker.tokens.detach(TWO, replace(session, is_long_poll=False))
        CLOCK.skip(11.0)
        assert await status(broker, token) is RedeemStatus.SPENT

    async def test_failed_handshake_leaves_a_poll_its_grace(self, make: Make) -> None:
        """`detach` without a session keeps `is_long_poll` as it was saved, too."""
        broker = make(tokens=TokenLimits(grace=10.0, lifetime=1000.0))
        await broker.start()
        token = await broker.tokens.issue(SESSION, ONE)
        await broker.tokens.detach(ONE, replace(SESSION, is_long_poll=True))
        session, _, _ = await redeem(broker, token, TWO)
        assert session.is_long_poll
        await broker.tokens.detach(TWO, None)
        CLOCK.skip(900.0)
        assert await status(broker, token) is RedeemStatus.ACCEPTED

    async def test_two_generations_ago_is_unknown(self, broker: Broker) -> None:
        """Only the immediate predecessor is valid."""
        token = await broker.tokens.issue(SESSION, None)
        current: str = token
        for _ in range(2):
            connection = new_connection()
            _, current, _ = await redeem(broker, current, connection)
            await broker.tokens.detach(connection, SESSION)
        assert await status(broker, token) is RedeemStatus.UNKNOWN

    async def test_foreign_token_changes_nothing(self, broker: Broker) -> None:
        """A token of another user opens no session, and is still valid for its owner."""
        token = await broker.tokens.issue(STORED, None)
        for other in (BOB, None):
            assert await status(broker, token, other) is RedeemStatus.FOREIGN
        session, _, taken_over = await redeem(broker, token)
        assert (session, taken_over) == (STORED, None)

    @pytest.mark.parametrize(
        "token", ["", "x", "A" * 21, "A" * 23, "é" * 22, "A" * 21 + "\n", "A" * 1_000_000, "\ud800"]
    )
    async def test_text_that_was_never_issued_is_unknown(self, broker: Broker, token: str) -> None:
        """A text that was never issued is unknown."""
        assert await status(broker, token, None) is RedeemStatus.UNKNOWN

    async def test_session_expires_a_lifetime_after_its_connection(self, make: Make) -> None:
        """The lifetime begins at the end of the connection."""
        broker = make(tokens=TokenLimits(lifetime=100.0))
        assert broker.token_lifetime == 100.0
        await broker.start()
        token: str = await broker.tokens.issue(SESSION, ONE)
        CLOCK.skip(500.0)
        await broker.tokens.detach(ONE, SESSION)
        CLOCK.skip(99.0)
        _, token, _ = await redeem(broker, token, TWO)
        await broker.tokens.detach(TWO, SESSION)
        CLOCK.skip(101.0)
        assert await status(broker, token) is RedeemStatus.UNKNOWN

    async def test_drop_user_drops_the_detached_sessions(self, broker: Broker) -> None:
        """After a logout the user's tokens open nothing; others' and those in use are left."""
        gone = [await broker.tokens.issue(SESSION, None) for _ in range(3)]
        kept = await broker.tokens.issue(SESSION, ONE)
        other = await broker.tokens.issue(Session(BOB), None)
        assert await broker.tokens.drop_user(ANN) == 3
        assert await broker.tokens.drop_user(ANN) == 0
        for token in gone:
            assert await status(broker, token) is RedeemStatus.UNKNOWN
        assert await status(broker, kept) is RedeemStatus.ACCEPTED
        assert await status(broker, other, BOB) is RedeemStatus.ACCEPTED

    async def test_limits_drop_the_oldest(self, make: Make) -> None:
        """Over the limit per user, or of all, the oldest detached session is dropped."""
        broker = make(tokens=TokenLimits(per_user=2, total=4))
        await broker.start()
        unknown, accepted = RedeemStatus.UNKNOWN, RedeemStatus.ACCEPTED
        mine = [await broker.tokens.issue(SESSION, None) for _ in range(3)]
        assert [await status(broker, each) for each in mine] == [unknown, accepted, accepted]
        unnamed = [await broker.tokens.issue(Session(None), None) for _ in range(6)]
        statuses = [await status(broker, each, None) for each in unnamed]
        assert statuses == [unknown] * 2 + [accepted] * 4

    async def test_one_of_several_redeems_gets_the_session(self, broker: Broker) -> None:
        """If several clients present a token at once, one gets the session, others get copies."""
        token = await broker.tokens.issue(STORED, None)
        connections = [new_connection() for _ in range(5)]
        answers = await asyncio.gather(
            *(broker.tokens.redeem(token, ANN, connection) for connection in connections)
        )
        assert {answer.status for answer in answers} == {RedeemStatus.ACCEPTED}
        assert all(answer.taken_over is None for answer in answers)
        assert len({answer.token for answer in answers}) == 5
        sessions = [answer.session for answer in answers]
        assert (sessions.count(STORED), sessions.count(SESSION)) == (1, 4)
        for connection, answer in zip(connections, answers, strict=True):
            assert answer.token is not None
            assert (await redeem(broker, answer.token))[2] == connection

    async def test_one_takes_over_when_several_save(self, broker: Broker) -> None:
        """A `save` beside a takeover is carried out before it or has no effect."""
        token = await broker.tokens.issue(SESSION, ONE)
        saved, answer = await asyncio.gather(
            broker.tokens.save(ONE, replace(SESSION, subscriptions={})),
            broker.tokens.redeem(token, ANN, TWO),
        )
        assert answer.session is not None
        assert (answer.session.subscriptions == {}) is saved
        assert not await broker.tokens.save(ONE, SESSION)

    async def test_tokens_survive_a_restart_of_the_broker(self, make: Make) -> None:
        """Sessions are there again after close and start."""
        broker = make()
        await broker.start()
        token = await broker.tokens.issue(STORED, None)
        await broker.close()
        await broker.start()
        session, _, _ = await redeem(broker, token)
        assert session == STORED

    async def test_token_is_in_no_repr(self, broker: Broker) -> None:
        """The reprs of a session, an answer, the broker and its store contain no token."""
        token = await broker.tokens.issue(SESSION, None)
        answer = await broker.tokens.redeem(token, ANN, ONE)
        assert answer.token is not None
        shown = f"{SESSION!r} {answer!r} {broker!r} {broker.tokens!r}"
        assert token not in shown
        assert answer.token not in shown
