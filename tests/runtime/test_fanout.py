"""FanOut: inline sends, the turns of the loop, and connections that wait."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import Broadcaster, Priority, Reason
from holdfast.core.frames import Frame
from holdfast.runtime.connection import Connection
from holdfast.runtime.fanout import CONNECTIONS_PER_TURN
from holdfast.runtime.inline_send import PeerLost
from tests.support.frame_reader import PlainFrameEncoder, send_frames
from tests.support.virtual_loop import run_ready, run_virtual


class Client:
    """A client that reads its connection as the transports do, while `is_open` is set."""

    def __init__(self, connection: Connection, *, inline: bool = True) -> None:
        self.connection = connection
        self.frames: list[Frame] = []
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.error: Exception | None = None
        self.wake_ups = 0
        self.first_frame_bytes = 0
        self.task = asyncio.ensure_future(self._run(inline))

    async def send(self, frame: Any) -> None:
        if self.error is not None:
            raise self.error
        self.frames.append(frame)
        if not self.is_open.is_set():
            await self.is_open.wait()

    async def _run(self, inline: bool) -> None:
        def count_wake_up(_: list[Frame]) -> None:
            self.wake_ups += 1

        try:
            await send_frames(self.connection, self.send, inline=inline, on_batch=count_wake_up)
        except PeerLost:
            self.connection.mark_lost()

    def messages(self) -> list[tuple[Any, str]]:
        """Return the data of each message, and its id without the reconnect token."""
        return [
            (json.loads(frame.body)["data"], frame.id.rpartition("~")[0])
            for frame in self.frames
            if json.loads(frame.body)["type"] == "message"
        ]


@asynccontextmanager
async def client(broadcaster: Broadcaster, *topics: str, **options: Any) -> AsyncIterator[Client]:
    """Return a client whose task runs until the block ends."""
    async with broadcaster.connect(topics=topics or ["t"]) as connection:
        reader = Client(connection, **options)
        await run_ready()
        reader.first_frame_bytes = connection.bytes_sent
        try:
            yield reader
        finally:
            reader.task.cancel()
            await asyncio.wait([reader.task])


async def wait_offered(broadcaster: Broadcaster, position: int) -> None:
    """Return as soon as the fan-out has offered all messages up to `position`."""
    for _ in range(20):
        if broadcaster.statistics().offset >= position:
            return
        await asyncio.sleep(0)
    raise AssertionError("the node has not delivered the messages")


PAUSE = 50
"""Turns of the loop in which all messages are sent; without a pause, they come in one batch."""

published = st.lists(
    st.tuples(
        st.sampled_from(Priority),
        st.sampled_from("tu"),
        st.sampled_from([None, None, "k"]),
        st.sampled_from([None, 1e-9, 100.0]),
        st.sampled_from([0, 0, PAUSE]),
    ),
    max_size=20,
)


@settings(max_examples=60)
@given(published)
def test_inline_send_equals_the_connections_own_task(
    script: list[tuple[Priority, str, str | None, float | None, int]],
) -> None:
    """Both ways send the same frames with the same cursors, and count the same."""

    async def scenario() -> None:
        async with (
            Broadcaster() as broadcaster,
            client(broadcaster, "t", "u") as inline,
            client(broadcaster, "t", "u", inline=False) as by_task,
        ):
            for number, (lane, topic, key, ttl, pause) in enumerate(script):
                await broadcaster.publish(topic, number, priority=lane, key=key, ttl=ttl)
                await run_ready(pause)
            await run_ready(PAUSE)
            assert inline.messages() == by_task.messages()
            counts = [
                (
                    replace(each.connection.delivery.buffer.statistics(), high_water=0),
                    each.connection.cursor,
                    each.connection.frames_sent,
                    each.connection.bytes_sent - each.first_frame_bytes,
                )
                for each in (inline, by_task)
            ]
            assert counts[0] == counts[1]

    run_virtual(scenario())


class TestInline:
    """Inline sends to a connection whose task sleeps."""

    async def test_client_that_keeps_up_is_not_woken(self) -> None:
        """No message wakes the task of a connection that keeps up."""
        async with Broadcaster() as broadcaster, client(broadcaster) as reader:
            assert reader.wake_ups == 1
            for number in range(10):
                await broadcaster.publish("t", number)
                await run_ready()
            assert [data for data, _ in reader.messages()] == list(range(10))
            assert reader.wake_ups == 1

    async def test_send_that_waits_delays_no_other_connection(self) -> None:
        """The other connections are served, and the slow one catches up in order."""
        async with (
            Broadcaster(buffer_capacity=5) as broadcaster,
            client(broadcaster) as slow,
            client(broadcaster) as fast,
        ):
            slow.is_open.clear()
            for number in range(50):
                await broadcaster.publish("t", number)
                await run_ready()
            assert len(fast.messages()) == 50
            assert len(slow.messages()) == 1
            assert slow.connection._blocked_since is not None
            slow.is_open.set()
            await run_ready(200)
            assert [data for data, _ in slow.messages()] == list(range(50))
            assert slow.connection._blocked_since is None

    async def test_urgent_message_overtakes_unsent_messages(self) -> None:
        """An urgent message overtakes the rest of a batch whose send waits."""
        async with Broadcaster() as broadcaster, client(broadcaster) as reader:
            reader.is_open.clear()
            for number in range(10):
                await broadcaster.publish("t", number, priority=Priority.LOW)
            await run_ready()
            assert [data for data, _ in reader.messages()] == [0]
            await broadcaster.publish("t", "now", priority=Priority.CRITICAL)
            await run_ready()
            reader.is_open.set()
            await run_ready(100)
            assert [data for data, _ in reader.messages()] == [0, "now", *range(1, 10)]

    async def test_send_that_raises_ends_its_connection_only(self) -> None:
        """A send that raises ends its own connection, and no other."""
        async with (
            Broadcaster() as broadcaster,
            client(broadcaster) as lost,
            client(broadcaster) as other,
        ):
            lost.error = ConnectionResetError("reset by peer")
            await broadcaster.publish("t", 1)
            await run_ready()
            assert lost.task.done()
            assert [data for data, _ in other.messages()] == [1]

    async def test_encoder_that_raises_ends_its_connection_only(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An error of the encoder closes its connection, and the fan-out continues."""

        class Broken(PlainFrameEncoder):
            def prefix(self, body: bytes, id: str) -> tuple[bytes, str]:
                raise ValueError("no frame can be made")

        async with (
            Broadcaster() as broadcaster,
            client(broadcaster) as broken,
            client(broadcaster) as other,
        ):
            assert broken.connection._sender is not None
            broken.connection._sender.encoder = Broken()
            for number in range(3):
                await broadcaster.publish("t", number)
                await run_ready()
            assert broken.connection.close_reason is Reason.FAILED
            assert [data for data, _ in other.messages()] == [0, 1, 2]
        assert "no frame can be made" in caplog.text

    async def test_no_message_is_sent_after_the_close(self) -> None:
        """If a connection is closed after the offer, its closing frame is the last."""
        async with Broadcaster() as broadcaster, client(broadcaster) as reader:
            await broadcaster.publish("t", 1)
            await wait_offered(broadcaster, 1)
            broadcaster.disconnect(reader.connection.id)
            await run_ready()
            types = [json.loads(frame.body)["type"] for frame in reader.frames]
            assert types == ["connection_established", "closing"]
            assert reader.frames[-1].id.split("~")[1] == "1.1.0.1", "an unsent message is pending"

    async def test_unsubscribed_message_is_not_sent(self) -> None:
        """An offered message whose topic is unsubscribed before the send is not sent."""
        async with Broadcaster() as broadcaster, client(broadcaster, "t", "u") as reader:
            await broadcaster.publish("t", 1)
            await broadcaster.publish("u", 2)
            await wait_offered(broadcaster, 2)
            await broadcaster.unsubscribe(reader.connection, ["t"])
            await run_ready()
            assert [data for data, _ in reader.messages()] == [2]


class TestTurns:
    """The connections that are served in one turn of the loop."""

    async def test_loop_runs_other_callbacks_between_turns(self) -> None:
        """At most CONNECTIONS_PER_TURN connections are served before other callbacks run."""
        async with Broadcaster(max_connections=1000) as broadcaster:
            managers = [client(broadcaster) for _ in range(3 * CONNECTIONS_PER_TURN)]
            clients = [await manager.__aenter__() for manager in managers]
            await broadcaster.publish("t", 1)
            served: list[int] = []
            while not served or served[-1] < len(clients):
                await asyncio.sleep(0)
                served.append(sum(bool(reader.messages()) for reader in clients))
            steps = {after - before for before, after in itertools.pairwise(served)}
            assert steps <= {0, CONNECTIONS_PER_TURN}
            assert sorted(set(served)) == [
                0,
                CONNECTIONS_PER_TURN,
                2 * CONNECTIONS_PER_TURN,
                3 * CONNECTIONS_PER_TURN,
            ]
            for manager in managers:
                await manager.__aexit__(None, None, None)

    async def test_messages_join_the_batch_of_unserved_connections(self) -> None:
        """Under load, new messages join the batch of the connections that are not yet served."""
        async with Broadcaster(max_connections=1000) as broadcaster:
            managers = [client(broadcaster) for _ in range(5 * CONNECTIONS_PER_TURN)]
            clients = [await manager.__aenter__() for manager in managers]
            for number in range(40):
                await broadcaster.publish("t", number)
                await asyncio.sleep(0)
            await run_ready(200)
            assert all(
                [data for data, _ in reader.messages()] == list(range(40)) for reader in clients
            )
            for manager in managers:
                await manager.__aexit__(None, None, None)


@pytest.mark.parametrize("limit", [100, 1_000_000])
async def test_window_limits_inline_sends(limit: int) -> None:
    """An acknowledging client gets at most its window by inline sends."""
    async with (
        Broadcaster(window_bytes=limit) as broadcaster,
        broadcaster.connect(topics=["t"], acknowledges=True) as connection,
    ):
        reader = Client(connection)
        await run_ready()
        for number in range(200):
            await broadcaster.publish("t", [number, "x" * 200])
            await run_ready()
        assert connection._window is not None
        unacknowledged = connection._window.unacknowledged
        assert unacknowledged <= connection._window.size + 400
        for _ in range(400):
            connection.acknowledge(reader.frames[-1].id)
            await run_ready(5)
        assert [data[0] for data, _ in reader.messages()] == list(range(200))
        assert connection._window.unacknowledged == 0
        reader.task.cancel()
        await asyncio.wait([reader.task])
