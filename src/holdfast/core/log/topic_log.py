"""TopicLog: the messages of one address in one lane, and the offsets of its trimmed messages."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from ..message import Message, Offset

MIN_TRIMMED_OFFSETS = 1024
"""Offsets of trimmed messages that a log keeps at least (at most twice as many), 8 bytes each.

Gaps that lie within them have an exact count; the count of an older gap is unknown.
"""


class TopicLog:
    """One topic's messages of one lane, for all users or for one user.

    A message leaves in one of three ways, and only the last one is a loss:

    1. `remove`, because a newer message of the same key supersedes it;
    2. `pop_oldest`, when it is trimmed after its ttl has passed;
    3. `pop_oldest` and `add_trimmed`, when it is trimmed earlier to keep the log within its bounds.

    Example, with `uncounted_through` 3: the offsets 5 and 8 were trimmed, 9 and 12 are held. A
    reader after 4 is missing two messages. A reader after 0 is missing those two and an unknown
    number up to offset 3.

    Storage: `offsets` and `messages` are parallel lists in offset order. `remove` leaves `None` in
    `messages`; the lists are compacted when more than half of their entries are `None`. Trimming
    moves `start` and deletes the front later, in one piece. Each entry is thus copied a constant
    number of times.

    Invariants (the state machine in tests/core/log/test_topic_log.py, which compares with plain
    lists): `held` and `held_bytes` count the messages that were appended and neither removed nor
    popped; every trimmed offset is in exactly one of the `trimmed_ranges`; a count is exact or
    `None`.

    Args:
        uncounted_through: Up to this offset, the number of trimmed messages is unknown.
        trimmed_offsets: Trimmed offsets beyond it, in ascending order.
    """

    __slots__ = (
        "_has_ttl",
        "held",
        "held_bytes",
        "messages",
        "offsets",
        "start",
        "trimmed_offsets",
        "uncounted_through",
    )

    def __init__(self, uncounted_through: Offset, trimmed_offsets: Iterable[Offset] = ()) -> None:
        self.offsets: list[Offset] = []
        self.messages: list[Message | None] = []
        self.start = 0
        self.held = 0
        self.held_bytes = 0
        self.trimmed_offsets = array("q", trimmed_offsets)
        self.uncounted_through = uncounted_through
        self._has_ttl = False  # true once a message with a ttl was appended

    @property
    def trimmed_through(self) -> Offset:
        """The offset of the newest trimmed message, 0 if none was trimmed."""
        return Offset(self.trimmed_offsets[-1]) if self.trimmed_offsets else self.uncounted_through

    @property
    def last_offset(self) -> Offset:
        """The highest offset in this log, held or trimmed."""
        return self.offsets[-1] if self.offsets else self.trimmed_through

    def append(self, message: Message) -> None:
        """Add a message whose offset is higher than all others."""
        self.offsets.append(message.offset)
        self.messages.append(message)
        self.held += 1
        self.held_bytes += len(message.body)
        self._has_ttl |= message.expires_at is not None

    def remove(self, offset: Offset) -> None:
        """Remove a superseded message; does nothing if the log does not hold that offset."""
        index = bisect_right(self.offsets, offset, self.start) - 1
        if index < self.start or self.offsets[index] != offset:
            return
        message = self.messages[index]
        if message is not None:
            self.messages[index] = None
            self.held -= 1
            self.held_bytes -= len(message.body)
        if len(self.messages) - self.start > 2 * self.held + 16:
            kept = [m for m in self.messages[self.start :] if m is not None]
            self.messages[:] = kept
            self.offsets[:] = [m.offset for m in kept]
            self.start = 0

    def oldest(self) -> Message | None:
        """Return the oldest message, `None` if the log is empty."""
        while self.start < len(self.messages):
            message = self.messages[self.start]
            if message is not None:
                return message
            self.start += 1  # past a removed message, so that no later call meets it again
        return None

    def pop_oldest(self) -> Message | None:
        """Remove and return the oldest message, `None` if the log is empty."""
        message = self.oldest()
        if message is not None:
            self.messages[self.start] = None
            self.start += 1
            self.held -= 1
            self.held_bytes -= len(message.body)
        if self.start > 16 and 2 * self.start > len(self.messages):
            del self.messages[: self.start], self.offsets[: self.start]
            self.start = 0
        return message

    def add_trimmed(self, offset: Offset, limit: int) -> None:
        """Record that a popped message is a loss; keep the offsets of the newest `limit` losses."""
        self.trimmed_offsets.append(offset)
        if len(self.trimmed_offsets) > 2 * limit:
            excess = len(self.trimmed_offsets) - limit
            self.uncounted_through = Offset(self.trimmed_offsets[excess - 1])
            del self.trimmed_offsets[:excess]

    def messages_after(self, offset: Offset) -> Iterator[Message]:
        """Return the messages after `offset` in order, at the cost of a binary search."""
        indexes = range(bisect_right(self.offsets, offset, self.start), len(self.messages))
        return filter(None, map(self.messages.__getitem__, indexes))

    def count_after(self, offset: Offset, now: float) -> int:
        """Return the number of messages after `offset` that have not expired."""
        if self._has_ttl:
            return sum([not message.has_expired(now) for message in self.messages_after(offset)])
        first = bisect_right(self.offsets, offset, self.start)
        if self.held == len(self.messages) - self.start:  # no entry is None
            return len(self.messages) - first
        return sum([message is not None for message in self.messages[first:]])

    def count_trimmed(self, after: Offset, up_to: Offset) -> int | None:
        """Return the number of messages trimmed after `after` and up to `up_to`.

        The result is `None` if the number is unknown for a part of that range.
        """
        if after < min(self.uncounted_through, up_to):
            return None
        trimmed = self.trimmed_offsets
        return max(0, bisect_right(trimmed, up_to) - bisect_right(trimmed, after))

    def trimmed_ranges(
        self, after: Offset, up_to: Offset, boundaries: list[Offset]
    ) -> Iterator[tuple[Offset, Offset, int | None]]:
        """Yield (first, last, count) for the messages trimmed after `after`, up to `up_to`.

        No range contains one of the ascending `boundaries`, which are the offsets of the messages
        on a page. Each range becomes a gap between two messages. Example: 3, 5 and 8 were trimmed
        and message 6 is on the page. The ranges are (3, 5, 2) and (8, 8, 1), so a client that is
        cut off after message 6 has received a gap of exactly two lost messages.
        """
        uncounted = min(self.uncounted_through, up_to)
        first = after + 1
        for offset in boundaries[bisect_left(boundaries, first) :]:
            if offset > uncounted:
                break
            if first < offset:
                yield Offset(first), Offset(offset - 1), None
            first = offset + 1
        if first <= uncounted:
            yield Offset(first), uncounted, None
        trimmed = self.trimmed_offsets
        index, end = bisect_right(trimmed, after), bisect_right(trimmed, up_to)
        while index < end:
            boundary = bisect_right(boundaries, trimmed[index])
            stop = end
            if boundary < len(boundaries):
                stop = bisect_right(trimmed, boundaries[boundary], index, end)
            yield Offset(trimmed[index]), Offset(trimmed[stop - 1]), stop - index
            index = stop
