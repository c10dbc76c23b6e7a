"""Delivery: lanes that are live or catch up. tests/model/ drives it together with all the rest."""

from __future__ import annotations

import itertools

from holdfast.core.buffer import PriorityBuffer
from holdfast.core.cursor import Cursor
from holdfast.core.delivery import Delivery
from holdfast.core.history import History, Retention
from holdfast.core.message import Gap, Message, Offset, Priority

CRITICAL, NORMAL, LOW = Priority.CRITICAL, Priority.NORMAL, Priority.LOW
BOTH = {"a": Offset(0), "b": Offset(0)}


class Reader:
    """A connection without its runtime: real parts, and the reading that the outbox would do."""

    def __init__(self, *, live: bool, start: int = 0, capacity: int = 3, limit: int = 100) -> None:
        self.history = History(Retention(limit=limit))
        buffer = PriorityBuffer(capacity)
        at = Offset(start)
        self.delivery = Delivery(buffer, Cursor.at(at), live=live, not_before=at)
        self.position = Offset(0)

    def publish(self, *lanes: Priority, topic: str = "a", fan_out: bool = True) -> None:
        for lane in lanes:
            offset = Offset(self.history.head + 1)
            message = Message(offset, topic, lane, b"{}", 0.0)
            self.history.append(message, 0.0)
            if fan_out:
                self.delivery.offer(message)
                self.position = offset

    def read_on(self) -> bool:
        request = self.delivery.request(self.position)
        if request is None:
            return False
        page = self.history.page(
            request.lane, request.after, BOTH, None,
            up_to=request.up_to, limit=request.limit, max_bytes=request.max_bytes, now=0.0,
        )  # fmt: skip
        self.delivery.fill(request, page, self.position)
        return True

    def take(self) -> Message | Gap | None:
        while self.read_on():
            pass
        return self.delivery.take(0.0)

    def rest(self) -> list[int | str]:
        found: list[int | str] = []
        while (entry := self.take()) is not None:
            found.append(f"gap of {entry.count}" if isinstance(entry, Gap) else entry.offset)
        return found

    def cursor(self) -> str:
        return str(self.delivery.cursor(self.position))


def test_a_live_connection_that_keeps_up_has_one_number() -> None:
    """With nothing pending, all four marks are the node's position."""
    reader = Reader(live=True)
    reader.publish(LOW, CRITICAL)
    assert reader.rest() == [2, 1]
    assert reader.cursor() == "2"


def test_a_pending_message_holds_its_lane_back() -> None:
    """After an overtaking message the cursor still tells of what it overtook."""
    reader = Reader(live=True)
    reader.publish(LOW, CRITICAL)
    assert isinstance(reader.take(), Message)
    assert reader.cursor() == "2.2.2.0"


def test_an_overflow_evicts_and_is_read_again() -> None:
    """Ten messages through a buffer of three arrive, all of them, in order."""
    reader = Reader(live=True)
    reader.publish(*[NORMAL] * 10)
    assert not reader.delivery.is_live
    assert reader.rest() == list(range(1, 11))
    assert reader.delivery.is_live
    assert reader.delivery.buffer.statistics().evicted > 0


def test_an_overflow_costs_only_the_lowest_lane() -> None:
    """CRITICAL messages stay live while LOW goes back to the history."""
    reader = Reader(live=True)
    reader.publish(LOW, LOW, LOW, CRITICAL, CRITICAL, LOW)
    assert reader.rest() == [4, 5, 1, 2, 3, 6]


def test_what_was_trimmed_meanwhile_is_a_gap_in_its_lane() -> None:
    """A hole is told where it is, with its exact size."""
    reader = Reader(live=True, limit=2)
    reader.publish(*[LOW] * 7, CRITICAL)
    assert reader.rest() == [8, "gap of 5", 6, 7]


def test_a_gap_that_waits_counts_as_pending() -> None:
    """The cursor passes a hole only after the gap was taken."""
    reader = Reader(live=False, limit=2)
    reader.publish(LOW, fan_out=False)
    reader.publish(*[LOW] * 3, topic="b")
    first = reader.take()
    assert isinstance(first, Message)
    assert (first.offset, reader.cursor()) == (1, "4.4.4.1")
    assert isinstance(reader.take(), Gap)
    assert reader.cursor() == "4.4.4.2"


def test_a_replay_of_any_length_needs_one_page() -> None:
    """A thousand messages pass a buffer of three, which never holds more."""
    reader = Reader(live=False, limit=1000)
    reader.publish(*[NORMAL] * 1000, fan_out=False)
    reader.position = Offset(1000)
    assert reader.rest() == list(range(1, 1001))
    account = reader.delivery.buffer.statistics()
    assert (account.high_water, account.evicted) == (3, 0)


def test_a_better_lane_is_read_before_a_lower_one_is_sent() -> None:
    """While CRITICAL catches up, nothing of LOW leaves, though it is held already."""
    reader = Reader(live=False, limit=100)
    reader.publish(*itertools.repeat(CRITICAL, 5), LOW, fan_out=False)
    reader.position = Offset(6)
    assert reader.rest() == [1, 2, 3, 4, 5, 6]


def test_a_node_that_is_behind_its_client_waits() -> None:
    """Nothing is read or taken before the node has come to what the client has seen."""
    reader = Reader(live=False, start=3)
    reader.publish(*[NORMAL] * 4, fan_out=False)
    reader.position = Offset(2)
    assert reader.delivery.waits_for(reader.position)
    assert reader.delivery.request(reader.position) is None
    reader.position = Offset(4)
    assert reader.rest() == [4]


def test_falling_behind_keeps_what_is_held_and_reads_the_rest() -> None:
    """A feed that was missed is read from the history, from where it was missed."""
    reader = Reader(live=True)
    reader.publish(NORMAL)
    reader.publish(NORMAL, NORMAL, fan_out=False)
    reader.delivery.fall_behind(reader.position)
    reader.position = Offset(3)
    assert reader.rest() == [1, 2, 3]


def test_a_message_too_large_for_the_buffer_is_a_gap_of_one() -> None:
    """What can never be held is declared, and does not stop the lane."""
    reader = Reader(live=False)
    reader.delivery.buffer.max_bytes = 2
    reader.publish(NORMAL, fan_out=False)
    huge = Message(Offset(2), "a", NORMAL, b"[ ]", 0.0)
    reader.history.append(huge, 0.0)
    reader.publish(NORMAL, fan_out=False)
    reader.position = Offset(3)
    assert reader.rest() == [1, "gap of 1", 3]


def test_a_late_answer_to_an_old_request_is_ignored() -> None:
    """A page that comes after its lane was moved changes nothing."""
    reader = Reader(live=False)
    reader.publish(NORMAL, NORMAL, fan_out=False)
    reader.position = Offset(2)
    while (request := reader.delivery.request(reader.position)) and request.lane is not NORMAL:
        reader.read_on()
    assert request is not None
    page = reader.history.page(
        NORMAL, request.after, BOTH, None, up_to=request.up_to, limit=9, max_bytes=99, now=0.0
    )
    reader.delivery.fill(request, page, reader.position)
    reader.delivery.fill(request, page, reader.position)
    assert reader.rest() == [1, 2]
