"""Tokens across nodes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from redis.asyncio import Redis

from holdfast.brokers.redis import keys
from holdfast.core.cursor import Cursor, Position
from holdfast.core.message import Offset, UserId
from holdfast.core.tokens import ConnectionId, RedeemStatus, Session
from tests.brokers.redis.conftest import Start

ANN = UserId("ann: a/b {c} é")
ONE, TWO, THREE = map(ConnectionId, "123")


async def test_many_nodes_redeem_one_token_at_once(start: Start) -> None:
    """One connection gets the session, the others get copies, and no two get the same token."""
    nodes = [await start() for _ in range(5)]
    for _ in range(10):
        token = await nodes[0].tokens.issue(Session(ANN, {"t": Offset(1)}), None)
        answers = await asyncio.gather(
            *(
                node.tokens.redeem(token, ANN, ConnectionId(f"{n} {turn}"))
                for turn in range(3)
                for n, node in enumerate(nodes)
            )
        )
        assert {answer.status for answer in answers} == {RedeemStatus.ACCEPTED}
        assert len({answer.token for answer in answers}) == 15
        assert all(answer.taken_over is None for answer in answers)
        assert all(answer.session and answer.session.user == ANN for answer in answers)


async def test_another_node_restores_what_was_saved(start: Start) -> None:
    """Subscriptions and position come back on another node, even from a node that was killed."""
    first, second, third = [await start() for _ in range(3)]
    epoch = (await first.head()).epoch
    session = Session(ANN, {"t": Offset(3)}, frozenset({"t"}))
    token = await first.tokens.issue(session, ONE)
    saved = replace(session, subscriptions={"u.*": Offset(4)})
    assert await first.tokens.save(ONE, saved)
    answer = await second.tokens.redeem(token, ANN, TWO)
    assert (answer.session, answer.taken_over) == (saved, ONE)
    end = replace(saved, position=Position(epoch, Cursor.at(9)), acknowledged=True)
    await second.tokens.detach(TWO, end)
    await first.tokens.detach(ONE, session)  # late, and without effect
    assert answer.token is not None
    answer = await third.tokens.redeem(answer.token, ANN, THREE)
    assert (answer.session, answer.taken_over) == (end, None)


async def test_node_that_lost_a_session_does_not_save_it(start: Start) -> None:
    """After a takeover on another node, `save` returns False and changes nothing."""
    first, second = await start(), await start()
    session = Session(ANN, {"t": Offset(3)})
    token = await first.tokens.issue(session, ONE)
    answer = await second.tokens.redeem(token, ANN, TWO)
    assert not await first.tokens.save(ONE, replace(session, subscriptions={}))
    await second.tokens.detach(TWO, None)
    assert answer.token is not None
    assert (await first.tokens.redeem(answer.token, ANN, THREE)).session == session


async def test_save_that_is_overtaken_by_the_end_leaves_nothing(start: Start) -> None:
    """A connection that ends while its `save` is under way has no session here afterwards."""
    broker = await start()
    session = Session(ANN, {"t": Offset(3)})
    token = await broker.tokens.issue(session, ONE)
    saving = asyncio.create_task(broker.tokens.save(ONE, session))
    await asyncio.sleep(0)
    end = replace(session, subscriptions={})
    await broker.tokens.detach(ONE, end)
    assert await saving
    assert broker.tokens._session_names == {}
    assert (await broker.tokens.redeem(token, ANN, TWO)).session == end


async def test_redis_never_sees_a_token(client: Redis, namespace: str, start: Start) -> None:
    """No key and no value of the namespace has a token in it, before or after it was redeemed."""
    broker = await start()
    token = await broker.tokens.issue(Session(ANN), None)
    answer = await broker.tokens.redeem(token, ANN, ONE)
    assert answer.token is not None
    seen = b""
    async for key in client.scan_iter(match=f"{keys.prefix(namespace)}*"):
        seen += key + await client.dump(key)
    for secret in (token, answer.token):
        assert secret.encode() not in seen


async def test_position_is_handed_out_once(start: Start) -> None:
    """A connection moves on from its stored position, so the one that takes it over gets none."""
    first, second = await start(), await start()
    epoch = (await first.head()).epoch
    token: str = await first.tokens.issue(Session(ANN), ONE)
    stored = Session(ANN, position=Position(epoch, Cursor.at(1)), acknowledged=True)
    await first.tokens.detach(ONE, stored)
    sessions = []
    for name in (TWO, THREE):  # THREE while TWO looks alive, on another node
        answer = await second.tokens.redeem(token, ANN, name)
        assert answer.token is not None
        sessions.append(answer.session)
        token = answer.token
    assert sessions == [stored, Session(ANN)]
