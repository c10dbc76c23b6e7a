"""DuplexScope: the end of one direction ends the other, and nothing outside the scope."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import Broadcaster
from holdfast.runtime.connection import Connection
from holdfast.transports.duplex import DuplexScope
from tests.support.virtual_loop import run_ready

TIMEOUT = 60.0
"""Seconds of the virtual clock."""


class Directions:
    """A listener and a block of a DuplexScope; each lasts until its event is set."""

    def __init__(self) -> None:
        self.end_listener, self.end_block = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None
        self.log: list[str] = []

    async def listen(self) -> None:
        try:
            await self.end_listener.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.log.append("listener ended")

    async def run(self, connection: Connection) -> None:
        async with DuplexScope(connection, self.listen()):
            try:
                await self.end_block.wait()
            finally:
                self.log.append("block ended")
        self.log.append("after the block")


def abort(connection: Connection) -> None:
    """End both directions, as the timeout of a stuck send does."""
    assert connection._abort is not None
    connection._abort()


async def begin(broadcaster: Broadcaster) -> tuple[Directions, Connection, asyncio.Task[None]]:
    """Return a running DuplexScope whose listener and block both wait."""
    async with broadcaster.connect() as connection:
        directions = Directions()
        task = asyncio.create_task(directions.run(connection))
        await run_ready()
        return directions, connection, task


async def test_end_of_the_listener_cancels_the_block(broadcaster: Broadcaster) -> None:
    """The end of the listener cancels the block, and the task continues after it."""
    directions, _, task = await begin(broadcaster)
    directions.end_listener.set()
    await asyncio.wait_for(task, TIMEOUT)
    assert directions.log == ["listener ended", "block ended", "after the block"]
    assert task.cancelling() == 0


async def test_end_of_the_block_cancels_the_listener(broadcaster: Broadcaster) -> None:
    """The end of the block cancels the listener, and waits for it."""
    directions, _, task = await begin(broadcaster)
    directions.end_block.set()
    await asyncio.wait_for(task, TIMEOUT)
    assert directions.log == ["block ended", "listener ended", "after the block"]


async def test_abort_ends_both(broadcaster: Broadcaster) -> None:
    """The callback of `on_abort` ends both; a second call has no effect."""
    directions, connection, task = await begin(broadcaster)
    abort(connection)
    abort(connection)
    await asyncio.wait_for(task, TIMEOUT)
    assert directions.log == ["block ended", "listener ended", "after the block"]
    abort(connection)
    await run_ready()
    assert task.cancelling() == 0


async def test_both_end_in_one_turn(broadcaster: Broadcaster) -> None:
    """If both end in one turn of the loop, the task is not cancelled."""
    directions, _, task = await begin(broadcaster)
    directions.end_block.set()
    directions.end_listener.set()
    await asyncio.wait_for(task, TIMEOUT)
    assert directions.log[-1] == "after the block"
    assert task.cancelling() == 0


@pytest.mark.parametrize("ending", ["neither", "listener", "abort"])
async def test_cancellation_of_the_task_is_kept(broadcaster: Broadcaster, ending: str) -> None:
    """A cancelled task is cancelled, even if a direction ends at the same time."""
    directions, connection, task = await begin(broadcaster)
    if ending == "listener":
        directions.end_listener.set()
    if ending == "abort":
        abort(connection)
    task.cancel()
    await asyncio.wait([task], timeout=TIMEOUT)
    assert task.cancelled()
    assert sorted(directions.log) == ["block ended", "listener ended"]


async def test_error_of_the_listener_is_raised(broadcaster: Broadcaster) -> None:
    """An error of the listener is raised by the scope."""
    directions, _, task = await begin(broadcaster)
    directions.error = ValueError("listening")
    directions.end_listener.set()
    with pytest.raises(ValueError, match="listening"):
        await asyncio.wait_for(task, TIMEOUT)


async def test_error_of_the_block_is_raised(broadcaster: Broadcaster) -> None:
    """An error of the block ends the listener, and is raised."""
    log: list[str] = []

    async def listen() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("listener ended")

    async with broadcaster.connect() as connection:
        with pytest.raises(ValueError, match="sending"):
            async with DuplexScope(connection, listen()):
                await run_ready()
                raise ValueError("sending")
    assert log == ["listener ended"]
