"""The measured operations by class. Each function makes the cases of one class."""

from __future__ import annotations

import asyncio
import itertools
import queue
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.core.cursor import Cursor, Epoch, EventId
from holdfast.core.delivery.buffer import PriorityBuffer
from holdfast.core.delivery.window import Window
from holdfast.core.log.history import History
from holdfast.core.log.pages import PageRequest
from holdfast.core.log.retention import Retention
from holdfast.core.message import Message, Offset, Priority, UserId
from holdfast.core.registry import ConnectionLimits, ConnectionRegistry
from holdfast.core.tokens import ConnectionId, Session, Token, TokenRegistry
from holdfast.core.topics import TopicIndex
from tests.benchmarks.micro.timing import Case
from tests.core.builders import Subscriber, message

if TYPE_CHECKING:
    from collections.abc import Iterator

Repeat = Callable[[Iterable[Any]], None]

SIZES = (10, 100, 1000, 10_000, 100_000)
BODY = 100
LANES = list(Priority)
NONCE = b"\1" * 16


def token_of(number: int) -> Token:
    """Return a token of the right form."""
    return Token(f"{number:022d}")


def priority_buffer() -> Iterator[Case]:
    """`offer` and `take` with a number of held messages, beside the queues of the standard library.

    Applications use these queues instead. They have no bound by bytes, no eviction and no
    conflation.
    """
    for size in SIZES:
        yield _buffer("PriorityBuffer offer + take", size, keys=0)
        yield _buffer("PriorityBuffer offer + take, 100 keys", size, keys=100)
        yield _evicting("PriorityBuffer offer to a full one", size)
        yield _queue("asyncio.PriorityQueue put + get", size, asyncio.PriorityQueue())
        yield _queue("queue.PriorityQueue put + get", size, queue.PriorityQueue())


def _messages(offsets: Iterator[int], keys: int = 0) -> Callable[[int], list[Message]]:
    """Return a function that makes messages in all lanes in turn, each with one of `keys` keys."""

    def make(count: int) -> list[Message]:
        return [
            message(
                offset,
                lane=LANES[offset % 4],
                key=f"k{offset % keys}" if keys else None,
                size=BODY,
            )
            for offset in itertools.islice(offsets, count)
        ]

    return make


def _buffer(name: str, size: int, *, keys: int) -> Case:
    buffer, offsets = PriorityBuffer(size + 1, max_bytes=10**12), itertools.count(1)
    for each in _messages(offsets)(size):
        buffer.offer(each)

    def repeat(messages: Iterable[Message]) -> None:
        for each in messages:
            buffer.offer(each)
            buffer.take(0.0)

    return Case(name, size, repeat, _messages(offsets, keys))


def _evicting(name: str, size: int) -> Case:
    buffer, make = PriorityBuffer(size, max_bytes=10**12), _messages(itertools.count(1))

    def repeat(messages: Iterable[Message]) -> None:
        for each in messages:
            buffer.offer(each)

    repeat(make(size))
    return Case(name, size, repeat, make)


def _queue(name: str, size: int, held: Any) -> Case:
    make = _messages(itertools.count(1))

    def put(each: Message) -> None:
        held.put_nowait((-each.priority, each.offset, each))

    for each in make(size):
        put(each)

    def repeat(messages: Iterable[Message]) -> None:
        for each in messages:
            held.put_nowait((-each.priority, each.offset, each))
            held.get_nowait()

    return Case(name, size, repeat, make)


def history() -> Iterator[Case]:
    """`append` to one of many topics, and a page of up to 64 from among many messages."""
    for size in SIZES:
        yield _append(size)
        yield _page(size)


def _append(size: int) -> Case:
    log, offsets = History(Retention(limit=10, age=None)), itertools.count(1)

    def make(count: int) -> list[Message]:
        return [
            message(offset, topic=f"t{offset % size}", size=BODY)
            for offset in itertools.islice(offsets, count)
        ]

    def repeat(messages: Iterable[Message]) -> None:
        for each in messages:
            log.append(each, 0.0)

    repeat(make(10 * size if size < 10_000 else size))
    return Case("History append, one of n topics", size, repeat, make)


def _page(size: int) -> Case:
    log, offsets = History(Retention(limit=size, age=None)), range(1, size + 1)
    for offset in offsets:
        log.append(message(offset, size=BODY), 0.0)
    after = Offset(max(0, size // 2 - 32))
    request = PageRequest(Priority.NORMAL, after, log.head, 64, 10**9)

    def read() -> None:
        log.page(request, {"a": Offset(0)}, None, 0.0)

    name = "History page, per message, of n messages"
    return Case(name, size, _repeated(read), operations=min(64, size))


def cursor() -> Iterator[Case]:
    """An event id to text and back, short and long."""
    epoch, token = Epoch("e" * 12), token_of(1)
    for name, marks in (("one number", (7, 7, 7, 7)), ("four numbers", (7, 10**9, 3, 10**12))):
        low, normal, high, critical = (Offset(mark) for mark in marks)
        id = EventId(epoch, Cursor((low, normal, high, critical)), token)
        text = str(id)
        yield Case(f"EventId str, {name}", 0, _repeated(partial(str, id)))
        yield Case(f"EventId.parse, {name}", 0, _repeated(partial(EventId.parse, text)))
    yield Case("EventId.parse, refused", 0, _repeated(partial(EventId.parse, "x" * 57)))


def tokens() -> Iterator[Case]:
    """`issue` with `detach`, and `redeem` with `detach`, among a number of sessions."""
    for size in SIZES[:-1]:
        yield Case("TokenRegistry issue + detach + drop", size, _issue(size))
        yield Case("TokenRegistry redeem + detach", size, _redeem(size))


def _tokens(size: int) -> TokenRegistry:
    registry = TokenRegistry()
    for number in range(size):
        session = Session(UserId(f"u{number}"))
        registry.issue(token_of(number), session, 0.0, ConnectionId("c"))
        registry.detach(ConnectionId("c"), session, 0.0)
    return registry


def _issue(size: int) -> Repeat:
    registry, numbers = _tokens(size), itertools.count(size)

    def repeat(times: Iterable[int]) -> None:
        for _ in times:
            session = Session(UserId("new"))
            registry.issue(token_of(next(numbers)), session, 0.0, ConnectionId("c"))
            registry.detach(ConnectionId("c"), session, 0.0)
            registry.drop_user(UserId("new"))

    return repeat


def _redeem(size: int) -> Repeat:
    registry, token = _tokens(size), token_of(size // 2)
    user = UserId(f"u{size // 2}")

    def repeat(times: Iterable[int]) -> None:
        nonlocal token
        for _ in times:
            answer = registry.redeem(token, user, ConnectionId("c"), NONCE, 0.0)
            assert answer.session is not None
            assert answer.token is not None
            token = answer.token
            registry.detach(ConnectionId("c"), answer.session, 0.0)

    return repeat


def topics() -> Iterator[Case]:
    """`match` of a topic with ten subscribers, among a number of topics, and patterns."""
    for size in SIZES:
        index: TopicIndex[int] = TopicIndex()
        for number in range(size):
            index.add(f"area.{number}.news", number)
        for number in range(10):
            index.add("area.5.hot", number)
        match = _repeated(partial(index.match, "area.5.hot"))
        yield Case("TopicIndex match, exact", size, match)
        both: TopicIndex[int] = TopicIndex()
        for number in range(size):
            both.add(f"area.{number}.*", number)
        for number in range(10):
            both.add("area.5.*", -number)
        match = _repeated(partial(both.match, "area.5.hot"))
        yield Case("TopicIndex match, patterns", size, match)


def connections() -> Iterator[Case]:
    """`add` and `remove` of a connection with ten topics, among a number of others."""
    for size in SIZES[:-1]:
        registry = ConnectionRegistry[Subscriber](ConnectionLimits(total=10**6))
        names = dict.fromkeys((f"t{number}" for number in range(10)), Offset(0))
        for number in range(size):
            registry.add(Subscriber(f"c{number}", None, dict(names)))
        yield Case("ConnectionRegistry add + remove", size, _comes_and_goes(registry, names))


def _comes_and_goes(registry: ConnectionRegistry[Subscriber], names: dict[str, Offset]) -> Repeat:
    one = Subscriber("new", UserId("u"), dict(names))

    def repeat(times: Iterable[int]) -> None:
        for _ in times:
            registry.add(one)
            registry.remove(one)

    return repeat


def window() -> Iterator[Case]:
    """`sent` and `acknowledge`, with a number of frames in flight."""
    for size in SIZES:
        made, numbers = Window(10**9), itertools.count(1)
        for number in itertools.islice(numbers, size):
            made.record_sent(Cursor.at(number), BODY, 0.0)
        yield Case("Window sent + acknowledge", size, _under_way(made, numbers, size))


def _under_way(made: Window, numbers: Iterator[int], size: int) -> Repeat:
    def repeat(times: Iterable[int]) -> None:
        for number, _ in zip(numbers, times, strict=False):
            made.record_sent(Cursor.at(number), BODY, 0.0)
            made.acknowledge(Cursor.at(number - size), 0.0)

    return repeat


def _repeated(operation: Callable[[], object]) -> Repeat:
    def repeat(times: Iterable[int]) -> None:
        for _ in times:
            operation()

    return repeat


CLASSES = {
    "buffer": priority_buffer,
    "history": history,
    "cursor": cursor,
    "tokens": tokens,
    "topics": topics,
    "connections": connections,
    "window": window,
}
