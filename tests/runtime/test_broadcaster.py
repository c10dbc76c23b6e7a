"""Broadcaster: the methods for applications, and two nodes that share a broker."""

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
    """The connections that an application reads and ends."""

    async def test_connection_is_found_by_its_user_only(self) -> None:
        """A connection is found by its id together with its user."""
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
        """`disconnect` closes with the given reason, and returns False for an unknown id."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            assert broadcaster.disconnect(connection.id, Reason.FORBIDDEN)
            assert [frame.data for frame in await reader.rest()] == [
                {"reason": "forbidden", "reconnect": False}
            ]
            assert not broadcaster.disconnect("nonsense")

    async def test_disconnect_user_ends_connections_and_tokens(self) -> None:
        """`disconnect_user` ends the connections and the sessions of one user."""
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(user="ann", topics=["t"]) as ended:
                ended_id = (await FrameReader(ended).first_frame()).id
            async with (
                broadcaster.connect(user="ann", topics=["t"]) as connection,
                broadcaster.connect(user="bob", topics=["t"]) as other,
            ):
                reader = FrameReader(connection)
                event_id = (await reader.first_frame()).id
                other_reader = FrameReader(other)
                await other_reader.first_frame()
                await broadcaster.disconnect_user("ann")
                await reader.rest()
                await other_reader.assert_no_frame()
            for last_id in (ended_id, event_id):
                async with broadcaster.connect(
                    user="ann", topics=["t"], last_event_id=last_id
                ) as connection:
                    first_frame = await FrameReader(connection).first_frame()
                    assert first_frame.data["session"] == "gap"
                    assert first_frame.data["gap"]["cause"] == "unknown"

    async def test_position_of_a_page_loses_no_message(self) -> None:
        """A message between the rendering of a page and its subscription is delivered."""
        async with Broadcaster() as broadcaster:
            await broadcaster.publish("t", "rendered")
            event_id = await broadcaster.position(["t", "u"], user="ann")
            await broadcaster.publish("t", 1)
            await broadcaster.publish("v", "not subscribed")
            await broadcaster.publish_to_user("ann", 2)
            async with broadcaster.connect(
                user="ann", topics=["t", "u"], last_event_id=event_id
            ) as connection:
                reader = FrameReader(connection)
                first_frame = await reader.first_frame()
                assert (first_frame.data["session"], first_frame.data["replay"]) == ("resumed", 2)
                await broadcaster.publish("u", 3)
                assert await reader.take(3) == [1, 2, 3]

    async def test_position_gives_no_permission(self) -> None:
        """A position opens no session of another user, and its topics are authorized again."""
        async with Broadcaster() as broadcaster:
            event_id = await broadcaster.position(["t"], user="ann")
            await broadcaster.publish("t", "secret")

            async def may_subscribe(topic: str) -> bool:
                return False

            async with broadcaster.connect(
                user="bob", topics=["t"], last_event_id=event_id, may_subscribe=may_subscribe
            ) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["session"] == "gap"
                await reader.assert_no_frame()
            async with broadcaster.connect(
                user="ann", topics=["t"], last_event_id=event_id, may_subscribe=may_subscribe
            ) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["rejected"] == ["t"]
                await reader.assert_no_frame()

    async def test_position_refuses_bad_topics(self) -> None:
        """`position` refuses an invalid topic, and too many topics."""
        async with Broadcaster(max_topics=2) as broadcaster:
            for topics in (["a b"], ["a", "b", "c"], ["$user"]):
                with pytest.raises(Refused):
                    await broadcaster.position(topics)


class TestTwoNodes:
    """Two nodes that share a broker."""

    @pytest.mark.parametrize("make", [MemoryBroker, DelayedBroker])
    async def test_client_resumes_on_either_node(self, make: Any) -> None:
        """A message reaches both nodes, and a client resumes on either."""
        broker = make()
        async with Broadcaster(broker=broker) as first, Broadcaster(broker=broker) as second:
            nodes = [first, second]
            event_id, expected = None, 0
            for turn in range(6):
                async with nodes[turn % 2].connect(
                    user="ann", topics=["t"], last_event_id=event_id
                ) as connection:
                    reader = FrameReader(connection)
                    first_frame = await reader.first_frame()
                    assert first_frame.data["session"] == ("resumed" if turn else "fresh")
                    await nodes[(turn + 1) % 2].publish("t", turn)
                    received = await reader.take(turn + 1 - expected)
                    assert received == list(range(expected, turn + 1))
                    expected, event_id = turn + 1, reader.last_id
                if turn % 2:
                    await second.publish("u", "not subscribed")

    async def test_node_that_stops_leaves_the_broker_open(self) -> None:
        """A node that stops leaves the shared broker open."""
        broker = MemoryBroker()
        async with (
            Broadcaster(broker=broker) as running,
            running.connect(topics=["t"]) as connection,
        ):
            reader = FrameReader(connection)
            await reader.first_frame()
            async with Broadcaster(broker=broker) as stopping:
                await stopping.publish("t", 1)
            await run_ready()
            await running.publish("t", 2)
            assert await reader.take(2) == [1, 2]
            assert running.state is BroadcasterState.RUNNING

    async def test_client_that_is_ahead_of_a_lagging_node(self) -> None:
        """A client that resumes on a node whose feed lags gets each message once."""
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
                received = await reader.take(10)
                await ahead.publish("t", 10)
                event_id = reader.last_id
            connecting = asyncio.create_task(self.collect(behind, event_id, 2))
            await run_ready()
            lagging.release()
            await run_ready()
            await ahead.publish("t", 11)
            assert await asyncio.wait_for(connecting, 5.0) == [10, 11]
            assert sorted(received) == list(range(10))

    @staticmethod
    async def collect(node: Broadcaster, event_id: str, count: int) -> list[Any]:
        """Resume on a node, and return the data of the next `count` messages."""
        async with node.connect(user="ann", topics=["t"], last_event_id=event_id) as connection:
            reader = FrameReader(connection)
            assert (await reader.first_frame()).data["session"] == "resumed"
            received = await reader.take(count)
            await reader.assert_no_frame()
            return received

    async def test_session_taken_over_by_another_node(self) -> None:
        """A connection whose session was taken over by another node ends without an effect."""
        broker = MemoryBroker()
        async with (
            Broadcaster(broker=broker) as first,
            Broadcaster(broker=broker) as second,
            first.connect(user="ann", topics=["t", "u"]) as taken_over,
        ):
            event_id = (await FrameReader(taken_over).first_frame()).id
            async with second.connect(
                user="ann", topics=["t"], last_event_id=event_id
            ) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["session"] == "resumed"
                taken_over.mark_lost()
                node_of(first).unregister(taken_over)
                await first.publish("u", "no subscriber")
                await first.publish("t", 1)
                assert await reader.take(1) == [1]
                await run_ready()
                assert first.state is BroadcasterState.RUNNING
                assert not node_of(first).registry.has_listeners("u")


class TestOptions:
    """Errors of the constructor."""

    def test_memory_options_beside_a_broker(self) -> None:
        """Options of the memory broker are refused beside `broker`, by name."""
        with pytest.raises(ConfigurationError, match="history_limit, token_grace"):
            Broadcaster(broker=MemoryBroker(), history_limit=5, token_grace=1.0)

    def test_constructor_needs_no_event_loop(self) -> None:
        """A Broadcaster can be made outside any event loop."""
        assert Broadcaster().state is BroadcasterState.NEW
