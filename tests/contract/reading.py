"""Short calls that publish to a broker and read from it."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast import Priority
from holdfast.brokers.protocol import Broker
from holdfast.core.cursor import MAX_OFFSET, Cursor, Head
from holdfast.core.log.pages import Page, PageRequest, ReplaySummary
from holdfast.core.message import Draft, Gap, Message, Offset, UserId
from tests.contract.implementations import CLOCK


def draft(number: object = 0, topic: str = "t", **options: Any) -> Draft:
    """Return a draft whose body is `number`."""
    priority = options.pop("priority", Priority.NORMAL)
    body = options.pop("body", str(number).encode())
    return Draft(topic=topic, priority=priority, body=body, timestamp=CLOCK(), **options)


async def read(
    broker: Broker,
    lane: Priority = Priority.NORMAL,
    *,
    after: int = 0,
    topics: dict[str, int] | None = None,
    user: str | None = None,
    up_to: int = MAX_OFFSET,
    limit: int = 1000,
    max_bytes: int = 1_000_000,
) -> Page:
    """Return one page of one lane."""
    request = PageRequest(lane, Offset(after), Offset(up_to), limit, max_bytes)
    since = {topic: Offset(offset) for topic, offset in (topics or {"t": 0}).items()}
    reader = None if user is None else UserId(user)
    page = await broker.read((await broker.head()).epoch, request, since, reader)
    assert page is not None
    return page


async def summarize(broker: Broker, after: int, topics: dict[str, Offset]) -> ReplaySummary:
    """Return the summary of the log from a position to its end."""
    summary = await broker.summarize((await broker.head()).epoch, Cursor.at(after), topics, None)
    assert summary is not None
    return summary


async def follow_messages(broker: Broker, position: Head, count: int) -> list[Message]:
    """Follow the log from a position until there are `count` messages."""
    messages: list[Message] = []
    async with asyncio.timeout(5):
        while len(messages) < count:
            batch = await broker.follow(position)
            assert not batch.truncated
            position = batch.head
            messages += batch.messages
    return messages


def bodies(page: Page) -> list[bytes]:
    """Return the bodies of the messages of a page."""
    return [entry.body for entry in page.entries if isinstance(entry, Message)]


def gaps(page: Page) -> list[Gap]:
    """Return the gaps of a page."""
    return [entry for entry in page.entries if isinstance(entry, Gap)]
