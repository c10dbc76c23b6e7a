"""Backlog beside a plain list: nothing twice, nothing lost, and the position follows."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.client.receive_queue import IssuedId, ReceiveQueue

STEP = st.sampled_from("put advance next settle put_back begin".split())


def position(number: int, connection: int = 1) -> IssuedId:
    """The position after so many steps."""
    return IssuedId(str(number), connection)


@given(st.lists(STEP, max_size=60))
async def test_position_is_after_the_last_that_was_settled(steps: list[str]) -> None:
    """Whatever the order of reading and handling, the model and the queue agree."""
    queue = ReceiveQueue[int](position(0), max_items=5, max_bytes=50)
    waiting: list[list[int]] = []  # [item, position after it]
    current: list[int] | None = None
    at, connection = 0, 1
    for number, step in enumerate(steps, 1):
        match step:
            case "put":
                queue.put(number, position(number, connection), 10)
                waiting.append([number, number])
            case "advance" | "begin":
                if step == "begin":
                    connection += 1
                    queue.start_connection(position(number, connection))
                else:
                    queue.advance(position(number, connection))
                last = waiting[-1] if waiting else current
                if last is None:
                    at = number
                else:
                    last[1] = number
            case "next" if waiting and current is None:
                current = waiting.pop(0)
                assert await queue.get() == current[0]
            case "settle":
                queue.mark_handled()
                at, current = (current[1], None) if current else (at, None)
            case "put_back":
                queue.unget()
                waiting, current = ([current, *waiting], None) if current else (waiting, None)
        assert int(queue.position.event_id) == at
        assert queue.is_full == (len(waiting) >= 5)


async def test_cancelled_wait_changes_nothing() -> None:
    """Who is cancelled while waiting for an item leaves it for the next."""
    queue = ReceiveQueue[int](position(0), max_items=5, max_bytes=50)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await queue.get()
    queue.put(1, position(1), 1)
    assert await queue.get() == 1


async def test_room_comes_at_half() -> None:
    """The reader waits until half has been handed out, be it in items or in bytes."""
    for size, left in ((1, 5), (100, 5)):
        queue = ReceiveQueue[int](position(0), max_items=10 if size == 1 else 99, max_bytes=1000)
        for number in range(10):
            queue.put(number, position(number), size)
        assert queue.is_full
        room = asyncio.create_task(queue.wait_for_room())
        for number in range(10 - left):
            assert not room.done()
            assert await queue.get() == number
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert room.done()
        await room


async def test_end_comes_after_the_last_item() -> None:
    """What was read is handed out first; then the error, each time it is asked for."""
    queue = ReceiveQueue[int](position(0), max_items=5, max_bytes=50)
    queue.put(1, position(1), 1)
    queue.close(ValueError("first"))
    queue.close(ValueError("second"))
    assert await queue.get() == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="first"):
            await queue.get()
