"""Tokens across nodes."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from holdfast.brokers.redis import keys
from holdfast.core.cursor import Cursor, Position
from holdfast.core.message import Offset, UserId
from holdfast.core.tokens import ConnectionId, RedeemStatus, Session
from tests.brokers.redis.conftest import Start

ANN = UserId("ann: a/b {c} é")


async def test_many_nodes_redeem_one_token_at_once(start: Start) -> None:
    """One of them gets the session, the others copies; no two get the same token."""
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


async def test_another_node_restores_what_was_recorded(start: Start) -> None:
    """Subscriptions and position come back on another node, also of one that was killed."""
    first, second = await start(), await start()
    epoch = (await first.head()).epoch
    session = Session(ANN, {"t": Offset(3)}, frozenset({"t"}))
    token = await first.tokens.issue(session, ConnectionId("1"))
    session.subscriptions = {"u.*": Offset(4)}
    await first.tokens.record(session)
    answer = await second.tokens.redeem(token, ANN, ConnectionId("2"))
    assert answer.taken_over == "1"
    assert answer.session is not None
    assert answer.session.subscriptions == {"u.*": 4}
    answer.session.position, answer.session.acknowledged = Position(epoch, Cursor.at(9)), True
    await second.tokens.detach(answer.session, ConnectionId("2"))
    await first.tokens.detach(session, ConnectionId("1"))  # late, and of no consequence
    assert answer.token is not None
    third = await (await start()).tokens.redeem(answer.token, ANN, ConnectionId("3"))
    assert third.session is not None
    assert third.session.position == Position(epoch, Cursor.at(9))
    assert third.taken_over is None


async def test_redis_never_sees_a_token(client: Redis, hub: str, start: Start) -> None:
    """No key and no value of the hub has a token in it, before or after it was redeemed."""
    broker = await start()
    token = await broker.tokens.issue(Session(ANN), None)
    answer = await broker.tokens.redeem(token, ANN, ConnectionId("1"))
    assert answer.token is not None
    seen = b""
    async for key in client.scan_iter(match=f"{keys.prefix(hub)}*"):
        seen += key + await client.dump(key)
    for secret in (token, answer.token):
        assert secret.encode() not in seen


async def test_a_position_is_good_until_the_session_is_held_again(start: Start) -> None:
    """What a connection has had since is not known elsewhere, so nobody resumes from before it."""
    first, second = await start(), await start()
    epoch = (await first.head()).epoch
    session = Session(ANN)
    token: str = await first.tokens.issue(session, ConnectionId("1"))
    session.position, session.acknowledged = Position(epoch, Cursor.at(1)), True
    await first.tokens.detach(session, ConnectionId("1"))
    positions = []
    for name in ("2", "3"):  # the second one while the first looks alive, on another node
        answer = await second.tokens.redeem(token, ANN, ConnectionId(name))
        assert answer.session is not None
        assert answer.token is not None
        positions.append(answer.session.position)
        token = answer.token
    assert positions == [Position(epoch, Cursor.at(1)), None]
