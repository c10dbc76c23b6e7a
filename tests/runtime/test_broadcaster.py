"""Broadcaster: its life, what an application asks of it, and two that share a broker."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import anyio.to_thread
import pytest

from holdfast import (
    Broadcaster,
    BroadcasterFailed,
    CloseReason,
    ConfigurationError,
    InvalidTopic,
    MemoryBroker,
    NotRunning,
    Priority,
    Refused,
    WrongThread,
)
from holdfast.runtime.lifecycle import BroadcasterState
from tests.support.brokers import LateBroker
from tests.support.reading import Reader
from tests.support.virtual import run_virtual, settle

REAL = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For tests with threads: a virtual clock would not wait for them."""


class TestLife:
    """Start, stop, failure."""

    async def test_used_before_start_and_after_close(self) -> None:
        """Every call that needs it running says so, and says what to do."""
        broadcaster = Broadcaster()
        for _ in range(2):
            with pytest.raises(NotRunning, match="lifespan"):
                await broadcaster.publish("t", 1)
            with pytest.raises(NotRunning):
                await broadcaster.publish_to_user("ann", 1)
            with pytest.raises(NotRunning):
                await broadcaster.position(["t"])
            with pytest.raises(NotRunning):
                broadcaster.publish_from_thread("t", 1)
            with pytest.raises(NotRunning):
                async with broadcaster.connect(topics=["t"]):
                    pass
            async with broadcaster:
                await broadcaster.publish("t", 1)
            assert broadcaster.state is BroadcasterState.CLOSED

    async def test_entered_twice_is_an_error_and_changes_nothing(self) -> None:
        """A second enter raises, and the first goes on running."""
        async with Broadcaster() as broadcaster:
            with pytest.raises(NotRunning, match="already"):
                await broadcaster.__aenter__()
            await broadcaster.publish("t", 1)

    async def test_started_again_continues_the_log(self) -> None:
        """After close and start, a client of before resumes without loss."""
        broadcaster = Broadcaster()
        async with broadcaster, broadcaster.connect(topics=["t"]) as outbox:
            reader = Reader(outbox)
            await reader.hello()
            await broadcaster.publish("t", 1)
            assert await reader.take(1) == [1]
            await broadcaster.publish("t", 2)
        async with broadcaster:
            await broadcaster.publish("t", 3)
            async with broadcaster.connect(topics=["t"], last_event_id=reader.last_id) as outbox:
                reader = Reader(outbox)
                assert (await reader.hello()).data["session"] == "resumed"
                assert await reader.take(2) == [2, 3]

    def test_started_again_in_another_loop(self) -> None:
        """It may be started again in a new event loop, and everything works there."""
        broadcaster = Broadcaster(heartbeat_interval=10.0)

        async def once() -> None:
            async with broadcaster, broadcaster.connect(topics=["t"]) as outbox:
                reader = Reader(outbox, patience=20.0)
                await reader.hello()
                await broadcaster.publish("t", 1)
                assert await reader.take(1) == [1]
                heartbeat = await reader.frame()
                assert heartbeat is not None
                assert heartbeat.type == "heartbeat"
                assert not await broadcaster.drain(0.5)
            assert broadcaster.state is BroadcasterState.CLOSED

        run_virtual(once())
        run_virtual(once())

    async def test_close_ends_every_stream(self) -> None:
        """Leaving the block tells each connection to end, and leaves no task behind."""
        before = asyncio.all_tasks()
        ends: list[list[str]] = []

        async def client(broadcaster: Broadcaster) -> None:
            async with broadcaster.connect(topics=["t"]) as outbox:
                ends.append([seen.type for seen in await Reader(outbox).rest()])

        async with Broadcaster() as broadcaster:
            clients = [asyncio.create_task(client(broadcaster)) for _ in range(3)]
            await settle()
        await asyncio.wait_for(asyncio.gather(*clients), 1.0)
        assert ends == [["connection_established", "closing"]] * 3
        await settle()
        assert asyncio.all_tasks() == before

    async def test_error_in_the_block_passes_through(self) -> None:
        """What the block raises is what the caller gets, and the broadcaster is closed."""
        broadcaster = Broadcaster()
        with pytest.raises(ZeroDivisionError):
            async with broadcaster:
                raise ZeroDivisionError
        assert broadcaster.state is BroadcasterState.CLOSED

    @pytest.mark.parametrize("cancels", [1, 2, 3])
    async def test_cancelled_while_closing_is_closed_all_the_same(self, cancels: int) -> None:
        """However often the owner is cancelled, also while it drains, nothing is left running."""
        before = asyncio.all_tasks()
        broadcaster = Broadcaster()

        async def own() -> None:
            async with broadcaster, broadcaster.connect(topics=["t"]):
                await asyncio.sleep(3600)

        owner = asyncio.create_task(own())
        await settle()
        for _ in range(cancels):
            owner.cancel()
            await settle(3)
        await asyncio.wait_for(asyncio.wait([owner]), 10.0)
        await settle()
        assert broadcaster.state is BroadcasterState.CLOSED
        assert asyncio.all_tasks() == before
        with pytest.raises(NotRunning):
            await broadcaster.publish("t", 1)

    async def test_broker_that_does_not_start_leaves_it_stopped(self) -> None:
        """If the broker fails at start, so does the broadcaster, and it can be tried again."""

        class Unreachable(LateBroker):
            async def start(self) -> None:
                if not attempts:
                    attempts.append(1)
                    raise ConnectionError("refused")
                await super().start()

        attempts: list[int] = []
        broadcaster = Broadcaster(broker=Unreachable())
        with pytest.raises(ConnectionError):
            async with broadcaster:
                pass
        with pytest.raises(NotRunning):
            await broadcaster.publish("t", 1)
        async with broadcaster:
            await broadcaster.publish("t", 1)

    async def test_dead_task_fails_everyone_who_waits(self) -> None:
        """When the feed dies, streams end as failed, and publish and connect raise the cause."""
        broker = LateBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            ends = []

            async def client() -> None:
                async with broadcaster.connect(topics=["t"]) as outbox:
                    ends.append((await Reader(outbox).rest())[-1].data)

            clients = [asyncio.create_task(client()) for _ in range(3)]
            await settle()
            await broker.die(ConnectionError("the line is cut"))
            await asyncio.wait_for(asyncio.gather(*clients), 1.0)
            assert ends == [{"reason": "failed", "reconnect": True}] * 3
            assert broadcaster.state is BroadcasterState.FAILED
            with pytest.raises(BroadcasterFailed) as caught:
                await broadcaster.publish("t", 1)
            assert isinstance(caught.value.__cause__, ConnectionError)
            with pytest.raises(BroadcasterFailed):
                async with broadcaster.connect(topics=["t"]):
                    pass

    async def test_connection_that_opens_while_the_feed_dies_does_not_hang(self) -> None:
        """A client that is being let in when the feed dies is refused or told, not left alone."""
        broker = LateBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            asked, answer = asyncio.Event(), asyncio.Event()

            async def may(topic: str) -> bool:
                asked.set()
                return await answer.wait()

            async def client() -> None:
                with contextlib.suppress(BroadcasterFailed, Refused):
                    async with broadcaster.connect(topics=["t"], may_subscribe=may) as outbox:
                        await Reader(outbox, patience=3600).rest()

            task = asyncio.create_task(client())
            await asked.wait()
            await broker.die(ConnectionError())
            await settle()
            answer.set()
            done, _ = await asyncio.wait([task], timeout=10.0)
            assert done

    async def test_lost_log_is_declared(self) -> None:
        """When the log is another one, streams end, and who comes back is told: restart."""
        broker = LateBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            async with broadcaster.connect(topics=["t"]) as outbox:
                reader = Reader(outbox)
                await reader.hello()
                await broadcaster.publish("t", 1)
                await reader.take(1)
                at = reader.last_id
                await broker.restart()
                await broadcaster.publish("t", 2)
                closing = (await reader.rest())[-1]
                assert closing.type == "closing"
            for last_id in (at, closing.id):
                async with broadcaster.connect(topics=["t"], last_event_id=last_id) as outbox:
                    hello = await Reader(outbox).hello()
                assert hello.data["session"] == "gap"
                assert hello.data["gap"]["cause"] == "restart"

    async def test_position_of_a_lost_log_is_not_taken_for_one_of_the_new(self) -> None:
        """A session of a lost log, resumed by its token alone, hides nothing that comes after."""
        broker = LateBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            async with broadcaster.connect(user="ann", topics=["t"]) as outbox:
                reader = Reader(outbox)
                hello = await reader.hello()
                for n in range(20):
                    await broadcaster.publish("t", n)
                await reader.take(20)
                await broker.restart()
                await broadcaster.publish("t", "new")
                await reader.rest()
            async with broadcaster.connect(
                user="ann", topics=["t"], token=hello.data["reconnectToken"]
            ) as outbox:
                reader = Reader(outbox)
                assert (await reader.hello()).data["session"] == "gap"
                await broadcaster.publish("t", "after")
                seen = [await reader.take(1)]
                if seen == [["new"]]:
                    seen = [await reader.take(1)]
                assert seen == [["after"]]


class TestThreads:
    """Calls from elsewhere than the broadcaster's own loop."""

    @REAL
    async def test_publish_from_thread(self) -> None:
        """A worker thread publishes, and gets the offset, or the publisher's own mistake."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as outbox:
            reader = Reader(outbox)
            await reader.hello()
            offset = await anyio.to_thread.run_sync(
                lambda: broadcaster.publish_from_thread("t", 1, priority=Priority.HIGH, timeout=5)
            )
            assert offset == broadcaster.statistics().position + 0 or offset > 0
            assert await reader.take(1) == [1]
            with pytest.raises(InvalidTopic):
                await anyio.to_thread.run_sync(lambda: broadcaster.publish_from_thread("", 1))

    async def test_publish_from_thread_in_the_loop_raises(self) -> None:
        """In the loop itself, where it would wait for ever, it raises and publishes nothing."""
        async with Broadcaster() as broadcaster:
            with pytest.raises(WrongThread, match="await"):
                broadcaster.publish_from_thread("t", 1)
            assert broadcaster.statistics().published == 0

    @REAL
    async def test_publish_in_another_loop_raises(self) -> None:
        """The coroutine methods raise in a loop of another thread, before anything is queued."""
        async with Broadcaster() as broadcaster:
            errors: list[BaseException] = []

            async def elsewhere() -> None:
                for call in (broadcaster.publish("t", 1), broadcaster.position(["t"])):
                    try:
                        await call
                    except WrongThread as error:
                        errors.append(error)

            def other() -> None:
                asyncio.run(elsewhere())

            thread = threading.Thread(target=other)
            thread.start()
            await anyio.to_thread.run_sync(thread.join)
            assert len(errors) == 2
            assert broadcaster.statistics().published == 0

    @REAL
    async def test_publish_from_thread_times_out(self) -> None:
        """If the broker does not answer, the thread gets TimeoutError instead of hanging."""
        broker = LateBroker()
        async with Broadcaster(broker=broker) as broadcaster:
            broker.hold()
            with pytest.raises(TimeoutError):
                await anyio.to_thread.run_sync(
                    lambda: broadcaster.publish_from_thread("t", 1, timeout=0.05)
                )
            broker.release()


class TestDrain:
    """Ending on request."""

    async def test_drain_ends_streams_and_refuses_new_ones(self) -> None:
        """Connections are told to come back, new ones refused, and drain says that all ended."""
        async with Broadcaster() as broadcaster:

            async def client() -> dict[str, Any]:
                async with broadcaster.connect(topics=["t"]) as outbox:
                    return dict((await Reader(outbox).rest())[-1].data)

            clients = [asyncio.create_task(client()) for _ in range(5)]
            await settle()
            assert await broadcaster.drain(1.0)
            await settle()
            assert [task.result() for task in clients] == [
                {"reason": "drain", "reconnect": True}
            ] * 5
            with pytest.raises(Refused) as caught:
                async with broadcaster.connect(topics=["t"]):
                    pass
            assert (caught.value.status, caught.value.close_code) == (503, 1012)
            await broadcaster.publish("t", "still works")

    async def test_drain_gives_up_in_time(self) -> None:
        """A connection that does not end is reported, in the time given and not later."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]):
            loop = asyncio.get_running_loop()
            begun = loop.time()
            assert not await broadcaster.drain(0.5)
            assert loop.time() - begun == pytest.approx(0.5, abs=0.01)

    async def test_connection_that_opens_during_drain_is_ended(self) -> None:
        """A client whose admission was under way is not forgotten: drain ends it, too."""
        async with Broadcaster() as broadcaster:
            asked, answer = asyncio.Event(), asyncio.Event()

            async def may(topic: str) -> bool:
                asked.set()
                return await answer.wait()

            async def client() -> None:
                with contextlib.suppress(Refused):
                    async with broadcaster.connect(topics=["t"], may_subscribe=may) as outbox:
                        await Reader(outbox, patience=3600).rest()

            task = asyncio.create_task(client())
            await asked.wait()
            broadcaster.begin_drain()
            answer.set()
            done, _ = await asyncio.wait([task], timeout=2.0)
            assert done

    async def test_nothing_waiting_is_lost_in_a_drain(self) -> None:
        """What was not yet sent when the drain began is behind the closing frame's id."""
        broker = MemoryBroker()
        async with Broadcaster(broker=broker) as goes, Broadcaster(broker=broker) as stays:
            async with goes.connect(topics=["t"]) as outbox:
                reader = Reader(outbox)
                await reader.hello()
                for n in range(5):
                    await goes.publish("t", n, priority=Priority(n % 4))
                await settle()
                goes.begin_drain()
                got = [seen.data for seen in await reader.rest() if seen.type == "message"]
            async with stays.connect(topics=["t"], last_event_id=reader.last_id) as outbox:
                again = Reader(outbox)
                assert (await again.hello()).data["session"] == "resumed"
                assert sorted(got + await again.take(5 - len(got))) == list(range(5))


class TestConnections:
    """Looking at and ending connections from the application."""

    async def test_outbox_is_the_owners_alone(self) -> None:
        """A connection is found by its id and its user, and by nobody else."""
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(user="ann", topics=["t"]) as outbox:
                id = outbox.connection.id
                assert broadcaster.outbox(id, "ann") is outbox
                assert broadcaster.outbox(id, "bob") is None
                assert broadcaster.outbox(id) is None
                assert broadcaster.outbox("", "ann") is None
                assert broadcaster.outboxes_of("ann") == [outbox]
            assert broadcaster.outbox(id, "ann") is None
            assert broadcaster.outboxes_of("ann") == []

    async def test_disconnect(self) -> None:
        """A connection ends with the reason given; an unknown id is False."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as outbox:
            reader = Reader(outbox)
            await reader.hello()
            assert broadcaster.disconnect(outbox.connection.id, CloseReason.FORBIDDEN)
            assert [seen.data for seen in await reader.rest()] == [
                {"reason": "forbidden", "reconnect": False}
            ]
            assert not broadcaster.disconnect("nonsense")

    async def test_logout_ends_connections_and_tokens(self) -> None:
        """After a logout the user's streams are over, and no token of theirs opens anything."""
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(user="ann", topics=["t"]) as gone:
                before = (await Reader(gone).hello()).id
            async with (
                broadcaster.connect(user="ann", topics=["t"]) as outbox,
                broadcaster.connect(user="bob", topics=["t"]) as other,
            ):
                reader = Reader(outbox)
                at = (await reader.hello()).id
                bob = Reader(other)
                await bob.hello()
                await broadcaster.logout("ann")
                await reader.rest()
                await bob.nothing()
            for last_id in (before, at):
                async with broadcaster.connect(
                    user="ann", topics=["t"], last_event_id=last_id
                ) as outbox:
                    hello = await Reader(outbox).hello()
                    assert hello.data["session"] == "gap"
                    assert hello.data["gap"]["cause"] == "unknown"

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
            ) as outbox:
                reader = Reader(outbox)
                hello = await reader.hello()
                assert (hello.data["session"], hello.data["replay"]) == ("resumed", 2)
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
            ) as outbox:
                reader = Reader(outbox)
                assert (await reader.hello()).data["session"] == "gap"
                await reader.nothing()
            async with broadcaster.connect(
                user="ann", topics=["t"], last_event_id=at, may_subscribe=never
            ) as outbox:
                reader = Reader(outbox)
                assert (await reader.hello()).data["rejected"] == ["t"]
                await reader.nothing()

    async def test_position_refuses_bad_topics(self) -> None:
        """A position of what is no topic, or of too many, is refused."""
        async with Broadcaster(max_topics=2) as broadcaster:
            for topics in (["a b"], ["a", "b", "c"], ["$user"]):
                with pytest.raises(Refused):
                    await broadcaster.position(topics)


class TestTwoNodes:
    """Two broadcasters that share a broker."""

    @pytest.mark.parametrize("make", [MemoryBroker, LateBroker])
    async def test_both_deliver_and_resume_each_others_clients(self, make: Any) -> None:
        """A message published on either reaches both, and a client resumes on the other."""
        broker = make()
        async with Broadcaster(broker=broker) as left, Broadcaster(broker=broker) as right:
            nodes = [left, right]
            at, expected = None, 0
            for turn in range(6):
                async with nodes[turn % 2].connect(
                    user="ann", topics=["t"], last_event_id=at
                ) as outbox:
                    reader = Reader(outbox)
                    hello = await reader.hello()
                    assert hello.data["session"] == ("resumed" if turn else "fresh")
                    await nodes[(turn + 1) % 2].publish("t", turn)
                    found = await reader.take(turn + 1 - expected)
                    assert found == list(range(expected, turn + 1))
                    expected, at = turn + 1, reader.last_id
                if turn % 2:
                    await right.publish("u", "not ours")

    async def test_closing_one_leaves_the_other_running(self) -> None:
        """A node that stops does not take the shared broker with it."""
        broker = MemoryBroker()
        async with Broadcaster(broker=broker) as stays, stays.connect(topics=["t"]) as outbox:
            reader = Reader(outbox)
            await reader.hello()
            async with Broadcaster(broker=broker) as goes:
                await goes.publish("t", 1)
            await settle()
            await stays.publish("t", 2)
            assert await reader.take(2) == [1, 2]
            assert stays.state is BroadcasterState.RUNNING

    async def test_client_that_is_ahead_of_a_lagging_node(self) -> None:
        """Resumed on a node whose feed lags, a client gets each message once, none before."""
        broker = MemoryBroker()
        lagging = LateBroker(make=lambda: broker)
        async with Broadcaster(broker=broker) as ahead, Broadcaster(broker=lagging) as behind:
            await settle()
            async with ahead.connect(user="ann", topics=["t"]) as outbox:
                reader = Reader(outbox)
                await reader.hello()
                await settle()
                lagging.feeding.clear()
                for n in range(10):
                    await ahead.publish("t", n, priority=Priority(n % 4))
                await settle()
                seen = await reader.take(10)
                await ahead.publish("t", 10)
                at = reader.last_id
            connecting = asyncio.create_task(
                self.collect(behind, at, 2)  # the node learns of all that only now
            )
            await settle()
            lagging.release()
            await settle()
            await ahead.publish("t", 11)
            assert await asyncio.wait_for(connecting, 5.0) == [10, 11]
            assert sorted(seen) == list(range(10))

    @staticmethod
    async def collect(node: Broadcaster, at: str, count: int) -> list[Any]:
        """Resume on a node, and read so many messages."""
        async with node.connect(user="ann", topics=["t"], last_event_id=at) as outbox:
            reader = Reader(outbox)
            assert (await reader.hello()).data["session"] == "resumed"
            found = await reader.take(count)
            await reader.nothing()
            return found

    async def test_session_taken_to_another_node_leaves_no_trace(self) -> None:
        """When a client has moved on, its ghost on the first node ends without harm."""
        broker = MemoryBroker()
        async with (
            Broadcaster(broker=broker) as left,
            Broadcaster(broker=broker) as right,
            left.connect(user="ann", topics=["t", "u"]) as ghost,
        ):
            at = (await Reader(ghost).hello()).id
            async with right.connect(user="ann", topics=["t"], last_event_id=at) as outbox:
                reader = Reader(outbox)
                assert (await reader.hello()).data["session"] == "resumed"
                ghost.lost()
                left._node.unregister(ghost)
                await left.publish("u", "nobody's now")
                await left.publish("t", 1)
                assert await reader.take(1) == [1]
                await settle()
                assert left.state is BroadcasterState.RUNNING
                assert not left._node.registry.has_listeners("u")


class TestOptions:
    """What the constructor refuses."""

    def test_memory_options_beside_a_broker(self) -> None:
        """Options of the memory broker are refused beside a broker, by name."""
        with pytest.raises(ConfigurationError, match="history_limit, token_grace"):
            Broadcaster(broker=MemoryBroker(), history_limit=5, token_grace=1.0)

    def test_making_one_needs_no_loop(self) -> None:
        """A Broadcaster can be made at import time, outside any event loop."""
        assert Broadcaster().state is BroadcasterState.NEW
