"""ReceiveQueue beside a plain list: each item once, and the position follows the handling."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.client.receive_queue import IssuedId, ReceiveQueue

STEP = st.sampled_from("put advance get mark_handled unget start_connection".split())


def position(number: int, connection: int = 1) -> IssuedId:
    """Return the position with this number."""
    return IssuedId(str(number), connection)


@given(st.lists(STEP, max_size=60))
async def test_position_is_after_the_last_handled_item(steps: list[str]) -> None:
    """The model and the queue agree after any script of reading and handling."""
    queue = ReceiveQueue[int](position(0), max_items=5, max_bytes=50)
    waiting: list[list[int]] = []  # [item, position after it]
    current: list[int] | None = None
    at, connection = 0, 1
    for number, step in enumerate(steps, 1):
        match step:
            case "put":
                queue.put(number, position(number, connection), 10)
                waiting.append([number, number])
            case "advance" | "start_connection":
                if step == "start_connection":
                    connection += 1
                    queue.start_connection(position(number, connection))
                else:
                    queue.advance(position(number, connection))
                last = waiting[-1] if waiting else current
                if last is None:
                    at = number
                else:
                    last[1] = number
            case "get" if waiting and current is None:
                current = waiting.pop(0)
                assert await queue.get() == current[0]
            case "mark_handled":
                queue.mark_handled()
                at, current = (current[1], None) if current else (at, None)
            case "unget":
                queue.unget()
                waiting, current = ([current, *waiting], None) if current else (waiting, None)
        assert int(queue.position.event_id) == at
        assert queue.is_full == (len(waiting) >= 5)


@pytest.mark.real_time
async def test_cancelled_wait_changes_nothing() -> None:
    """A cancelled wait leaves the item for the next wait."""
    queue = ReceiveQueue[int](position(0), max_items=5, max_bytes=50)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await queue.get()
    queue.put(1, position(1), 1)
    assert await queue.get() == 1


async def test_room_comes_at_half() -> None:
    """The receiver waits until half of the items, or of the bytes, have been handed out."""
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
    """The queue hands out the last item first, then raises its first error each time."""
    queue = ReceiveQueue[int](position(0), max_items=5, max_bytes=50)
    queue.put(1, position(1), 1)
    queue.close(ValueError("first"))
    queue.close(ValueError("second"))
    assert await queue.get() == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="first"):
            await queue.get()
