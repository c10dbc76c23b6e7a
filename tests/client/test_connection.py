"""CurrentConnection: what the other parts of the client see of a connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.client.connection import CurrentConnection
from holdfast.client.frames import FirstFrame
from holdfast.client.receive_queue import IssuedId

EPOCH = "e" * 12
INFINITE = float("inf")


def first_frame(token: str = "a", **more: Any) -> FirstFrame:
    """Return the first frame of a connection with this reconnect token."""
    fields: dict[str, Any] = {
        "connection_id": "c",
        "reconnect_token": token * 22,
        "session": "resumed",
        "topics": ("t", "u"),
        "rejected": (),
        "heartbeat_interval": None,
        "window": None,
        "replay": None,
        "gap": None,
    }
    return FirstFrame(**fields | more)


async def test_end_of_the_attempt_ends_the_connection() -> None:
    """A connection is open from its first frame to the end of its attempt, also after an error."""
    connection = CurrentConnection()
    with pytest.raises(KeyError), connection.attempt(["t"], deadline=INFINITE):
        assert connection.requested == {"t"}
        assert not connection.is_open(1)
        connection.open(first_frame(), resumed=True)
        assert connection.is_open(1)
        raise KeyError("cut")
    assert connection.first_frame is None
    assert connection.topics == ("t", "u")  # the last word of the server


async def test_restart_ends_an_open_connection_only() -> None:
    """A restart cancels an attempt after its first frame, and the next attempt starts clean."""
    connection = CurrentConnection()
    connection.restart("too early")
    reached: list[int] = []
    with connection.attempt([], deadline=INFINITE):
        connection.restart("too early")
        await asyncio.sleep(0)
        reached.append(1)
        connection.open(first_frame(), resumed=True)
        connection.restart("posts do not arrive")
        await asyncio.sleep(0)
        reached.append(2)
    assert reached == [1]
    assert connection.restart_reason == "posts do not arrive"
    with connection.attempt([], deadline=INFINITE):
        assert connection.restart_reason is None


async def test_waiting_tasks_see_the_connection_and_its_end() -> None:
    """A task that waits for a connection gets its first frame, and later its end or the error."""
    connection = CurrentConnection()
    opened = asyncio.create_task(connection.wait_open())
    await asyncio.sleep(0)
    with connection.attempt([], deadline=INFINITE):
        connection.open(first_frame(), resumed=True)
        assert (await opened).connection_id == "c"
        ended = asyncio.create_task(connection.wait_end(1))
        await asyncio.sleep(0)
        assert not ended.done()
    await ended
    await connection.wait_end(1)
    waiting = asyncio.create_task(connection.wait_open())
    await asyncio.sleep(0)
    connection.fail(KeyError("final"))
    for _ in range(2):
        with pytest.raises(KeyError):
            await waiting
        waiting = asyncio.create_task(connection.wait_open())


async def test_topics_follow_the_server() -> None:
    """Confirmed topics are added and removed, and withdrawn ones are rejected."""
    connection = CurrentConnection()
    connection.open(first_frame(), resumed=True)
    connection.add_topics(["u", "v"])
    assert list(connection.topics) == ["t", "u", "v"]
    connection.remove_topics(["t", "x"])
    assert list(connection.topics) == ["u", "v"]
    assert connection.reject(["v", "x"]) == ["v"]
    assert [list(connection.topics), list(connection.rejected)] == [["u"], ["v"]]


@pytest.mark.parametrize(
    ("resumed", "token"),
    [((True, True, True), "c"), ((True, True, False), "a"), ((False, True, True), "c")],
)
async def test_position_gets_the_newest_token_unless_a_gap_follows(
    resumed: tuple[bool, ...], token: str
) -> None:
    """An id of connection 1 gets the token of connection 3, if no gap lies between them."""
    connection = CurrentConnection()
    for letter, each in zip("abc", resumed, strict=True):
        connection.open(first_frame(letter), resumed=each)
    position = IssuedId(f"{EPOCH}~5~{'a' * 22}", 1)
    assert connection.with_newest_token(position) == f"{EPOCH}~5~{token * 22}"
    assert connection.with_newest_token(IssuedId("of a newer server", 1)) == "of a newer server"
