"""Sessions whose connections ended while Redis was unreachable."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from redis.asyncio import Redis

from holdfast.brokers.redis import RedisBroker
from holdfast.core.cursor import Cursor, Epoch, Position
from holdfast.core.message import Offset, UserId
from holdfast.core.tokens import ConnectionId, Session
from tests.support.processes import HOST
from tests.support.redis_server import RedisServer

ANN = UserId("ann")


async def test_a_detach_that_fails_again_stays_pending() -> None:
    """A detach that fails twice is sent again when Redis is back."""
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        async with Redis(host=HOST, port=server.port) as client:
            broker = RedisBroker(client, timeout=1.0)
            changed: asyncio.Queue[bool] = asyncio.Queue()
            broker.on_availability(changed.put_nowait)
            await broker.start()
            session, here = Session(ANN), ConnectionId("here")
            token = await broker.tokens.issue(session, here)
            end = replace(session, position=Position(Epoch("e"), Cursor.at(Offset(7))))
            server.kill()
            await broker.tokens.detach(here, end)
            for _ in range(3):
                broker.tokens.send_pending_detaches()
                await broker._scripts.wait_idle()
            server.start()
            async with asyncio.timeout(15):
                while not await changed.get():
                    pass
            await broker._scripts.wait_idle()
            back = await broker.tokens.redeem(token, ANN, ConnectionId("there"))
            assert (back.session, back.taken_over) == (end, None)
            await broker.close()


async def test_a_cancelled_detach_is_pending() -> None:
    """A cancelled detach is sent when Redis is back, as any other."""
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        async with Redis(host=HOST, port=server.port) as client:
            broker = RedisBroker(client, timeout=1.0)
            changed: asyncio.Queue[bool] = asyncio.Queue()
            broker.on_availability(changed.put_nowait)
            await broker.start()
            session, here = Session(ANN), ConnectionId("here")
            token = await broker.tokens.issue(session, here)
            server.kill()
            leaving = asyncio.create_task(broker.tokens.detach(here, session))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            await broker._scripts.wait_idle()
            server.start()
            async with asyncio.timeout(15):
                while not await changed.get():
                    pass
            await broker._scripts.wait_idle()
            back = await broker.tokens.redeem(token, ANN, ConnectionId("there"))
            assert (back.session, back.taken_over) == (session, None)
            await broker.close()
