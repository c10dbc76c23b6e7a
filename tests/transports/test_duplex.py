"""Conversation: the end of one direction is the end of the other, and of nothing else."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import Broadcaster
from holdfast.runtime.connection import Connection
from holdfast.transports.duplex import DuplexScope
from tests.support.virtual_loop import run_ready

PATIENCE = 60.0
"""Seconds, which take no time here."""


class Directions:
    """What both sides of a conversation did; each lasts until its event is set."""

    def __init__(self) -> None:
        self.heard, self.said = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None
        self.log: list[str] = []

    async def listen(self) -> None:
        try:
            await self.heard.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.log.append("listened")

    async def run(self, connection: Connection) -> None:
        async with DuplexScope(connection, self.listen()):
            try:
                await self.said.wait()
            finally:
                self.log.append("sent")
        self.log.append("went on")


def abort(connection: Connection) -> None:
    """End both directions, as a send that is stuck does."""
    assert connection._abort is not None
    connection._abort()


async def begin(broadcaster: Broadcaster) -> tuple[Directions, Connection, asyncio.Task[None]]:
    """A conversation in which both directions wait."""
    async with broadcaster.connect() as connection:
        directions = Directions()
        task = asyncio.create_task(directions.run(connection))
        await run_ready()
        return directions, connection, task


async def test_end_of_listening_ends_sending(broadcaster: Broadcaster) -> None:
    """Whatever the block waits for is cancelled, and the task goes on behind it."""
    directions, _, task = await begin(broadcaster)
    directions.heard.set()
    await asyncio.wait_for(task, PATIENCE)
    assert directions.log == ["listened", "sent", "went on"]
    assert task.cancelling() == 0


async def test_end_of_sending_ends_listening(broadcaster: Broadcaster) -> None:
    """The listener is cancelled, and waited for."""
    directions, _, task = await begin(broadcaster)
    directions.said.set()
    await asyncio.wait_for(task, PATIENCE)
    assert directions.log == ["sent", "listened", "went on"]


async def test_abort_ends_both(broadcaster: Broadcaster) -> None:
    """The callback of `on_abort` ends them at once; again, or afterwards, it does nothing."""
    directions, connection, task = await begin(broadcaster)
    abort(connection)
    abort(connection)
    await asyncio.wait_for(task, PATIENCE)
    assert directions.log == ["sent", "listened", "went on"]
    abort(connection)
    await run_ready()
    assert task.cancelling() == 0


async def test_both_end_in_one_turn(broadcaster: Broadcaster) -> None:
    """The end of the listener does not reach beyond the block."""
    directions, _, task = await begin(broadcaster)
    directions.said.set()
    directions.heard.set()
    await asyncio.wait_for(task, PATIENCE)
    assert directions.log[-1] == "went on"
    assert task.cancelling() == 0


@pytest.mark.parametrize("ends", ["nothing", "listening", "abort"])
async def test_cancellation_from_elsewhere_goes_on(broadcaster: Broadcaster, ends: str) -> None:
    """Who cancels the task gets it cancelled, though a direction ends at the same time."""
    directions, connection, task = await begin(broadcaster)
    if ends == "listening":
        directions.heard.set()
    if ends == "abort":
        abort(connection)
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE)
    assert task.cancelled()
    assert sorted(directions.log) == ["listened", "sent"]


async def test_error_of_listening_is_raised(broadcaster: Broadcaster) -> None:
    """What the listener raises comes out of the block that it ended."""
    directions, _, task = await begin(broadcaster)
    directions.error = ValueError("listening")
    directions.heard.set()
    with pytest.raises(ValueError, match="listening"):
        await asyncio.wait_for(task, PATIENCE)


async def test_error_of_sending_is_raised(broadcaster: Broadcaster) -> None:
    """What the block raises ends the listener, and goes on."""
    log: list[str] = []

    async def listen() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("listened")

    async with broadcaster.connect() as connection:
        with pytest.raises(ValueError, match="sending"):
            async with DuplexScope(connection, listen()):
                await run_ready()
                raise ValueError("sending")
    assert log == ["listened"]
