"""Stream: positions, gaps, and the block."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import anyio
import anyio.to_thread
import pytest

from holdfast.client import Gap, NotRunning, Status, StreamState
from tests.client.real_server import live, publish
from tests.client.scripted_server import (
    TOKEN,
    Responder,
    first_frame,
    id_of,
    message,
    scripted_server,
    stream,
)
from tests.client.streams import PATIENCE, stream_from, take, until
from tests.support.clients import request
from tests.support.proxy import Proxy

ENDS = stream(first_frame(), message(1), stays=False)


# -- positions and gaps -----------------------------------------------------------------------


async def test_heartbeat_moves_the_position_only_past_handled_messages() -> None:
    """The id of a heartbeat becomes the position when the messages before it are handled."""
    beat = b'data: {"type":"heartbeat","timestamp":1}\nid: %b\n\n'
    later = stream(first_frame(), message(1), beat % id_of(5).encode(), message(6))
    async with scripted_server(later) as server, stream_from(server) as stream_:
        assert await take(stream_, 1) == [1]
        assert stream_.position == id_of(0)
        assert await take(stream_, 1) == [6]
        assert stream_.position == id_of(5)


async def test_gap_without_on_gap_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The warning contains the cause of the gap and no token."""
    lost = first_frame(9, session="gap", gap={"cause": "restart", "count": None})
    async with scripted_server(stream(lost, message(10))) as server, stream_from(server) as stream_:
        assert await take(stream_, 1) == [10]
    assert "messages are missing" in caplog.text
    assert "restart" in caplog.text
    assert TOKEN not in caplog.text


async def test_gap_is_reported_again_if_on_gap_failed() -> None:
    """The position moves past a gap when on_gap has returned, and not before."""
    reported: list[Gap] = []

    async def on_gap(gap: Gap) -> None:
        reported.append(gap)
        if len(reported) == 1:
            raise ValueError("not now")

    lost = first_frame(9, session="gap", gap={"cause": "restart", "count": None})
    async with (
        scripted_server(stream(lost, message(10))) as server,
        stream_from(server, position=id_of(3), on_gap=on_gap) as stream_,
    ):
        with pytest.raises(ValueError, match="not now"):
            await take(stream_, 1)
        assert stream_.position == id_of(3)
        assert await take(stream_, 1) == [10]
        assert stream_.position == id_of(9)
    assert reported == [Gap("restart", None)] * 2


async def test_position_has_the_newest_reconnect_token() -> None:
    """The position of a slow application stays valid over many reconnects."""
    tokens = [letter * 22 for letter in "abc"]

    def connection(token: str, *numbers: int, stays: bool = False) -> Responder:
        frames = [first_frame(numbers[0] - 1, session="resumed", reconnectToken=token)]
        frames += [message(number) for number in numbers]
        return stream(b"".join(frames).replace(TOKEN.encode(), token.encode()), stays=stays)

    answers = [
        connection(tokens[0], 1, 2),
        connection(tokens[1], 3),
        connection(tokens[2], 4, stays=True),
    ]
    async with scripted_server(*answers) as server, stream_from(server) as stream_:
        assert await take(stream_, 2) == [1, 2]
        await until(lambda: len(server.requests) == 3 and stream_.connection_id is not None)
        assert stream_.position == id_of(1).replace(TOKEN, tokens[2])
        assert server.requests[1].headers["last-event-id"] == id_of(2).replace(TOKEN, tokens[0])
        assert await take(stream_, 2) == [3, 4]
        assert stream_.position == id_of(3).replace(TOKEN, tokens[2])


async def test_position_before_a_gap_keeps_its_token() -> None:
    """The old place with the new token would resume as if no message were missing."""
    new = "n" * 22
    lost = {"session": "gap", "gap": {"cause": "unknown", "count": None}, "reconnectToken": new}
    second = stream(first_frame(7, **lost).replace(TOKEN.encode(), new.encode()))
    async with scripted_server(ENDS, second) as server, stream_from(server) as stream_:
        assert await take(stream_, 1) == [1]
        await until(lambda: len(server.requests) == 2 and stream_.connection_id is not None)
        assert stream_.position == id_of(0)


async def test_interrupted_message_comes_again(port: int) -> None:
    """The position moves when the next message is requested; `event_id` is after its message."""
    after = ""
    async with live(port, "again") as stream:
        await publish(port, "again", 1, 2, 3)
        with pytest.raises(ValueError, match="handling"):
            async for message in stream:
                after = message.event_id
                if message.data == 2:
                    raise ValueError("handling failed")
        position = stream.position
    async with live(port, position=position) as stream:
        assert stream.topics == ("again",)
        assert await take(stream, 2) == [2, 3]
    async with live(port, "again", position=after) as stream:
        assert await take(stream, 1) == [3]


async def test_position_of_the_application(port: int) -> None:
    """A stream begins at the result of `Broadcaster.position`: load, then subscribe."""
    position = (await request(port, "GET", "/position?topics=loaded")).json()["id"]
    await publish(port, "loaded", 1, 2)
    async with live(port, "loaded", position=position) as stream:
        assert await take(stream, 2) == [1, 2]
        assert stream.status.session == "resumed"
        assert stream.status.replay == 2


async def test_cancelled_iteration_loses_nothing(port: int) -> None:
    """Hundreds of cancelled waits yield each message once, on one connection."""
    async with live(port, "cancelled") as stream:
        id, got = stream.connection_id, list[Any]()
        published = 0
        while len(got) < 30:
            if len(got) == published:
                await publish(port, "cancelled", *range(published, published + 10))
                published += 10
            with anyio.move_on_after(random.choice([0.0, 0.001])):
                async for message in stream:
                    got.append(message.data)
        assert got == list(range(30))
        assert stream.connection_id == id


# -- the block --------------------------------------------------------------------------------


@pytest.mark.real_time
@pytest.mark.parametrize("how", ["plain", "swallowed", "cancelled"])
async def test_leaving_is_prompt_and_leaves_nothing(port: int, how: str) -> None:
    """The block ends within a second and leaves no task, in each state of the connection."""
    before = asyncio.all_tasks()
    async with Proxy(port) as proxy:
        left = asyncio.Event()

        async def consume() -> None:
            try:
                await consume_some()
            finally:
                ours = [task for task in asyncio.all_tasks() if "Stream." in repr(task)]
                assert ours == []

        async def consume_some() -> None:
            async with live(proxy.port, "left") as stream:
                if how != "cancelled":
                    await publish(port, "left", 1)
                async for _ in stream:
                    break
                if how == "swallowed":
                    for link in proxy.links:
                        link.discard()
                left.set()

        task = asyncio.create_task(consume())
        if how == "cancelled":
            await asyncio.sleep(0.3)
            task.cancel()
        else:
            async with asyncio.timeout(PATIENCE):
                await left.wait()
        began = time.monotonic()
        await asyncio.wait([task])
        assert time.monotonic() - began < 1.0
        assert task.cancelled() is (how == "cancelled")
        assert task.cancelled() or task.exception() is None
        if how != "swallowed":
            await until(lambda: not proxy.links)
    assert asyncio.all_tasks() <= before


async def test_error_of_the_block_is_not_wrapped(port: int) -> None:
    """An exception of the application leaves the block unchanged, and the status is CLOSED."""
    seen: list[Status] = []
    with pytest.raises(KeyError):
        async with live(port, "t", on_status=seen.append) as stream:
            raise KeyError("mine")
    assert seen[-1].state is StreamState.CLOSED
    with pytest.raises(NotRunning):
        await anext(stream)
    with pytest.raises(NotRunning):
        await stream.subscribe("u")
    with pytest.raises(RuntimeError, match="connect again"):
        async with stream:
            pass


async def test_error_of_on_status_ends_the_stream(port: int) -> None:
    """The iteration raises the exception of on_status."""

    def on_status(status: Status) -> None:
        if status.state is StreamState.WAITING:
            raise KeyError("mine")

    async with Proxy(port) as proxy, live(proxy.port, "t", on_status=on_status) as stream:
        proxy.cut()
        with pytest.raises(KeyError):
            await take(stream, 1)


@pytest.mark.real_time
async def test_end_of_the_block_reaches_other_tasks(port: int) -> None:
    """Tasks that wait for a message or a subscription get NotRunning."""
    async with Proxy(port) as proxy:
        async with live(proxy.port, "t", retry_delays=(20.0, 20.0)) as stream:
            reading = asyncio.create_task(anext(stream))
            proxy.cut()
            await until(lambda: stream.connection_id is None)
            subscribing = asyncio.create_task(stream.subscribe("u"))
            await asyncio.sleep(0.05)
        done, _ = await asyncio.wait([reading, subscribing], timeout=PATIENCE)
        for task in (reading, subscribing):
            assert task in done
            with pytest.raises(NotRunning):
                await task


@pytest.mark.real_time
async def test_second_task_that_iterates_is_an_error(port: int) -> None:
    """Two tasks cannot share the meaning of a handled message."""
    async with live(port, "t") as stream, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(take(stream, 1))
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(stream)
        await publish(port, "t", 1)
        assert await first == [1]
