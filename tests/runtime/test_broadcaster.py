"""Broadcaster: what an application asks of it, and two that share a broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import Broadcaster, ConfigurationError, MemoryBroker, Priority, Reason, Refused
from holdfast.runtime.lifecycle import BroadcasterState
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader
from tests.support.node import node_of
from tests.support.virtual_loop import run_ready


class TestConnections:
    """Looking at and ending connections from the application."""

    async def test_outbox_is_the_owners_alone(self) -> None:
        """A connection is found by its id and its user, and by nobody else."""
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(user="ann", topics=["t"]) as connection:
                id = connection.id
                assert broadcaster.connection(id, user="ann") is connection
                assert broadcaster.connection(id, user="bob") is None
                assert broadcaster.connection(id) is None
                assert broadcaster.connection("", user="ann") is None
                assert broadcaster.connections_of("ann") == [connection]
            assert broadcaster.connection(id, user="ann") is None
            assert broadcaster.connections_of("ann") == []

    async def test_disconnect(self) -> None:
        """A connection ends with the reason given; an unknown id is False."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            assert broadcaster.disconnect(connection.id, Reason.FORBIDDEN)
            assert [seen.data for seen in await reader.rest()] == [
                {"reason": "forbidden", "reconnect": False}
            ]
            assert not broadcaster.disconnect("nonsense")

    async def test_logout_ends_connections_and_tokens(self) -> None:
        """After a logout the user's streams are over, and no token of theirs opens anything."""
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(user="ann", topics=["t"]) as gone:
                before = (await FrameReader(gone).first_frame()).id
            async with (
                broadcaster.connect(user="ann", topics=["t"]) as connection,
                broadcaster.connect(user="bob", topics=["t"]) as other,
            ):
                reader = FrameReader(connection)
                at = (await reader.first_frame()).id
                bob = FrameReader(other)
                await bob.first_frame()
                await broadcaster.disconnect_user("ann")
                await reader.rest()
                await bob.assert_no_frame()
            for last_id in (before, at):
                async with broadcaster.connect(
                    user="ann", topics=["t"], last_event_id=last_id
                ) as connection:
                    first_frame = await FrameReader(connection).first_frame()
                    assert first_frame.data["session"] == "gap"
                    assert first_frame.data["gap"]["cause"] == "unknown"

    async def test_position_leaves_no_window(self) -> None:
        """What is published between rendering a page and its subscription is delivered."""
        async with Broadcaster() as broadcaster:
            await broadcaster.publish("t", "rendered")
            at = await broadcaster.position(["t", "u"], user="ann")
            await broadcaster.publish("t", 1)
            await broadcaster.publish("v", "not asked for")
            await broadcaster.publish_to_user("ann", 2)
            async with broadcaster.connect(
                user="ann", topics=["t", "u"], last_event_id=at
            ) as connection:
                reader = FrameReader(connection)
                first_frame = await reader.first_frame()
                assert (first_frame.data["session"], first_frame.data["replay"]) == ("resumed", 2)
                await broadcaster.publish("u", 3)
                assert await reader.take(3) == [1, 2, 3]

    async def test_position_is_no_key_to_anything(self) -> None:
        """A rendered position opens nothing for another user, and is checked by rights of now."""
        async with Broadcaster() as broadcaster:
            at = await broadcaster.position(["t"], user="ann")
            await broadcaster.publish("t", "secret")

            async def never(topic: str) -> bool:
                return False

            async with broadcaster.connect(
                user="bob", topics=["t"], last_event_id=at, may_subscribe=never
            ) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["session"] == "gap"
                await reader.assert_no_frame()
            async with broadcaster.connect(
                user="ann", topics=["t"], last_event_id=at, may_subscribe=never
            ) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["rejected"] == ["t"]
                await reader.assert_no_frame()

    async def test_position_refuses_bad_topics(self) -> None:
        """A position of what is no topic, or of too many, is refused."""
        async with Broadcaster(max_topics=2) as broadcaster:
            for topics in (["a b"], ["a", "b", "c"], ["$user"]):
                with pytest.raises(Refused):
                    await broadcaster.position(topics)


class TestTwoNodes:
    """Two broadcasters that share a broker."""

    @pytest.mark.parametrize("make", [MemoryBroker, DelayedBroker])
    async def test_both_deliver_and_resume_each_others_clients(self, make: Any) -> None:
        """A message published on either reaches both, and a client resumes on the other."""
        broker = make()
        async with Broadcaster(broker=broker) as left, Broadcaster(broker=broker) as right:
            nodes = [left, right]
            at, expected = None, 0
            for turn in range(6):
                async with nodes[turn % 2].connect(
                    user="ann", topics=["t"], last_event_id=at
                ) as connection:
                    reader = FrameReader(connection)
                    first_frame = await reader.first_frame()
                    assert first_frame.data["session"] == ("resumed" if turn else "fresh")
                    await nodes[(turn + 1) % 2].publish("t", turn)
                    found = await reader.take(turn + 1 - expected)
                    assert found == list(range(expected, turn + 1))
                    expected, at = turn + 1, reader.last_id
                if turn % 2:
                    await right.publish("u", "not ours")

    async def test_closing_one_leaves_the_other_running(self) -> None:
        """A node that stops does not take the shared broker with it."""
        broker = MemoryBroker()
        async with Broadcaster(broker=broker) as stays, stays.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            async with Broadcaster(broker=broker) as goes:
                await goes.publish("t", 1)
            await run_ready()
            await stays.publish("t", 2)
            assert await reader.take(2) == [1, 2]
            assert stays.state is BroadcasterState.RUNNING

    async def test_client_that_is_ahead_of_a_lagging_node(self) -> None:
        """Resumed on a node whose feed lags, a client gets each message once, none before."""
        broker = MemoryBroker()
        lagging = DelayedBroker(make=lambda: broker)
        async with Broadcaster(broker=broker) as ahead, Broadcaster(broker=lagging) as behind:
            await run_ready()
            async with ahead.connect(user="ann", topics=["t"]) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                await run_ready()
                lagging.feed_gate.clear()
                for n in range(10):
                    await ahead.publish("t", n, priority=Priority(n % 4))
                await run_ready()
                seen = await reader.take(10)
                await ahead.publish("t", 10)
                at = reader.last_id
            connecting = asyncio.create_task(
                self.collect(behind, at, 2)  # the node learns of all that only now
            )
            await run_ready()
            lagging.release()
            await run_ready()
            await ahead.publish("t", 11)
            assert await asyncio.wait_for(connecting, 5.0) == [10, 11]
            assert sorted(seen) == list(range(10))

    @staticmethod
    async def collect(node: Broadcaster, at: str, count: int) -> list[Any]:
        """Resume on a node, and read so many messages."""
        async with node.connect(user="ann", topics=["t"], last_event_id=at) as connection:
            reader = FrameReader(connection)
            assert (await reader.first_frame()).data["session"] == "resumed"
            found = await reader.take(count)
            await reader.assert_no_frame()
            return found

    async def test_session_taken_to_another_node_leaves_no_trace(self) -> None:
        """When a client has moved on, its ghost on the first node ends without harm."""
        broker = MemoryBroker()
        async with (
            Broadcaster(broker=broker) as left,
            Broadcaster(broker=broker) as right,
            left.connect(user="ann", topics=["t", "u"]) as ghost,
        ):
            at = (await FrameReader(ghost).first_frame()).id
            async with right.connect(user="ann", topics=["t"], last_event_id=at) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["session"] == "resumed"
                ghost.mark_lost()
                node_of(left).unregister(ghost)
                await left.publish("u", "nobody's now")
                await left.publish("t", 1)
                assert await reader.take(1) == [1]
                await run_ready()
                assert left.state is BroadcasterState.RUNNING
                assert not node_of(left).registry.has_listeners("u")


class TestOptions:
    """What the constructor refuses."""

    def test_memory_options_beside_a_broker(self) -> None:
        """Options of the memory broker are refused beside a broker, by name."""
        with pytest.raises(ConfigurationError, match="history_limit, token_grace"):
            Broadcaster(broker=MemoryBroker(), history_limit=5, token_grace=1.0)

    def test_making_one_needs_no_loop(self) -> None:
        """A Broadcaster can be made at import time, outside any event loop."""
        assert Broadcaster().state is BroadcasterState.NEW
