"""Resume: the decision where a connection begins, a pure function of what the client presents.

    presented                     session    position                     cursor     cause
    ───────────────────────────────────────────────────────────────────────────────────────────
    nothing                       -          -                            now        -
    a token or an id              refused    id of another epoch          now        RESTART
    a token or an id              refused    any other, or unreadable     now        UNKNOWN
    an event id                   accepted   up to the head               the id's   -
    an event id                   accepted   beyond the head              now        UNKNOWN
    an event id                   accepted   forked log, up to the fork   the id's   -
    an event id                   accepted   forked log, beyond the fork  the fork   FAILOVER
    an event id                   accepted   another log                  now        RESTART
    a token alone                 accepted   stored, acknowledged         stored     -
    a token alone                 accepted   stored, only sent            stored     UNKNOWN
    a token, an unreadable id     accepted   stored                       stored     UNKNOWN
    a token                       accepted   stored, in another log       now        UNKNOWN
    a token                       accepted   nothing stored               now        UNKNOWN

An invalid token or event id is never an error, because a browser's EventSource does not reconnect
after an error. tests/core/test_resume.py has a test for each row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from .cursor import Cursor, Epoch, EventId, Head, Position
from .delivery.lanes import EVERY_LANE, NO_LANE
from .log.pages import ReplaySummary
from .message import OFFSET_ZERO, Offset, Priority
from .tokens import Session


class GapCause(Enum):
    """The cause of a gap; the value is the word on the wire (docs/protocol.md, section 8)."""

    TRIMMED = "trimmed"
    RESTART = "restart"
    FAILOVER = "failover"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Presented:
    """The event id and the reconnect token of a client.

    Attributes:
        event_id: The event id; `None` if there is none, or if it cannot be read.
        is_unreadable: True if an event id was sent that cannot be read.
        has_token: True if a reconnect token was sent beside the event id.
    """

    event_id: EventId | None = None
    is_unreadable: bool = False
    has_token: bool = False

    def __bool__(self) -> bool:
        """Return True if the client presented anything."""
        return self.event_id is not None or self.is_unreadable or self.has_token


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The place in the log where a connection begins.

    Attributes:
        epoch: The epoch of the log.
        cursor: The cursor; `None` means "now", without a replay.
        cause: The cause of the gap that is reported; `None` for no gap.
        since_limit: The highest since of the session's subscriptions; `None` for no limit. A topic
            that was subscribed beyond the fork is subscribed from the fork on.
    """

    epoch: Epoch
    cursor: Cursor | None = None
    cause: GapCause | None = None
    since_limit: Offset | None = None


def resume_point(  # noqa: PLR0911 - one return per kind of row
    presented: Presented, session: Session | None, head: Head
) -> ResumePoint:
    """Return the resume point by the table above.

    Args:
        presented: The event id and the token of the client.
        session: The session of the token; `None` if there was no token or it was refused.
        head: The end of the log, with the earlier epochs that it continues.
    """
    event_id = presented.event_id
    if session is None:
        if not presented:
            return ResumePoint(head.epoch)
        is_other_log = event_id is not None and event_id.epoch != head.epoch
        return ResumePoint(head.epoch, cause=_unknown_or_restart(is_other_log))
    position = session.position if event_id is None else Position(event_id.epoch, event_id.cursor)
    if position is None:
        return ResumePoint(head.epoch, cause=GapCause.UNKNOWN)
    is_fork = position.epoch != head.epoch
    end = head.forks.get(position.epoch) if is_fork else head.offset
    if end is None:
        return ResumePoint(head.epoch, cause=_unknown_or_restart(event_id is not None))
    since_limit = end if is_fork else None
    if position.cursor.highest <= end:
        is_exact = event_id is not None or (session.acknowledged and not presented.is_unreadable)
        cause = None if is_exact else GapCause.UNKNOWN
        return ResumePoint(head.epoch, position.cursor, cause, since_limit)
    if is_fork:
        cursor = position.cursor.capped_at(end)
        return ResumePoint(head.epoch, cursor, GapCause.FAILOVER, since_limit)
    return ResumePoint(head.epoch, cause=GapCause.UNKNOWN)


def _unknown_or_restart(is_other_log: bool) -> GapCause:
    return GapCause.RESTART if is_other_log else GapCause.UNKNOWN


def farthest_offset(cursor: Cursor, subscriptions: Mapping[str, Offset]) -> Offset:
    """Return the highest offset that a client has seen or subscribed at."""
    return max([cursor.highest, *subscriptions.values()])


def resumed_subscriptions(
    point: ResumePoint, held: Mapping[str, Offset], allowed: Iterable[str], delivered: Offset
) -> dict[str, Offset]:
    """Return the subscriptions with which a connection begins: each topic with its `since`.

    A topic of the session keeps its since. A new topic begins after everything that the client has
    seen on any node. Example: the client got 9 from another node, and this node is at 7. A since
    of 7 would repeat 8 and 9.

    Args:
        point: The resume point.
        held: The subscriptions of the session.
        allowed: The topics that the client may have.
        delivered: The offset up to which this node has delivered the log.
    """
    if point.cursor is None:
        return dict.fromkeys(allowed, delivered)
    since = max(delivered, farthest_offset(point.cursor, held))
    return {topic: held.get(topic, since) for topic in allowed}


def lanes_to_replay(
    point: ResumePoint, summary: ReplaySummary, farthest: Offset, delivered: Offset
) -> frozenset[Priority]:
    """Return the lanes that must catch up before they are live.

    An empty lane of `summary` is live at once, unless the node has delivered more messages since
    the summary, or the client is ahead of the node.

    Args:
        point: The resume point.
        summary: The counts of the messages after the cursor.
        farthest: The result of `farthest_offset`.
        delivered: The offset up to which this node has delivered the log.
    """
    if point.cursor is None:
        return NO_LANE
    if summary.empty_up_to < delivered or farthest > delivered:
        return EVERY_LANE
    return EVERY_LANE - summary.empty_lanes


NOTHING_TO_REPLAY = ReplaySummary(0, None, empty_up_to=OFFSET_ZERO)
"""The summary for a connection that begins now."""
