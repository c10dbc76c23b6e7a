"""Every rule of the cursor broken on purpose, to see the model find it.

python -m tests.model.mutants            all of them, a line each
python -m tests.model.mutants NAME       one, with the violation that finds it
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
MOST_SCRIPTS = 4000


def mutant(make: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
    """Register a mutant by the name of the function that makes it."""
    MUTANTS[make.__name__] = make
    return make


@mutant
def cursor_is_the_last_delivered() -> list[Patch]:
    """The id names the newest message that was sent, as everybody's first version does."""
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
def a_marker_is_not_pending() -> list[Patch]:
    """The cursor passes a gap that has not been reported yet."""
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
    """A gap is announced at once, by the best lane, and not where the messages are missing."""
    mark = PriorityBuffer.add_gap

    def in_the_best_lane(self, gap):
        mark(self, replace(gap, priority=Priority.CRITICAL))

    return [(PriorityBuffer, "add_gap", in_the_best_lane)]


@mutant
def no_id_on_the_first_frame() -> list[Patch]:
    """A client that is cut before its first message has nothing to resume from."""
    opened = Connection.open

    def open_without_id(self, first_frame):
        opened(self, first_frame)
        self._first = Frame(first_frame, "")

    return [(Connection, "open", open_without_id)]


@mutant
def a_replay_through_the_bounded_buffer() -> list[Patch]:
    """A replay is offered like live messages, and evicts itself."""
    request = Delivery.request

    def everything(self, position):
        found = request(self, position)
        return found and replace(found, limit=10_000)

    def fill(self, request, page, position, *, room):
        for entry in page.entries:
            self.buffer.add_gap(entry) if isinstance(entry, Gap) else self.buffer.offer(entry)
        self._set_read(request.lane, page.up_to)
        self._catching_up -= {request.lane}

    return [(Delivery, "request", everything), (Delivery, "fill", fill)]


@mutant
def no_since() -> list[Patch]:
    """A subscription acquired today shows yesterday."""
    page = History.page

    def from_the_beginning(self, request, subscriptions, *rest):
        return page(self, request, dict.fromkeys(subscriptions, Offset(0)), *rest)

    return [(History, "page", from_the_beginning)]


@mutant
def subscriptions_as_of_connect_time() -> list[Patch]:
    """The session restores what was subscribed when the connection began."""
    register, at_first = Node.register, dict[str, dict[str, Offset]]()

    def remembering(self, connection, *, resumed):
        at_first[connection.id] = dict(connection.subscriptions)
        register(self, connection, resumed=resumed)

    unregister = Node.unregister

    def as_of_connect_time(self, connection):
        session = unregister(self, connection)
        return replace(session, subscriptions=at_first[connection.id])

    return [(Node, "register", remembering), (Node, "unregister", as_of_connect_time)]


@mutant
def the_future_judged_by_this_node() -> list[Patch]:
    """A cursor beyond this node's position is taken for one beyond the log."""

    async def by_the_node(self, event_id):
        return self._node.log.head

    return [(Handshake, "_head_for", by_the_node)]


@mutant
def a_live_feed_not_filtered_by_the_cursor() -> list[Patch]:
    """A node that is behind its client goes live at once, and repeats what the client has."""
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
    """A client that comes back is live at once, whatever lies before it."""
    return [(handshake, "lanes_to_replay", lambda *_: NO_LANE)]


@mutant
def an_empty_lane_is_live_before_its_node() -> list[Patch]:
    """A message that the client got from another node comes again in this node's live feed."""

    def whatever_the_node(point, summary, farthest, delivered):
        return NO_LANE if point.cursor is None else EVERY_LANE - summary.empty_lanes

    return [(handshake, "lanes_to_replay", whatever_the_node)]


@mutant
def unsent_messages_are_settled() -> list[Patch]:
    """An inline send that waits takes the rest of the batch with it."""
    return [(Delivery, "requeue", lambda self, plan, sent: None)]


@mutant
def a_cursor_that_goes_back() -> list[Patch]:
    """A lane that lost something is read again from where the connection began."""
    init = Delivery.__init__
    catch_up = Delivery._catch_up

    def remembering(self, buffer, start, **options):
        init(self, buffer, start, **options)
        STARTS[self.buffer] = start

    def from_the_start(self, lane, after):
        catch_up(self, lane, STARTS[self.buffer][lane])

    return [(Delivery, "__init__", remembering), (Delivery, "_catch_up", from_the_start)]


STARTS: dict[PriorityBuffer, Cursor] = {}


@mutant
def one_retention_for_all_lanes() -> list[Patch]:
    """LOW pushes out CRITICAL."""
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
    """History keeps what a newer value of the key has replaced."""
    return [(History, "_supersede", lambda self, message, logs: None)]


@mutant
def an_eviction_is_not_read_again() -> list[Patch]:
    """An evicted message is lost, as in every queue with a drop policy."""
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
    """A gap counts everything that was ever trimmed in its topic."""
    ranges = TopicLog.trimmed_ranges

    def all_of_it(self, after, up_to, boundaries):
        count = len(self.trimmed_offsets)
        return ((first, last, count) for first, last, _ in ranges(self, after, up_to, boundaries))

    return [(TopicLog, "trimmed_ranges", all_of_it)]


@mutant
def one_gap_for_what_lies_apart() -> list[Patch]:
    """A gap stands at its last offset, so messages pass offsets that are not reported yet."""
    ranges = TopicLog.trimmed_ranges

    def joined(self, after, up_to, boundaries):
        found = list(ranges(self, after, up_to, boundaries))
        if not found or any(count is None for _, _, count in found):
            return iter(found)
        return iter([(found[-1][1], found[-1][1], sum(count or 0 for _, _, count in found))])

    return [(TopicLog, "trimmed_ranges", joined)]


@mutant
def a_gap_in_what_was_left() -> list[Patch]:
    """A gap that waits is reported, although its topic was unsubscribed meanwhile."""
    return [(Gap, "without", lambda self, _: self)]


@contextmanager
def applied(patches: list[Patch]) -> Iterator[None]:
    """Replace the attributes, and put them back."""
    before = [(target, name, getattr(target, name)) for target, name, _ in patches]
    for target, name, value in patches:
        setattr(target, name, value)
    try:
        yield
    finally:
        for target, name, value in before:
            setattr(target, name, value)


def script(seed: int) -> list[int]:
    """A random trace, always the same for a seed."""
    generator = random.Random(seed)
    return [generator.randrange(1 << 16) for _ in range(SCRIPT_LENGTH)]


def play(seed: int) -> None:
    """One random trace of the world; raises `Violation`."""
    world = World(script(seed))
    try:
        world.play()
    finally:
        world.close()


def hunt(name: str, most: int = MOST_SCRIPTS) -> tuple[int, BaseException] | None:
    """Return the number of traces until a mutant failed, and the failure; `None` if it passed."""
    with applied(MUTANTS[name]()):
        for seed in range(most):
            try:
                play(seed)
            except (Violation, AssertionError, LookupError, ValueError) as error:
                return seed + 1, error
    return None


def main(names: list[str]) -> int:
    """Hunt the mutants of these names, or all; the exit status is how many live."""
    alive = 0
    for name in names or MUTANTS:
        found = hunt(name)
        if found is None:
            alive += 1
            print(f"ALIVE   {name}: {MOST_SCRIPTS} traces did not find it")
        else:
            print(f"killed  {name} by trace {found[0]}: {found[1]}")
    return alive


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
