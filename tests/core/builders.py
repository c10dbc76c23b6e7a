"""Builders for the tests of the core: messages, histories, subscribers, malformed texts."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.core.log.history import History
from holdfast.core.log.pages import Page, PageRequest, Subscriptions
from holdfast.core.log.retention import Retention
from holdfast.core.message import Gap, Message, Offset, Priority, UserId
from holdfast.core.tokens import ConnectionId

LOW, NORMAL, HIGH, CRITICAL = Priority
EVERYTHING = 10**9


def message(
    offset: int,
    topic: str = "a",
    lane: Priority = Priority.NORMAL,
    *,
    key: str | None = None,
    size: int = 1,
    at: float = 0.0,
    expires_at: float | None = None,
    to_user: str | None = None,
) -> Message:
    """Return a message with a body of `size` bytes."""
    return Message(
        Offset(offset),
        topic,
        lane,
        b"x" * size,
        at,
        key,
        expires_at,
        None if to_user is None else UserId(to_user),
    )


def gap(
    first: int,
    *topics: str,
    lane: Priority = Priority.NORMAL,
    last: int | None = None,
    count: int | None = 1,
) -> Gap:
    """Return a gap from the offset `first` to `last`, or of the one offset `first`."""
    return Gap(lane, Offset(first), Offset(first if last is None else last), topics, count)


def page(
    history: History,
    lane: Priority = NORMAL,
    after: int = 0,
    held: dict[str, int] | None = None,
    user: UserId | None = None,
    *,
    up_to: int = EVERYTHING,
    limit: int = EVERYTHING,
    max_bytes: int = EVERYTHING,
    now: float = 0.0,
) -> Page:
    """Return a page with no other bounds than the arguments."""
    request = PageRequest(lane, Offset(after), Offset(up_to), limit, max_bytes)
    subscriptions = {name: Offset(since) for name, since in (held or {"a": 0}).items()}
    return history.page(request, subscriptions, user, now)


def messages(read: Iterable[Message | Gap]) -> list[Message]:
    """Return the messages among the entries."""
    return [entry for entry in read if isinstance(entry, Message)]


def gaps(read: Iterable[Message | Gap]) -> list[Gap]:
    """Return the gaps among the entries."""
    return [entry for entry in read if isinstance(entry, Gap)]


def published(*drafts: Message, keep: Retention | None = None) -> History:
    """Return a history with these messages, appended at time 0."""
    history = History(keep)
    for each in drafts:
        history.append(each, 0.0)
    return history


def row(*drafts: tuple[str, Priority]) -> list[Message]:
    """Return messages with the offsets 1, 2, 3 … of these topics and lanes."""
    return [message(offset, topic, lane) for offset, (topic, lane) in enumerate(drafts, 1)]


class Subscriber:
    """A `Registrable` of the tests: an id, a user, and subscriptions."""

    def __init__(self, id: str, user: UserId | None, subscriptions: Subscriptions) -> None:
        self.id = ConnectionId(id)
        self.user = user
        self.subscriptions = subscriptions

    def replace_subscriptions(self, subscriptions: Subscriptions) -> None:
        """See `Registrable.replace_subscriptions`."""
        self.subscriptions = subscriptions


NASTY = [
    "",
    " ",
    "\0",
    "\r\n",
    "\n",
    "\x1b[2J",
    "\ud800",
    "\udcff\udc80",
    "\ufeff",
    "\u2028",
    "\u2029",
    "\u200b",
    "\u202e",
    "\u00a0",
    "٥",
    "\uff15",
    "²",
    "Ⅷ",
    "\U0001d7d7",
    "+5",
    "-1",
    "-0",
    "1_000",
    " 5",
    "5 ",
    "5\n",
    "05",
    "0x10",
    "5.0",
    "1e3",
    "NaN",
    "inf",
    "%35",
    "%00",
    "..",
    "~~",
    "null",
    "true",
    "[]",
    "{}",
    "9" * 19,
    str(2**63),
    str(2**64),
    "9" * 5_000,
    "x" * 10_240,
    "é" * 10_240,
    "\0" * 1_000_000,
]
"""Texts that a client may send where an offset, an id, a token or a name belongs."""
