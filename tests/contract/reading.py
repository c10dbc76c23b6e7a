"""Publishing to a broker, and reading from it, in few words."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast import Priority
from holdfast.brokers.protocol import Broker
from holdfast.core.cursor import MAX_OFFSET, Cursor, Head
from holdfast.core.log.pages import Page, PageRequest, ReplaySummary
from holdfast.core.message import Draft, Gap, Message, Offset, UserId
from tests.contract.implementations import CLOCK


def draft(number: object = 0, topic: str = "t", **more: Any) -> Draft:
    """A message whose body is ``number``."""
    priority = more.pop("priority", Priority.NORMAL)
    body = more.pop("body", str(number).encode())
    return Draft(topic=topic, priority=priority, body=body, timestamp=CLOCK(), **more)


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
    """One page of one lane."""
    request = PageRequest(lane, Offset(after), Offset(up_to), limit, max_bytes)
    since = {topic: Offset(at) for topic, at in (topics or {"t": 0}).items()}
    reader = None if user is None else UserId(user)
    page = await broker.read((await broker.head()).epoch, request, since, reader)
    assert page is not None
    return page


async def survey_of(broker: Broker, after: int, topics: dict[str, Offset]) -> ReplaySummary:
    """Summarize the log from a position to its end."""
    summary = await broker.summarize((await broker.head()).epoch, Cursor.at(after), topics, None)
    assert summary is not None
    return summary


async def followed(broker: Broker, begin: Head, count: int) -> list[Message]:
    """Follow from a position, in as many batches as it takes to have ``count`` messages."""
    found: list[Message] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            batch = await broker.follow(begin)
            assert not batch.truncated
            begin = batch.head
            found += batch.messages
    return found


def bodies(page: Page) -> list[bytes]:
    """The bodies of a page, without its gaps."""
    return [entry.body for entry in page.entries if isinstance(entry, Message)]


def gaps(page: Page) -> list[Gap]:
    """The gaps of a page."""
    return [entry for entry in page.entries if isinstance(entry, Gap)]
