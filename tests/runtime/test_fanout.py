"""FanOut: on the spot and by the own task are the same; slices; who waits for whom."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import Broadcaster, Priority, Reason
from holdfast.core.frames import Frame
from holdfast.runtime.connection import Connection
from holdfast.runtime.fanout import CONNECTIONS_PER_TURN
from holdfast.runtime.inline_send import InlineSender, PeerLost
from tests.support.frame_reader import PlainFrameEncoder
from tests.support.virtual_loop import run_ready, run_virtual


class Client:
    """Reads an outbox as the transports do; ``open`` lets it read on."""

    def __init__(self, connection: Connection, *, on_the_spot: bool = True) -> None:
        self.connection = connection
        self.frames: list[Frame] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None
        self.wakings = 0
        self.first_frame_bytes = 0
        self.task = asyncio.ensure_future(self._run(on_the_spot))

    async def send(self, frame: Any) -> None:
        if self.error is not None:
            raise self.error
        self.frames.append(frame)
        if not self.open.is_set():
            await self.open.wait()

    async def _run(self, on_the_spot: bool) -> None:
        pipe = InlineSender(self.send, PlainFrameEncoder(), self.connection.token)
        if on_the_spot:
            self.connection.attach_sender(pipe)
        try:
            while (frames := await self.connection.next_frames()) is not None:
                self.wakings += 1
                for frame in frames:
                    await pipe.send(cast("Any", frame))
                self.connection.mark_sent()
        except PeerLost:
            self.connection.mark_lost()
        finally:
            self.connection.detach_sender()

    def seen(self) -> list[tuple[Any, str]]:
        """The data of each message, and its id without what differs from client to client."""
        return [
            (json.loads(frame.body)["data"], frame.id.rpartition("~")[0])
            for frame in self.frames
            if json.loads(frame.body)["type"] == "message"
        ]


@asynccontextmanager
async def client(broadcaster: Broadcaster, *topics: str, **options: Any) -> AsyncIterator[Client]:
    """A connection whose task runs until the block ends."""
    async with broadcaster.connect(topics=topics or ["t"]) as connection:
        made = Client(connection, **options)
        await run_ready()
        made.first_frame_bytes = connection.bytes_sent
        try:
            yield made
        finally:
            made.task.cancel()
            await asyncio.wait([made.task])


async def offered(broadcaster: Broadcaster, position: int) -> None:
    """Return right after the fan-out has offered what was published up to there."""
    for _ in range(20):
        if broadcaster.statistics().position >= position:
            return
        await asyncio.sleep(0)
    raise AssertionError("the node does not follow")


PAUSE = 50
"""Turns of the loop in which everything is sent; without it, messages come in one batch."""

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
def test_on_the_spot_is_what_the_own_task_would_do(
    script: list[tuple[Priority, str, str | None, float | None, int]],
) -> None:
    """The same frames, in the same order, with the same cursors, and the same account."""

    async def scenario() -> None:
        async with (
            Broadcaster() as broadcaster,
            client(broadcaster, "t", "u") as spot,
            client(broadcaster, "t", "u", on_the_spot=False) as own,
        ):
            for number, (lane, topic, key, ttl, pause) in enumerate(script):
                await broadcaster.publish(topic, number, priority=lane, key=key, ttl=ttl)
                await run_ready(pause)
            await run_ready(PAUSE)
            assert spot.seen() == own.seen()
            accounts = [
                (
                    replace(each.connection.delivery.buffer.statistics(), high_water=0),
                    each.connection.cursor,
                    each.connection.frames_sent,
                    each.connection.bytes_sent - each.first_frame_bytes,
                )
                for each in (spot, own)
            ]
            assert accounts[0] == accounts[1]

    run_virtual(scenario())


class TestOnTheSpot:
    """Who is served without being woken."""

    async def test_client_that_keeps_up_is_not_woken(self) -> None:
        """After the first frame, no message wakes the connection's task."""
        async with Broadcaster() as broadcaster, client(broadcaster) as one:
            assert one.wakings == 1
            for number in range(10):
                await broadcaster.publish("t", number)
                await run_ready()
            assert [data for data, _ in one.seen()] == list(range(10))
            assert one.wakings == 1

    async def test_send_that_waits_holds_up_nobody_else(self) -> None:
        """The others are served; the one that waited catches up when it goes on, in order."""
        async with (
            Broadcaster(buffer_capacity=5) as broadcaster,
            client(broadcaster) as slow,
            client(broadcaster) as fast,
        ):
            slow.open.clear()
            for number in range(50):
                await broadcaster.publish("t", number)
                await run_ready()
            assert len(fast.seen()) == 50
            assert len(slow.seen()) == 1
            assert slow.connection._blocked_since is not None
            slow.open.set()
            await run_ready(200)
            assert [data for data, _ in slow.seen()] == list(range(50))
            assert slow.connection._blocked_since is None

    async def test_better_message_overtakes_what_could_not_be_sent(self) -> None:
        """Of a run that was cut short by a send that waits, the rest is still to be overtaken."""
        async with Broadcaster() as broadcaster, client(broadcaster) as one:
            one.open.clear()
            for number in range(10):
                await broadcaster.publish("t", number, priority=Priority.LOW)
            await run_ready()
            assert [data for data, _ in one.seen()] == [0]
            await broadcaster.publish("t", "now", priority=Priority.CRITICAL)
            await run_ready()
            one.open.set()
            await run_ready(100)
            assert [data for data, _ in one.seen()] == [0, "now", *range(1, 10)]

    async def test_send_that_raises_ends_that_connection_alone(self) -> None:
        """A client that has gone is let go; the others do not notice."""
        async with (
            Broadcaster() as broadcaster,
            client(broadcaster) as gone,
            client(broadcaster) as other,
        ):
            gone.error = ConnectionResetError("gone")
            await broadcaster.publish("t", 1)
            await run_ready()
            assert gone.task.done()
            assert [data for data, _ in other.seen()] == [1]

    async def test_connection_that_cannot_be_served_costs_nobody_else(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An error where frames are made closes that connection, and the fan-out goes on."""

        class Broken(PlainFrameEncoder):
            def prefix(self, body: bytes, id: str) -> tuple[bytes, str]:
                raise ValueError("no frame for this")

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
            assert [data for data, _ in other.seen()] == [0, 1, 2]
        assert "no frame for this" in caplog.text

    async def test_nothing_is_sent_to_a_connection_that_was_told_to_end(self) -> None:
        """Between the offer and the look, a connection may end: the closing frame is the last."""
        async with Broadcaster() as broadcaster, client(broadcaster) as one:
            await broadcaster.publish("t", 1)
            await offered(broadcaster, 1)
            broadcaster.disconnect(one.connection.id)
            await run_ready()
            kinds = [json.loads(frame.body)["type"] for frame in one.frames]
            assert kinds == ["connection_established", "closing"]
            assert one.frames[-1].id.split("~")[1] == "1.1.0.1", "what was not sent is pending"

    async def test_unsubscribed_before_the_look(self) -> None:
        """What is no longer wanted is not handed over, though it had been offered."""
        async with Broadcaster() as broadcaster, client(broadcaster, "t", "u") as one:
            await broadcaster.publish("t", 1)
            await broadcaster.publish("u", 2)
            await offered(broadcaster, 2)
            await broadcaster.unsubscribe(one.connection, ["t"])
            await run_ready()
            assert [data for data, _ in one.seen()] == [2]


class TestSlices:
    """How many are looked at in one turn of the loop."""

    async def test_loop_is_free_between_slices(self) -> None:
        """Of many connections, one slice at a time is served; others run in between."""
        async with Broadcaster(max_connections=1000) as broadcaster:
            managers = [client(broadcaster) for _ in range(3 * CONNECTIONS_PER_TURN)]
            clients = [await manager.__aenter__() for manager in managers]
            await broadcaster.publish("t", 1)
            turns: list[int] = []
            while not turns or turns[-1] < len(clients):
                await asyncio.sleep(0)
                turns.append(sum(bool(each.seen()) for each in clients))
            steps = {after - before for before, after in itertools.pairwise(turns)}
            assert steps <= {0, CONNECTIONS_PER_TURN}
            assert sorted(set(turns)) == [
                0,
                CONNECTIONS_PER_TURN,
                2 * CONNECTIONS_PER_TURN,
                3 * CONNECTIONS_PER_TURN,
            ]
            for manager in managers:
                await manager.__aexit__(None, None, None)

    async def test_messages_gather_behind_a_slice(self) -> None:
        """Under load the next messages join the run of those that are still to be looked at."""
        async with Broadcaster(max_connections=1000) as broadcaster:
            managers = [client(broadcaster) for _ in range(5 * CONNECTIONS_PER_TURN)]
            clients = [await manager.__aenter__() for manager in managers]
            for number in range(40):
                await broadcaster.publish("t", number)
                await asyncio.sleep(0)
            await run_ready(200)
            assert all([data for data, _ in each.seen()] == list(range(40)) for each in clients)
            for manager in managers:
                await manager.__aexit__(None, None, None)


@pytest.mark.parametrize("limit", [100, 1_000_000])
async def test_window_is_kept_on_the_spot(limit: int) -> None:
    """A client that acknowledges gets no more than its window, whoever sends."""
    async with (
        Broadcaster(window_bytes=limit) as broadcaster,
        broadcaster.connect(topics=["t"], acknowledges=True) as connection,
    ):
        one = Client(connection)
        await run_ready()
        for number in range(200):
            await broadcaster.publish("t", [number, "x" * 200])
            await run_ready()
        assert connection._window is not None
        held = connection._window.unacknowledged
        assert held <= connection._window.size + 400
        for _ in range(400):
            connection.acknowledge(one.frames[-1].id)
            await run_ready(5)
        assert [data[0] for data, _ in one.seen()] == list(range(200))
        assert connection._window.unacknowledged == 0
        one.task.cancel()
        await asyncio.wait([one.task])
