"""Mutants: each breaks one rule of the cursor, and the model must detect it.

python -m tests.model.mutants            all mutants, one line each
python -m tests.model.mutants NAME       one mutant, with the violation that detects it
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from holdfast.core.cursor import Cursor
from holdfast.core.delivery.buffer import PriorityBuffer
from holdfast.core.delivery.lanes import EVERY_LANE, NO_LANE, Delivery
from holdfast.core.frames import Frame
from holdfast.core.log.history import History
from holdfast.core.log.topic_log import TopicLog
from holdfast.core.message import Gap, Message, Offset, Priority
from holdfast.runtime import handshake
from holdfast.runtime.connection import Connection
from holdfast.runtime.handshake import Handshake
from holdfast.runtime.node import Node

from .oracle import Violation
from .world import World

Patch = tuple[Any, str, Any]
MUTANTS: dict[str, Callable[[], list[Patch]]] = {}

SCRIPT_LENGTH = 400
MAX_SCRIPTS = 4000


def mutant(make: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
    """Register a mutant by the name of its function."""
    MUTANTS[make.__name__] = make
    return make


@mutant
def cursor_is_the_last_delivered() -> list[Patch]:
    """The id is the newest sent offset, as in a first attempt at a cursor."""
    take, last = Delivery.take, dict[int, int]()

    def taken(self, now):
        entry = take(self, now)
        if isinstance(entry, Message):
            last[id(self)] = max(last.get(id(self), 0), entry.offset)
        return entry

    cursor = Delivery.cursor

    def of_last(self, position):
        return Cursor.at(last[id(self)]) if id(self) in last else cursor(self, position)

    return [(Delivery, "take", taken), (Delivery, "cursor", of_last)]


@mutant
def a_gap_is_not_pending() -> list[Patch]:
    """The cursor covers a gap that has not been reported."""
    cursor = Delivery.cursor

    def without_gaps(self, position):
        def first_message(buffer, lane):
            entries = buffer._lanes[lane]
            return buffer._slot(entries[0])[0] if entries else None

        with applied([(PriorityBuffer, "low_water", first_message)]):
            return cursor(self, position)

    return [(Delivery, "cursor", without_gaps)]


@mutant
def a_gap_outside_its_lane() -> list[Patch]:
    """A gap is reported at once in the critical lane, not in the place of its messages."""
    add_gap = PriorityBuffer.add_gap

    def in_the_critical_lane(self, gap):
        add_gap(self, replace(gap, priority=Priority.CRITICAL))

    return [(PriorityBuffer, "add_gap", in_the_critical_lane)]


@mutant
def no_id_on_the_first_frame() -> list[Patch]:
    """A client that is cut before its first message has no event id."""
    opened = Connection.open

    def open_without_id(self, first_frame):
        opened(self, first_frame)
        self._first = Frame(first_frame, "")

    return [(Connection, "open", open_without_id)]


@mutant
def a_replay_through_the_bounded_buffer() -> list[Patch]:
    """A replay is offered like live messages, and evicts itself."""
    request = Delivery.request

    def long_request(self, position):
        page_request = request(self, position)
        return page_request and replace(page_request, limit=10_000)

    def fill(self, request, page, position, *, room):
        for entry in page.entries:
            self.buffer.add_gap(entry) if isinstance(entry, Gap) else self.buffer.offer(entry)
        self._set_read(request.lane, page.up_to)
        self._catching_up -= {request.lane}

    return [(Delivery, "request", long_request), (Delivery, "fill", fill)]


@mutant
def no_since() -> list[Patch]:
    """A new subscription replays earlier messages."""
    page = History.page

    def from_the_beginning(self, request, subscriptions, *rest):
        return page(self, request, dict.fromkeys(subscriptions, Offset(0)), *rest)

    return [(History, "page", from_the_beginning)]


@mutant
def subscriptions_as_of_connect_time() -> list[Patch]:
    """The session restores the subscriptions of the start of its connection."""
    register, first_subscriptions = Node.register, dict[str, dict[str, Offset]]()

    def register_and_record(self, connection, *, resumed):
        first_subscriptions[connection.id] = dict(connection.subscriptions)
        register(self, connection, resumed=resumed)

    unregister = Node.unregister

    def with_first_subscriptions(self, connection):
        session = unregister(self, connection)
        return replace(session, subscriptions=first_subscriptions[connection.id])

    return [(Node, "register", register_and_record), (Node, "unregister", with_first_subscriptions)]


@mutant
def positions_judged_by_this_node() -> list[Patch]:
    """A cursor beyond this node's position is refused as beyond the log."""

    async def head_of_the_node(self, event_id):
        return self._node.log.head

    return [(Handshake, "_head_for", head_of_the_node)]


@mutant
def a_live_feed_not_filtered_by_the_cursor() -> list[Patch]:
    """A node that is behind its client is live at once, and repeats messages."""
    fill = Delivery.fill

    def live_at_once(self, request, page, position, *, room):
        direct = fill(self, request, page, position, room=room)
        if page.complete:
            self._catching_up -= {request.lane}
        return direct

    return [
        (Delivery, "is_ahead_of", lambda self, position: False),
        (Delivery, "fill", live_at_once),
    ]


@mutant
def a_lane_that_is_not_empty_is_not_read() -> list[Patch]:
    """A client that resumes is live at once, and its history is not read."""
    return [(handshake, "lanes_to_replay", lambda *_: NO_LANE)]


@mutant
def an_empty_lane_is_live_before_its_node() -> list[Patch]:
    """Messages that the client received on another node are repeated by this one."""

    def empty_lanes_are_live(point, summary, farthest, delivered):
        return NO_LANE if point.cursor is None else EVERY_LANE - summary.empty_lanes

    return [(handshake, "lanes_to_replay", empty_lanes_are_live)]


@mutant
def unsent_messages_are_settled() -> list[Patch]:
    """An inline send that waits counts the rest of its batch as sent."""
    return [(Delivery, "requeue", lambda self, plan, sent: None)]


@mutant
def a_cursor_that_goes_back() -> list[Patch]:
    """A lane that evicted a message is read again from the start of its connection."""
    init = Delivery.__init__
    catch_up = Delivery._catch_up

    def init_and_record(self, buffer, start, **options):
        init(self, buffer, start, **options)
        STARTS[self.buffer] = start

    def from_the_start(self, lane, after):
        catch_up(self, lane, STARTS[self.buffer][lane])

    return [(Delivery, "__init__", init_and_record), (Delivery, "_catch_up", from_the_start)]


STARTS: dict[PriorityBuffer, Cursor] = {}


@mutant
def one_retention_for_all_lanes() -> list[Patch]:
    """LOW messages trim CRITICAL ones."""
    append = History.append

    def over_all_lanes(self, message, now):
        append(self, message, now)
        logs = self._logs[message.topic, message.to_user]
        while sum(log.held for log in logs) > self.retention.limit:
            oldest = min((log for log in logs if log.held), key=lambda log: log.oldest().offset)
            self._trim_oldest(oldest, now)

    return [(History, "append", over_all_lanes)]


@mutant
def conflation_per_lane() -> list[Patch]:
    """A key is conflated in its own lane only, so an old value follows a newer one."""
    offer = Delivery._offer

    def in_its_own_lane(self, message):
        if message.key is not None:
            message = replace(message, key=f"{message.key} in {message.priority.label}")
        offer(self, message)

    return [(Delivery, "_offer", in_its_own_lane)]


@mutant
def superseded_values_replayed() -> list[Patch]:
    """The history keeps superseded messages."""
    return [(History, "_supersede", lambda self, message, logs: None)]


@mutant
def an_eviction_is_not_read_again() -> list[Patch]:
    """An evicted message is lost, as in a queue with a drop policy."""
    return [(Delivery, "_catch_up", lambda self, lane, after: None)]


@mutant
def reading_beyond_the_node() -> list[Patch]:
    """A lane that catches up reads to the head of the log, ahead of its node's live feed."""
    page = History.page

    def to_the_head(self, request, *rest):
        return page(self, replace(request, up_to=self.head), *rest)

    return [(History, "page", to_the_head)]


@mutant
def gaps_are_not_counted_exactly() -> list[Patch]:
    """A gap counts all messages that were ever trimmed in its topic."""
    ranges = TopicLog.trimmed_ranges

    def with_total_count(self, after, up_to, boundaries):
        count = len(self.trimmed_offsets)
        return ((first, last, count) for first, last, _ in ranges(self, after, up_to, boundaries))

    return [(TopicLog, "trimmed_ranges", with_total_count)]


@mutant
def one_gap_for_separate_ranges() -> list[Patch]:
    """One gap at the last trimmed offset reports all ranges, so messages pass earlier ones."""
    ranges = TopicLog.trimmed_ranges

    def joined(self, after, up_to, boundaries):
        found = list(ranges(self, after, up_to, boundaries))
        if not found or any(count is None for _, _, count in found):
            return iter(found)
        return iter([(found[-1][1], found[-1][1], sum(count or 0 for _, _, count in found))])

    return [(TopicLog, "trimmed_ranges", joined)]


@mutant
def a_gap_of_an_unsubscribed_topic() -> list[Patch]:
    """A pending gap is reported although its topic was unsubscribed."""
    return [(Gap, "without", lambda self, _: self)]


@contextmanager
def applied(patches: list[Patch]) -> Iterator[None]:
    """Replace the attributes during the block."""
    originals = [(target, name, getattr(target, name)) for target, name, _ in patches]
    for target, name, value in patches:
        setattr(target, name, value)
    try:
        yield
    finally:
        for target, name, value in originals:
            setattr(target, name, value)


def script(seed: int) -> list[int]:
    """Return a random script, the same for each call with a seed."""
    generator = random.Random(seed)
    return [generator.randrange(1 << 16) for _ in range(SCRIPT_LENGTH)]


def play(seed: int) -> None:
    """Play one random script. Raises `Violation`."""
    world = World(script(seed))
    try:
        world.play()
    finally:
        world.close()


def hunt(name: str, max_scripts: int = MAX_SCRIPTS) -> tuple[int, BaseException] | None:
    """Return the number of traces that it took to detect a mutant, and the error, or None."""
    with applied(MUTANTS[name]()):
        for seed in range(max_scripts):
            try:
                play(seed)
            except (Violation, AssertionError, LookupError, ValueError) as error:
                return seed + 1, error
    return None


def main(names: list[str]) -> int:
    """Hunt these mutants, or all. Returns the number of those that were not detected."""
    alive = 0
    for name in names or MUTANTS:
        found = hunt(name)
        if found is None:
            alive += 1
            print(f"ALIVE   {name}: not detected by {MAX_SCRIPTS} traces")
        else:
            print(f"killed  {name} by trace {found[0]}: {found[1]}")
    return alive


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
