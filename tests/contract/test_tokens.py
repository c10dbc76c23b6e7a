"""What every Broker must do: keep the sessions of tokens."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import TokenLimits
from holdfast.brokers.protocol import Broker
from holdfast.core.cursor import Cursor, Position
from holdfast.core.message import Offset, UserId
from holdfast.core.tokens import ConnectionId, RedeemStatus, Session
from tests.contract.implementations import CLOCK, Make

ANN, ONE, TWO, THREE = UserId("ann"), ConnectionId("1"), ConnectionId("2"), ConnectionId("3")


class TestTokens:
    """Issue, redeem, record, detach, forget."""

    async def test_redeemed_session_is_what_was_recorded(self, broker: Broker) -> None:
        """Subscriptions and position come back as they were recorded last."""
        epoch = (await broker.head()).epoch
        session = Session(ANN, {"t": Offset(3)}, frozenset({"t"}))
        token = await broker.tokens.issue(session, ONE)
        session.subscriptions = {"u": Offset(4)}
        session.position = Position(epoch, Cursor.at(7))
        session.acknowledged = True
        await broker.tokens.record(session)
        await broker.tokens.detach(session, ONE)
        answer = await broker.tokens.redeem(token, ANN, TWO)
        assert answer.status is RedeemStatus.ACCEPTED
        assert answer.session is not None
        assert answer.session.subscriptions == {"u": 4}
        assert answer.session.requested == {"t"}
        assert answer.session.position == Position(epoch, Cursor.at(7))
        assert answer.session.acknowledged
        assert (answer.session.user, answer.session.connection) == (ANN, TWO)
        assert answer.token not in (None, token)

    async def test_token_of_a_live_connection_takes_over(self, broker: Broker) -> None:
        """The current token of a connection that looks alive names the one that it takes over."""
        token = await broker.tokens.issue(Session(ANN), ONE)
        answer = await broker.tokens.redeem(token, ANN, TWO)
        assert (answer.status, answer.taken_over) == (RedeemStatus.ACCEPTED, ONE)

    async def test_presented_again_gets_the_same_successor(self, broker: Broker) -> None:
        """Within the grace time, when who got the answer is gone, the same one comes again."""
        token = await broker.tokens.issue(Session(ANN), None)
        first = await broker.tokens.redeem(token, ANN, ONE)
        assert first.session is not None
        await broker.tokens.detach(first.session, ONE)
        again = await broker.tokens.redeem(token, ANN, TWO)
        assert (again.status, again.token) == (RedeemStatus.ACCEPTED, first.token)

    async def test_presented_again_while_in_use_opens_a_copy(self, broker: Broker) -> None:
        """A second tab with the same token goes on by itself, and throws nobody out."""
        session = Session(ANN, {"orders": Offset(3)}, frozenset({"orders"}))
        token = await broker.tokens.issue(session, None)
        first = await broker.tokens.redeem(token, ANN, ONE)
        second = await broker.tokens.redeem(token, ANN, TWO)
        assert second.session is not None
        assert (second.session.user, second.session.subscriptions) == (ANN, {"orders": 3})
        assert second.taken_over is None
        assert second.token not in (token, first.token)
        assert second.token is not None
        assert (await broker.tokens.redeem(second.token, ANN, THREE)).taken_over == TWO
        assert first.token is not None
        assert (await broker.tokens.redeem(first.token, ANN, THREE)).taken_over == ONE

    async def test_presented_after_the_grace_is_spent(self, make: Make) -> None:
        """The predecessor opens nothing once its grace time is over; the successor still does."""
        broker = make(tokens=TokenLimits(grace=10.0))
        await broker.start()
        token = await broker.tokens.issue(Session(ANN), None)
        answer = await broker.tokens.redeem(token, ANN, ONE)
        assert answer.session is not None
        assert answer.token is not None
        await broker.tokens.detach(answer.session, ONE)
        CLOCK.skip(11.0)
        assert (await broker.tokens.redeem(token, ANN, TWO)).status is RedeemStatus.SPENT
        assert (await broker.tokens.redeem(answer.token, ANN, TWO)).session is not None

    async def test_after_a_poll_the_predecessor_is_good_for_the_lifetime(self, make: Make) -> None:
        """A client that has its token only from an answer may learn late that this was lost."""
        broker = make(tokens=TokenLimits(grace=10.0, lifetime=1000.0))
        await broker.start()
        token = await broker.tokens.issue(Session(ANN), None)
        answer = await broker.tokens.redeem(token, ANN, ONE)
        assert answer.session is not None
        answer.session.is_long_poll = True
        await broker.tokens.detach(answer.session, ONE)
        CLOCK.skip(900.0)
        again = await broker.tokens.redeem(token, ANN, TWO)
        assert (again.status, again.token) == (RedeemStatus.ACCEPTED, answer.token)
        assert again.session is not None
        again.session.is_long_poll = False
        await broker.tokens.detach(again.session, TWO)
        CLOCK.skip(11.0)
        assert (await broker.tokens.redeem(token, ANN, THREE)).status is RedeemStatus.SPENT

    async def test_two_generations_ago_is_unknown(self, broker: Broker) -> None:
        """Only the immediate predecessor is known."""
        token = await broker.tokens.issue(Session(ANN), None)
        current: str = token
        for n in range(2):
            answer = await broker.tokens.redeem(current, ANN, ConnectionId(str(n)))
            assert answer.session is not None
            assert answer.token is not None
            await broker.tokens.detach(answer.session, ConnectionId(str(n)))
            current = answer.token
        assert (await broker.tokens.redeem(token, ANN, THREE)).status is RedeemStatus.UNKNOWN

    async def test_foreign_token_changes_nothing(self, broker: Broker) -> None:
        """Somebody else's token opens nothing, and still opens its owner's session."""
        token = await broker.tokens.issue(Session(ANN), None)
        for other in (UserId("bob"), None):
            answer = await broker.tokens.redeem(token, other, TWO)
            assert (answer.status, answer.session) == (RedeemStatus.FOREIGN, None)
        assert (await broker.tokens.redeem(token, ANN, ONE)).status is RedeemStatus.ACCEPTED

    @pytest.mark.parametrize(
        "token", ["", "x", "A" * 21, "A" * 23, "é" * 22, "A" * 21 + "\n", "A" * 1_000_000, "\ud800"]
    )
    async def test_nonsense_is_unknown(self, broker: Broker, token: str) -> None:
        """What was never issued is unknown, whatever it looks like."""
        assert (await broker.tokens.redeem(token, None, ONE)).status is RedeemStatus.UNKNOWN

    async def test_expires_when_its_connection_has_been_gone_long(self, make: Make) -> None:
        """The lifetime counts from when the connection went, and one that is used lives on."""
        broker = make(tokens=TokenLimits(lifetime=100.0))
        assert broker.token_lifetime == 100.0
        await broker.start()
        session = Session(ANN)
        token = await broker.tokens.issue(session, ONE)
        CLOCK.skip(500.0)
        await broker.tokens.detach(session, ONE)
        CLOCK.skip(99.0)
        answer = await broker.tokens.redeem(token, ANN, TWO)
        assert answer.session is not None
        assert answer.token is not None
        await broker.tokens.detach(answer.session, TWO)
        CLOCK.skip(101.0)
        assert (await broker.tokens.redeem(answer.token, ANN, THREE)).session is None

    async def test_late_detach_does_not_touch_the_successor(self, broker: Broker) -> None:
        """The end of a connection that was taken over leaves the new one attached."""
        token = await broker.tokens.issue(Session(ANN), ONE)
        answer = await broker.tokens.redeem(token, ANN, TWO)
        assert answer.session is not None
        await broker.tokens.detach(answer.session, ONE)
        assert answer.token is not None
        assert (await broker.tokens.redeem(answer.token, ANN, THREE)).taken_over == TWO

    async def test_forget_drops_the_users_detached_sessions(self, broker: Broker) -> None:
        """After a logout the user's tokens open nothing; others' and those in use are left."""
        gone = [await broker.tokens.issue(Session(ANN), None) for _ in range(3)]
        kept = await broker.tokens.issue(Session(ANN), ONE)
        other = await broker.tokens.issue(Session(UserId("bob")), None)
        assert await broker.tokens.forget(ANN) == 3
        assert await broker.tokens.forget(ANN) == 0
        for token in gone:
            assert (await broker.tokens.redeem(token, ANN, TWO)).status is RedeemStatus.UNKNOWN
        assert (await broker.tokens.redeem(kept, ANN, TWO)).status is RedeemStatus.ACCEPTED
        assert (await broker.tokens.redeem(other, UserId("bob"), TWO)).session is not None

    async def test_limits_drop_the_oldest(self, make: Make) -> None:
        """Beyond the limit per user, and that of all, the oldest detached session goes."""
        broker = make(tokens=TokenLimits(per_user=2, total=4))
        await broker.start()
        mine = [await broker.tokens.issue(Session(ANN), None) for _ in range(3)]
        verdicts = [(await broker.tokens.redeem(t, ANN, ONE)).status for t in mine]
        assert verdicts == [RedeemStatus.UNKNOWN, RedeemStatus.ACCEPTED, RedeemStatus.ACCEPTED]
        unnamed = [await broker.tokens.issue(Session(None), None) for _ in range(6)]
        accepted = [(await broker.tokens.redeem(t, None, ONE)).session is not None for t in unnamed]
        assert accepted == [False, False, True, True, True, True]

    async def test_one_redeems_when_several_try(self, broker: Broker) -> None:
        """Of several who present a token at once, one gets the session, the others copies."""
        token = await broker.tokens.issue(Session(ANN), None)
        answers = await asyncio.gather(
            *(broker.tokens.redeem(token, ANN, ConnectionId(str(n))) for n in range(5))
        )
        assert {answer.status for answer in answers} == {RedeemStatus.ACCEPTED}
        assert all(answer.taken_over is None for answer in answers)
        assert len({answer.token for answer in answers}) == 5
        assert len({id(answer.session) for answer in answers}) == 5

    async def test_tokens_survive_a_restart_of_the_broker(self, make: Make) -> None:
        """Sessions are there again after close and start."""
        broker = make()
        await broker.start()
        token = await broker.tokens.issue(Session(ANN), None)
        await broker.close()
        await broker.start()
        assert (await broker.tokens.redeem(token, ANN, ONE)).status is RedeemStatus.ACCEPTED

    async def test_token_is_in_no_repr(self, broker: Broker) -> None:
        """Neither a session nor an answer shows its token."""
        session = Session(ANN)
        token = await broker.tokens.issue(session, None)
        answer = await broker.tokens.redeem(token, ANN, ONE)
        assert answer.token is not None
        shown = f"{session!r} {answer!r} {broker!r} {broker.tokens!r}"
        assert token not in shown
        assert answer.token not in shown
