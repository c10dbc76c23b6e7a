"""TopicLog: one topic's messages of one lane, and what is known of those that are gone."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from ..message import Message, Offset

REMEMBERED = 1024
"""Of how many trimmed messages the offset is kept, so that gaps can say exactly what is lost."""


class TopicLog:
    """One topic's messages of one lane, for all or for one user: two parallel lists.

    Superseded messages leave a hole in `messages`, compacted when holes prevail; the front is
    trimmed by moving `start`. `trimmed` remembers the offsets that were trimmed, newest last.
    """

    __slots__ = (
        "_expires",
        "bytes",
        "forgotten",
        "live",
        "messages",
        "offsets",
        "start",
        "trimmed",
    )

    def __init__(self, forgotten: Offset) -> None:
        self.offsets: list[Offset] = []
        self.messages: list[Message | None] = []
        self.start = 0
        self.live = 0
        self.bytes = 0
        self.trimmed = array("q")
        self.forgotten = forgotten  # how far not even the number of lost messages is known
        self._expires = False  # whether a message with a ttl was ever here

    @property
    def trimmed_through(self) -> Offset:
        """The offset up to which messages are gone; 0 when none is."""
        return Offset(self.trimmed[-1]) if self.trimmed else self.forgotten

    @property
    def last(self) -> Offset:
        """The newest offset that this log knows of."""
        return self.offsets[-1] if self.offsets else self.trimmed_through

    def append(self, message: Message) -> None:
        """Add a message; its offset is the highest."""
        self.offsets.append(message.offset)
        self.messages.append(message)
        self.live += 1
        self.bytes += len(message.body)
        self._expires |= message.expires_at is not None

    def remove(self, offset: Offset) -> None:
        """Forget a superseded message, if it is still here."""
        index = bisect_right(self.offsets, offset, self.start) - 1
        if index < self.start or self.offsets[index] != offset:
            return
        message = self.messages[index]
        if message is not None:
            self.messages[index] = None
            self.live -= 1
            self.bytes -= len(message.body)
        if len(self.messages) - self.start > 2 * self.live + 16:
            kept = [m for m in self.messages[self.start :] if m is not None]
            self.messages[:] = kept
            self.offsets[:] = [m.offset for m in kept]
            self.start = 0

    def oldest(self) -> Message | None:
        """The oldest message that is still here."""
        while self.start < len(self.messages):
            message = self.messages[self.start]
            if message is not None:
                return message
            self.start += 1
        return None

    def pop_oldest(self) -> Message | None:
        """Remove and return the oldest message; `None` when there is none."""
        message = self.oldest()
        if message is not None:
            self.messages[self.start] = None
            self.start += 1
            self.live -= 1
            self.bytes -= len(message.body)
        if self.start > 16 and 2 * self.start > len(self.messages):
            del self.messages[: self.start], self.offsets[: self.start]
            self.start = 0
        return message

    def note_trimmed(self, offset: Offset, limit: int) -> None:
        """Remember that a message is lost; of the last `limit` at least, which they were."""
        self.trimmed.append(offset)
        if len(self.trimmed) > 2 * limit:
            cut = len(self.trimmed) - limit
            self.forgotten = Offset(self.trimmed[cut - 1])
            del self.trimmed[:cut]

    def after(self, offset: Offset) -> Iterator[Message]:
        """The messages beyond `offset`, in order; finding the first is a binary search."""
        places = range(bisect_right(self.offsets, offset, self.start), len(self.messages))
        return filter(None, map(self.messages.__getitem__, places))

    def count(self, after: Offset, now: float) -> int:
        """How many messages beyond `after` have not expired; walks only where it must."""
        if self._expires:
            return sum([not message.has_expired(now) for message in self.after(after)])
        begin = bisect_right(self.offsets, after, self.start)
        if self.live == len(self.messages) - self.start:
            return len(self.messages) - begin
        return sum([message is not None for message in self.messages[begin:]])

    def lost(self, after: Offset, up_to: Offset) -> int | None:
        """How many were trimmed after `after`, up to `up_to`; `None` if that is forgotten."""
        if after < min(self.forgotten, up_to):
            return None
        return max(0, bisect_right(self.trimmed, up_to) - bisect_right(self.trimmed, after))

    def runs(
        self, after: Offset, up_to: Offset, between: list[Offset]
    ) -> Iterator[tuple[Offset, Offset, int | None]]:
        """What was trimmed after `after`, up to `up_to`, as (first, last, how many).

        No run reaches over one of the offsets `between`, so that a reader who is cut off between
        two messages has been told exactly of what lies before the first.
        """
        forgotten = min(self.forgotten, up_to)
        first = after + 1
        for offset in between[bisect_left(between, first) :]:
            if offset > forgotten:
                break
            if first < offset:
                yield Offset(first), Offset(offset - 1), None
            first = offset + 1
        if first <= forgotten:
            yield Offset(first), forgotten, None
        start = bisect_right(self.trimmed, after)
        end = bisect_right(self.trimmed, up_to)
        while start < end:
            following = bisect_right(between, self.trimmed[start])
            stop = end
            if following < len(between):
                stop = bisect_right(self.trimmed, between[following], start, end)
            yield Offset(self.trimmed[start]), Offset(self.trimmed[stop - 1]), stop - start
            start = stop
