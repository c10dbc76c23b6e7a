"""What every Broker must do. To hold another one to it, add its factory to `FACTORIES`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis._parsers import _AsyncRESP2Parser
from redis.asyncio import ConnectionPool, Redis, RedisCluster

from holdfast import Cursor, MemoryBroker, NotRunning, Priority, Retention, TokenLimits
from holdfast.brokers.redis import RedisBroker
from holdfast.core.cursor import MAX_OFFSET
from holdfast.core.delivery import PageRequest
from holdfast.core.message import Gap, Message, Offset, UserId
from holdfast.core.presence import NodeId
from holdfast.core.tokens import ConnectionId, Position, Presented, Session
from holdfast.runtime.broker import Broker, Draft, Head
from tests.support.processes import HOST
from tests.support.redis_server import shared_cluster, shared_server
from tests.support.virtual import settle

if TYPE_CHECKING:
    from holdfast.core.history import Page, Survey


class Clock:
    """Seconds since the Unix epoch, with a lever."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def __call__(self) -> float:
        return time.time() + self._skipped

    def skip(self, seconds: float) -> None:
        """Let time pass at once."""
        self._skipped += seconds


CLOCK = Clock()


Make = Callable[..., Broker]
"""Makes a broker with an empty log of its own, from `retention` and `tokens`."""


@asynccontextmanager
async def memory() -> AsyncIterator[Make]:
    """The default broker."""
    yield lambda **limits: MemoryBroker(clock=CLOCK, **limits)


@asynccontextmanager
async def redis(connect: Callable[[], Redis | RedisCluster]) -> AsyncIterator[Make]:
    """The broker on Redis, each in a hub of its own."""
    made: list[RedisBroker] = []
    async with connect() as client:

        def make(**limits: Any) -> Broker:
            made.append(RedisBroker(client, hub=secrets.token_hex(8), clock=CLOCK, **limits))
            return made[-1]

        yield make
        for broker in made:
            await broker.close()


def plain(**options: Any) -> Redis:
    """A client of one server."""
    return Redis.from_url(shared_server().url, **options)


def without_hiredis() -> Redis:
    """A client with the parser that is written in Python."""
    pool = ConnectionPool.from_url(shared_server().url, parser_class=_AsyncRESP2Parser, protocol=2)
    return Redis.from_pool(pool)


def cluster() -> RedisCluster:
    """A client of a Redis Cluster."""
    return RedisCluster(HOST, shared_cluster().port)


FACTORIES: dict[str, Callable[[], AbstractAsyncContextManager[Make]]] = {
    "memory": memory,
    "redis": lambda: redis(lambda: plain(protocol=2)),
    "redis, RESP3": lambda: redis(lambda: plain(protocol=3)),
    "redis, without hiredis": lambda: redis(without_hiredis),
    "redis, cluster": lambda: redis(cluster),
}


@pytest.fixture(params=FACTORIES)
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """The factory of each implementation."""
    async with FACTORIES[request.param]() as factory:
        yield factory


@pytest.fixture
async def broker(make: Make) -> AsyncIterator[Broker]:
    """A started broker with an empty log."""
    made = make()
    await made.start()
    yield made
    await made.close()


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


async def survey_of(broker: Broker, after: int, topics: dict[str, Offset]) -> Survey:
    """What lies between a position and the end of the log."""
    survey = await broker.survey((await broker.head()).epoch, Cursor.at(after), topics, None)
    assert survey is not None
    return survey


async def followed(broker: Broker, begin: Head, count: int) -> list[Message]:
    """What follows a position, in as many batches as it takes to have ``count`` messages."""
    found: list[Message] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            batch = await broker.follow(begin)
            assert not batch.missed
            begin = batch.head
            found += batch.messages
    return found


def bodies(page: Page) -> list[bytes]:
    """What a page holds; gaps are left out."""
    return [entry.body for entry in page.entries if isinstance(entry, Message)]


def gaps(page: Page) -> list[Gap]:
    """The gaps of a page."""
    return [entry for entry in page.entries if isinstance(entry, Gap)]


class TestLog:
    """Publishing, and reading what was published."""

    async def test_published_is_readable_at_once(self, broker: Broker) -> None:
        """What publish returned for can be read, without waiting for anything."""
        head = await broker.publish(draft(1))
        page = await read(broker)
        assert bodies(page) == [b"1"]
        assert page.through == head.offset
        assert await broker.head() == head

    async def test_order_is_that_of_publishing(self, broker: Broker) -> None:
        """Offsets ascend by one, and a lane is read in their order."""
        offsets = [(await broker.publish(draft(n))).offset for n in range(10)]
        assert offsets == list(range(offsets[0], offsets[0] + 10))
        page = await read(broker)
        assert bodies(page) == [b"%d" % n for n in range(10)]
        assert page.complete

    async def test_concurrent_publishers_get_offsets_of_their_own(self, broker: Broker) -> None:
        """Publishing at the same time gives each message its own place."""
        heads = await asyncio.gather(*(broker.publish(draft(n)) for n in range(20)))
        offsets = [head.offset for head in heads]
        assert sorted(offsets) == list(range(min(offsets), min(offsets) + 20))
        by_offset = [n for _, n in sorted(zip(offsets, range(20), strict=True))]
        assert bodies(await read(broker)) == [b"%d" % n for n in by_offset]

    async def test_message_comes_back_as_it_was(self, broker: Broker) -> None:
        """Every field of a draft is kept."""
        body = '{"data":"é\u2028\\u0000"}'.encode()
        given_ = draft(
            body=body, priority=Priority.CRITICAL, key="", expires_at=CLOCK() + 60.0,
            to_user=UserId("ann"),
        )  # fmt: skip
        head = await broker.publish(given_)
        (entry,) = (await read(broker, Priority.CRITICAL, user="ann")).entries
        assert isinstance(entry, Message)
        for name in ("topic", "priority", "body", "timestamp", "key", "expires_at", "to_user"):
            assert getattr(entry, name) == getattr(given_, name), name
        assert entry.offset == head.offset

    async def test_lanes_are_read_one_by_one(self, broker: Broker) -> None:
        """A page holds its own lane only."""
        for lane in Priority:
            await broker.publish(draft(lane.label, priority=lane))
        for lane in Priority:
            assert bodies(await read(broker, lane)) == [lane.label.encode()]

    async def test_pages_join_without_hole_or_overlap(self, broker: Broker) -> None:
        """Reading on from `through`, page by page, gives everything once, in order."""
        for n in range(25):
            await broker.publish(draft(n, topic="tu"[n % 2]))
        found: list[bytes] = []
        after, complete = 0, False
        while not complete:
            page = await read(broker, after=after, topics={"t": 0, "u": 0}, limit=4)
            assert len(page.entries) <= 4
            assert page.complete or page.through > after
            found += bodies(page)
            after, complete = page.through, page.complete
        assert found == [b"%d" % n for n in range(25)]

    async def test_page_is_bounded_in_bytes_but_not_empty(self, broker: Broker) -> None:
        """A page stops before its bytes are exceeded, and yet a large message gets through."""
        for n in range(3):
            await broker.publish(draft(body=b"%d" % n * 100))
        page = await read(broker, max_bytes=10)
        assert len(page.entries) == 1
        assert not page.complete
        assert len((await read(broker, max_bytes=250)).entries) == 2

    async def test_page_ends_where_it_is_asked_to(self, broker: Broker) -> None:
        """Nothing beyond `up_to` is read, and such a page is complete there."""
        for n in range(10):
            await broker.publish(draft(n))
        page = await read(broker, after=2, up_to=6)
        assert bodies(page) == [b"2", b"3", b"4", b"5"]
        assert (page.through, page.complete) == (6, True)

    async def test_since_hides_what_was_before(self, broker: Broker) -> None:
        """What was published up to `since` is neither read nor counted nor declared lost."""
        await broker.publish(draft(1))
        head = await broker.publish(draft(2))
        await broker.publish(draft(3))
        topics: dict[str, int] = {"t": head.offset}
        assert bodies(await read(broker, topics=topics)) == [b"3"]
        survey = await survey_of(broker, 0, {"t": head.offset})
        assert (survey.replay, survey.lost) == (1, None)

    async def test_patterns_are_read(self, broker: Broker) -> None:
        """A pattern reads each topic that it covers once, and no other."""
        for topic in ("a.b", "a.c", "b.c", "a"):
            await broker.publish(draft(topic, topic=topic))
        found = bodies(await read(broker, topics={"a.*": 0, "a.b": 0, "**": 10**9}))
        assert found == [b"a.b", b"a.c"]

    async def test_personal_messages_are_for_their_user(self, broker: Broker) -> None:
        """A message to a user is read by that user only, beside what is for all."""
        await broker.publish(draft("all"))
        await broker.publish(draft("ann", to_user=UserId("ann")))
        await broker.publish(draft("bob", to_user=UserId("bob")))
        assert bodies(await read(broker)) == [b"all"]
        assert bodies(await read(broker, user="ann")) == [b"all", b"ann"]
        assert bodies(await read(broker, user="carl")) == [b"all"]

    async def test_superseded_is_not_replayed(self, broker: Broker) -> None:
        """Of a key only the newest value is read, also across lanes, and nothing is lost by it."""
        await broker.publish(draft(1, key="k"))
        await broker.publish(draft(2, key="k", priority=Priority.LOW))
        await broker.publish(draft(3, key="other"))
        await broker.publish(draft(4, key="k", topic="u"))
        await broker.publish(draft(5, key="k", to_user=UserId("ann")))
        topics = {"t": 0, "u": 0}
        found = [e for lane in Priority for e in (await read(broker, lane, topics=topics)).entries]
        assert [e.body for e in found if isinstance(e, Message)] == [b"2", b"3", b"4"]
        survey = await survey_of(broker, 0, {"t": Offset(0), "u": Offset(0)})
        assert (survey.replay, survey.lost) == (3, None)

    async def test_empty_key_is_a_key(self, broker: Broker) -> None:
        """An empty key conflates; no key does not."""
        for n, key in enumerate(["", "", None, None]):
            await broker.publish(draft(n, key=key))
        assert bodies(await read(broker)) == [b"1", b"2", b"3"]

    async def test_expired_is_not_replayed_and_not_lost(self, broker: Broker) -> None:
        """A message whose ttl has passed is not read, and no gap stands for it."""
        await broker.publish(draft(1, expires_at=CLOCK() + 5.0))
        await broker.publish(draft(2))
        assert bodies(await read(broker)) == [b"1", b"2"]
        CLOCK.skip(6.0)
        page = await read(broker)
        assert (bodies(page), gaps(page)) == ([b"2"], [])

    async def test_idempotency_key_publishes_once(self, broker: Broker) -> None:
        """Publishing again with the key appends nothing and returns the first position."""
        first = await broker.publish(draft(1, idempotency_key="x"))
        await broker.publish(draft(2))
        again = await broker.publish(draft(3, idempotency_key="x"))
        other = await broker.publish(draft(4, idempotency_key="y"))
        assert again.offset == first.offset
        assert other.offset > first.offset
        assert bodies(await read(broker)) == [b"1", b"2", b"4"]

    async def test_idempotency_holds_for_concurrent_publishers(self, broker: Broker) -> None:
        """Of several at once with one key, one publishes, and all get its position."""
        heads = await asyncio.gather(
            *(broker.publish(draft(n, idempotency_key="x")) for n in range(8))
        )
        assert len({head.offset for head in heads}) == 1
        assert len(bodies(await read(broker))) == 1


class TestRetention:
    """What is kept, for how long, and how the rest is declared."""

    async def test_kept_per_topic_and_lane(self, make: Make) -> None:
        """A busy topic pushes out no quiet one, nor LOW the others of its own topic."""
        broker = make(retention=Retention(limit=5))
        await broker.start()
        await broker.publish(draft("quiet", topic="q"))
        await broker.publish(draft("critical", priority=Priority.CRITICAL))
        for n in range(20):
            await broker.publish(draft(n, priority=Priority.LOW))
        topics = {"t": 0, "q": 0}
        assert bodies(await read(broker, topics=topics)) == [b"quiet"]
        assert bodies(await read(broker, Priority.CRITICAL, topics=topics)) == [b"critical"]
        low = await read(broker, Priority.LOW, topics=topics)
        assert bodies(low) == [b"%d" % n for n in range(15, 20)]
        (gap,) = gaps(low)
        assert (gap.count, gap.topics, gap.priority) == (15, ("t",), Priority.LOW)
        assert low.entries[0] is gap

    async def test_gap_only_for_who_missed_something(self, make: Make) -> None:
        """A reader behind the trimmed part gets a gap with the exact count; one beyond it none."""
        broker = make(retention=Retention(limit=3))
        await broker.start()
        offsets = [(await broker.publish(draft(n))).offset for n in range(10)]
        for position, lost in [(offsets[3], 3), (offsets[5], 1), (offsets[6], 0), (offsets[8], 0)]:
            survey = await survey_of(broker, position, {"t": Offset(0)})
            assert (survey.lost.count if survey.lost else 0) == lost
            page = await read(broker, after=position)
            assert sum(gap.count or 0 for gap in gaps(page)) == lost

    async def test_age_is_kept_by_the_sweep(self, make: Make) -> None:
        """What is older than its age is gone after a sweep, and declared."""
        broker = make(retention=Retention(age=10.0))
        assert broker.history_age == 10.0
        await broker.start()
        await broker.publish(draft(1))
        CLOCK.skip(6.0)
        await broker.publish(draft(2))
        CLOCK.skip(6.0)
        await broker.sweep()
        page = await read(broker)
        assert bodies(page) == [b"2"]
        assert [gap.count for gap in gaps(page)] == [1]

    async def test_nothing_kept_is_declared(self, make: Make) -> None:
        """With a limit of 0 the live feed has everything, and a reader of the past a gap."""
        broker = make(retention=Retention(limit=0))
        await broker.start()
        begin = await broker.head()
        await broker.publish(draft(1))
        batch = await broker.follow(begin)
        assert [m.body for m in batch.messages] == [b"1"]
        page = await read(broker)
        assert (bodies(page), [gap.count for gap in gaps(page)]) == ([], [1])

    async def test_a_wider_gap_than_is_remembered_has_no_count(self, make: Make) -> None:
        """A reader from very far back is told of the gap, if not of its size."""
        broker = make(retention=Retention(limit=16))
        await broker.start()
        for n in range(200):
            await broker.publish(draft(n))
        survey = await survey_of(broker, 1, {"t": Offset(0)})
        assert survey.lost is not None
        assert survey.lost.count in (None, 183)


class TestFollow:
    """The live feed."""

    async def test_returns_what_follows(self, broker: Broker) -> None:
        """All that is after a position comes, in log order, of all topics and lanes."""
        begin = await broker.head()
        for n, lane in enumerate(Priority):
            await broker.publish(draft(n, topic=f"t{n}", priority=lane))
        found = await followed(broker, begin, 4)
        assert [m.body for m in found] == [b"0", b"1", b"2", b"3"]
        batch = await broker.follow(begin)
        assert (batch.head, batch.missed) == (await broker.head(), False)
        middle = Head(begin.epoch, Offset(begin.offset + 2))
        assert [m.body for m in (await broker.follow(middle)).messages] == [b"2", b"3"]

    async def test_waits_for_what_comes(self, broker: Broker) -> None:
        """A follower at the head waits, and is woken by the next message."""
        following = asyncio.ensure_future(broker.follow(await broker.head()))
        await settle()
        assert not following.done()
        await broker.publish(draft(1))
        assert [m.body for m in (await asyncio.wait_for(following, 5)).messages] == [b"1"]

    async def test_superseded_and_expired_are_in_the_feed(self, broker: Broker) -> None:
        """The feed has every message: who conflates is the connection."""
        begin = await broker.head()
        for n in range(3):
            await broker.publish(draft(n, key="k", expires_at=CLOCK() + 0.001))
        assert len(await followed(broker, begin, 3)) == 3

    async def test_every_follower_gets_everything(self, broker: Broker) -> None:
        """Several followers, at positions of their own, lose nothing to each other."""
        begin = await broker.head()
        first = asyncio.ensure_future(broker.follow(begin))
        second = asyncio.ensure_future(broker.follow(begin))
        await settle()
        await broker.publish(draft(1))
        third = asyncio.ensure_future(broker.follow(begin))
        batches = await asyncio.wait_for(asyncio.gather(first, second, third), 5)
        assert [[m.body for m in batch.messages] for batch in batches] == [[b"1"]] * 3

    async def test_cancelled_follow_loses_nothing(self, broker: Broker) -> None:
        """A follower that is cancelled, also in the moment of waking, gets it the next time."""
        begin = await broker.head()
        for moment in ("waiting", "woken"):
            following = asyncio.ensure_future(broker.follow(begin))
            await settle()
            if moment == "woken":
                await broker.publish(draft(1))
            following.cancel()
            await asyncio.wait([following])
        batch = await asyncio.wait_for(broker.follow(begin), 5)
        assert [m.body for m in batch.messages] == [b"1"]

    async def test_too_far_behind_is_told(self, broker: Broker) -> None:
        """A follower farther behind than the feed keeps gets `missed`, and history has the rest."""
        begin = await broker.head()
        body = b"x" * 100_000
        for _ in range(100):
            await broker.publish(draft(body=body))
        head = await broker.head()
        await read(broker)  # which is there as far as its head was
        batch = await broker.follow(begin)
        assert batch.missed
        assert batch.head == head
        offsets = [m.offset for m in batch.messages]
        assert offsets == list(range(batch.head.offset - len(offsets) + 1, batch.head.offset + 1))
        assert len(bodies(await read(broker, max_bytes=100_000_000))) == 100

    async def test_a_batch_is_complete_up_to_its_head(self, make: Make) -> None:
        """Whatever is published while a follower works, batch follows batch without a hole."""
        broker = make()
        await broker.start()
        position = await broker.head()
        first, seen = position.offset, list[int]()

        async def follow() -> None:
            nonlocal position
            while len(seen) < 60:
                batch = await broker.follow(position)
                seen.extend(m.offset for m in batch.messages)
                assert not batch.missed
                assert batch.head.offset == seen[-1]
                position = batch.head
                await asyncio.sleep(0)

        async def publish() -> None:
            for n in range(20):
                await broker.publish(draft(n))
                if n % 3 == 0:
                    await asyncio.sleep(0)

        await asyncio.wait_for(asyncio.gather(follow(), publish(), publish(), publish()), 5)
        assert seen == list(range(first + 1, first + 61))


class TestLife:
    """Start, close, start again."""

    async def test_close_wakes_who_waits(self, broker: Broker) -> None:
        """Whoever waits in follow when the broker closes gets NotRunning, and does not hang."""
        following = [asyncio.ensure_future(broker.follow(await broker.head())) for _ in range(3)]
        await settle()
        await broker.close()
        done, _ = await asyncio.wait(following, timeout=5)
        assert [type(each.exception()) for each in done] == [NotRunning] * 3

    async def test_unusable_before_start_and_after_close(self, make: Make) -> None:
        """Publishing and looking at the head before start or after close is a clear error."""
        broker = make()
        for _ in range(2):
            with pytest.raises(NotRunning):
                await broker.publish(draft(1))
            with pytest.raises(NotRunning):
                await broker.head()
            await broker.start()
            await broker.close()

    async def test_starting_again_continues(self, make: Make) -> None:
        """After close and start the log goes on: same epoch, same messages, next offset."""
        broker = make()
        await broker.start()
        before = await broker.publish(draft(1))
        await broker.close()
        await broker.start()
        assert await broker.head() == before
        after = await broker.publish(draft(2))
        assert after == Head(before.epoch, Offset(before.offset + 1))
        assert bodies(await read(broker)) == [b"1", b"2"]
        await broker.close()

    async def test_who_shares_is_not_closed_by_another(self, make: Make) -> None:
        """A broker that was started twice runs until it is closed twice."""
        broker = make()
        await broker.start()
        await broker.start()
        await broker.close()
        await broker.publish(draft(1))
        await broker.close()
        with pytest.raises(NotRunning):
            await broker.publish(draft(2))

    async def test_epochs_are_unlike(self, make: Make) -> None:
        """Each log has an epoch of its own, of 12 characters that need no escaping."""
        epochs = set()
        for _ in range(20):
            broker = make()
            await broker.start()
            epochs.add((await broker.head()).epoch)
        assert len(epochs) == 20
        assert all(
            len(epoch) == 12 and set(epoch) <= set("-_" + "".join(map(chr, range(48, 123))))
            for epoch in epochs
        )


ANN, ONE, TWO, THREE = UserId("ann"), ConnectionId("1"), ConnectionId("2"), ConnectionId("3")


class TestTokens:
    """Issue, redeem, record, detach, forget."""

    async def test_redeemed_session_is_what_was_recorded(self, broker: Broker) -> None:
        """Subscriptions and position come back as they were recorded last."""
        epoch = (await broker.head()).epoch
        session = Session(ANN, {"t": Offset(3)}, frozenset({"t"}))
        token = await broker.tokens.issue(session, ONE)
        session.subscriptions = {"u": Offset(4)}
        session.position = Position(epoch, Cursor.at(7))
        session.acknowledged = True
        await broker.tokens.record(session)
        await broker.tokens.detach(session, ONE)
        answer = await broker.tokens.redeem(token, ANN, TWO)
        assert answer.verdict is Presented.ACCEPTED
        assert answer.session is not None
        assert answer.session.subscriptions == {"u": 4}
        assert answer.session.requested == {"t"}
        assert answer.session.position == Position(epoch, Cursor.at(7))
        assert answer.session.acknowledged
        assert (answer.session.user, answer.session.connection) == (ANN, TWO)
        assert answer.token not in (None, token)

    async def test_token_of_a_live_connection_takes_over(self, broker: Broker) -> None:
        """The current token of a connection that looks alive names the one that it takes over."""
        token = await broker.tokens.issue(Session(ANN), ONE)
        answer = await broker.tokens.redeem(token, ANN, TWO)
        assert (answer.verdict, answer.taken_over) == (Presented.ACCEPTED, ONE)

    async def test_presented_again_gets_the_same_successor(self, broker: Broker) -> None:
        """Within the grace time, when who got the answer is gone, the same one comes again."""
        token = await broker.tokens.issue(Session(ANN), None)
        first = await broker.tokens.redeem(token, ANN, ONE)
        assert first.session is not None
        await broker.tokens.detach(first.session, ONE)
        again = await broker.tokens.redeem(token, ANN, TWO)
        assert (again.verdict, again.token) == (Presented.ACCEPTED, first.token)

    async def test_presented_again_while_in_use_opens_a_copy(self, broker: Broker) -> None:
        """A second tab with the same token goes on by itself, and throws nobody out."""
        session = Session(ANN, {"orders": Offset(3)}, frozenset({"orders"}))
        token = await broker.tokens.issue(session, None)
        first = await broker.tokens.redeem(token, ANN, ONE)
        second = await broker.tokens.redeem(token, ANN, TWO)
        assert second.session is not None
        assert (second.session.user, second.session.subscriptions) == (ANN, {"orders": 3})
        assert second.taken_over is None
        assert second.token not in (token, first.token)
        assert second.token is not None
        assert (await broker.tokens.redeem(second.token, ANN, THREE)).taken_over == TWO
        assert first.token is not None
        assert (await broker.tokens.redeem(first.token, ANN, THREE)).taken_over == ONE

    async def test_presented_after_the_grace_is_spent(self, make: Make) -> None:
        """The predecessor opens nothing once its grace time is over; the successor still does."""
        broker = make(tokens=TokenLimits(grace=10.0))
        await broker.start()
        token = await broker.tokens.issue(Session(ANN), None)
        answer = await broker.tokens.redeem(token, ANN, ONE)
        assert answer.session is not None
        assert answer.token is not None
        await broker.tokens.detach(answer.session, ONE)
        CLOCK.skip(11.0)
        assert (await broker.tokens.redeem(token, ANN, TWO)).verdict is Presented.SPENT
        assert (await broker.tokens.redeem(answer.token, ANN, TWO)).session is not None

    async def test_after_a_poll_the_predecessor_is_good_for_the_lifetime(self, make: Make) -> None:
        """A client that has its token only from an answer may learn late that this was lost."""
        broker = make(tokens=TokenLimits(grace=10.0, lifetime=1000.0))
        await broker.start()
        token = await broker.tokens.issue(Session(ANN), None)
        answer = await broker.tokens.redeem(token, ANN, ONE)
        assert answer.session is not None
        answer.session.is_answered = True
        await broker.tokens.detach(answer.session, ONE)
        CLOCK.skip(900.0)
        again = await broker.tokens.redeem(token, ANN, TWO)
        assert (again.verdict, again.token) == (Presented.ACCEPTED, answer.token)
        assert again.session is not None
        again.session.is_answered = False
        await broker.tokens.detach(again.session, TWO)
        CLOCK.skip(11.0)
        assert (await broker.tokens.redeem(token, ANN, THREE)).verdict is Presented.SPENT

    async def test_two_generations_ago_is_unknown(self, broker: Broker) -> None:
        """Only the immediate predecessor is known."""
        token = await broker.tokens.issue(Session(ANN), None)
        current: str = token
        for n in range(2):
            answer = await broker.tokens.redeem(current, ANN, ConnectionId(str(n)))
            assert answer.session is not None
            assert answer.token is not None
            await broker.tokens.detach(answer.session, ConnectionId(str(n)))
            current = answer.token
        assert (await broker.tokens.redeem(token, ANN, THREE)).verdict is Presented.UNKNOWN

    async def test_foreign_token_changes_nothing(self, broker: Broker) -> None:
        """Somebody else's token opens nothing, and still opens its owner's session."""
        token = await broker.tokens.issue(Session(ANN), None)
        for other in (UserId("bob"), None):
            answer = await broker.tokens.redeem(token, other, TWO)
            assert (answer.verdict, answer.session) == (Presented.FOREIGN, None)
        assert (await broker.tokens.redeem(token, ANN, ONE)).verdict is Presented.ACCEPTED

    @pytest.mark.parametrize(
        "token", ["", "x", "A" * 21, "A" * 23, "é" * 22, "A" * 21 + "\n", "A" * 1_000_000, "\ud800"]
    )
    async def test_nonsense_is_unknown(self, broker: Broker, token: str) -> None:
        """What was never issued is unknown, whatever it looks like."""
        assert (await broker.tokens.redeem(token, None, ONE)).verdict is Presented.UNKNOWN

    async def test_expires_when_its_connection_has_been_gone_long(self, make: Make) -> None:
        """The lifetime counts from when the connection went, and one that is used lives on."""
        broker = make(tokens=TokenLimits(lifetime=100.0))
        assert broker.token_lifetime == 100.0
        await broker.start()
        session = Session(ANN)
        token = await broker.tokens.issue(session, ONE)
        CLOCK.skip(500.0)
        await broker.tokens.detach(session, ONE)
        CLOCK.skip(99.0)
        answer = await broker.tokens.redeem(token, ANN, TWO)
        assert answer.session is not None
        assert answer.token is not None
        await broker.tokens.detach(answer.session, TWO)
        CLOCK.skip(101.0)
        assert (await broker.tokens.redeem(answer.token, ANN, THREE)).session is None

    async def test_late_detach_does_not_touch_the_successor(self, broker: Broker) -> None:
        """The end of a connection that was taken over leaves the new one attached."""
        token = await broker.tokens.issue(Session(ANN), ONE)
        answer = await broker.tokens.redeem(token, ANN, TWO)
        assert answer.session is not None
        await broker.tokens.detach(answer.session, ONE)
        assert answer.token is not None
        assert (await broker.tokens.redeem(answer.token, ANN, THREE)).taken_over == TWO

    async def test_forget_drops_the_users_detached_sessions(self, broker: Broker) -> None:
        """After a logout the user's tokens open nothing; others' and those in use are left."""
        gone = [await broker.tokens.issue(Session(ANN), None) for _ in range(3)]
        kept = await broker.tokens.issue(Session(ANN), ONE)
        other = await broker.tokens.issue(Session(UserId("bob")), None)
        assert await broker.tokens.forget(ANN) == 3
        assert await broker.tokens.forget(ANN) == 0
        for token in gone:
            assert (await broker.tokens.redeem(token, ANN, TWO)).verdict is Presented.UNKNOWN
        assert (await broker.tokens.redeem(kept, ANN, TWO)).verdict is Presented.ACCEPTED
        assert (await broker.tokens.redeem(other, UserId("bob"), TWO)).session is not None

    async def test_limits_drop_the_oldest(self, make: Make) -> None:
        """Beyond the limit per user, and that of all, the oldest detached session goes."""
        broker = make(tokens=TokenLimits(per_user=2, total=4))
        await broker.start()
        mine = [await broker.tokens.issue(Session(ANN), None) for _ in range(3)]
        verdicts = [(await broker.tokens.redeem(t, ANN, ONE)).verdict for t in mine]
        assert verdicts == [Presented.UNKNOWN, Presented.ACCEPTED, Presented.ACCEPTED]
        unnamed = [await broker.tokens.issue(Session(None), None) for _ in range(6)]
        accepted = [(await broker.tokens.redeem(t, None, ONE)).session is not None for t in unnamed]
        assert accepted == [False, False, True, True, True, True]

    async def test_one_redeems_when_several_try(self, broker: Broker) -> None:
        """Of several who present a token at once, one gets the session, the others copies."""
        token = await broker.tokens.issue(Session(ANN), None)
        answers = await asyncio.gather(
            *(broker.tokens.redeem(token, ANN, ConnectionId(str(n))) for n in range(5))
        )
        assert {answer.verdict for answer in answers} == {Presented.ACCEPTED}
        assert all(answer.taken_over is None for answer in answers)
        assert len({answer.token for answer in answers}) == 5
        assert len({id(answer.session) for answer in answers}) == 5

    async def test_tokens_survive_a_restart_of_the_broker(self, make: Make) -> None:
        """Sessions are there again after close and start."""
        broker = make()
        await broker.start()
        token = await broker.tokens.issue(Session(ANN), None)
        await broker.close()
        await broker.start()
        assert (await broker.tokens.redeem(token, ANN, ONE)).verdict is Presented.ACCEPTED

    async def test_token_is_in_no_repr(self, broker: Broker) -> None:
        """Neither a session nor an answer shows its token."""
        session = Session(ANN)
        token = await broker.tokens.issue(session, None)
        answer = await broker.tokens.redeem(token, ANN, ONE)
        assert answer.token is not None
        shown = f"{session!r} {answer!r} {broker!r} {broker.tokens!r}"
        assert token not in shown
        assert answer.token not in shown


A, B = NodeId("a"), NodeId("b")
ANN_ON_T, BOB_ON_T = ("t", UserId("ann")), ("t", UserId("bob: +%é"))


class TestPresence:
    """Who is where, over all nodes."""

    async def test_counted_once_over_all_nodes(self, broker: Broker) -> None:
        """A user on two nodes came with the first and goes with the last."""
        here = broker.presence
        first = await here.update(A, [ANN_ON_T, BOB_ON_T], [], 10.0)
        assert (set(first.came), first.went) == ({ANN_ON_T, BOB_ON_T}, ())
        again = await here.update(B, [ANN_ON_T], [], 10.0)
        assert (again.came, again.went) == ((), ())
        assert await here.users("t") == {ANN_ON_T[1], BOB_ON_T[1]}
        assert (await here.update(A, [], [ANN_ON_T, BOB_ON_T], 10.0)).went == (BOB_ON_T,)
        assert await here.users("t") == {"ann"}
        assert (await here.update(B, [], [ANN_ON_T], 10.0)).went == (ANN_ON_T,)
        assert await here.users("t") == frozenset()

    async def test_topics_are_apart(self, broker: Broker) -> None:
        """Who is on one topic is not on another, whatever their names."""
        names = ["t", "t.u", "*", "$user", "t:u", "u"]
        for name in names:
            await broker.presence.update(A, [(name, UserId(f"of {name}"))], [], 10.0)
        for name in names:
            assert await broker.presence.users(name) == {f"of {name}"}

    async def test_telling_again_changes_nothing(self, broker: Broker) -> None:
        """Coming twice and going twice are reported, and counted, once."""
        for n in range(2):
            moved = await broker.presence.update(A, [ANN_ON_T], [], 10.0)
            assert moved.came == ((ANN_ON_T,) if n == 0 else ())
        for n in range(2):
            moved = await broker.presence.update(A, [], [ANN_ON_T], 10.0)
            assert moved.went == ((ANN_ON_T,) if n == 0 else ())
        assert await broker.presence.users("t") == frozenset()

    async def test_node_that_dies_takes_its_members_along(self, broker: Broker) -> None:
        """Whoever tells next after its lease is over reports who went with it."""
        await broker.presence.update(A, [ANN_ON_T, BOB_ON_T], [], 10.0)
        await broker.presence.update(B, [BOB_ON_T], [], 100.0)
        CLOCK.skip(11.0)
        moved = await broker.presence.update(B, [], [], 100.0)
        assert (moved.is_known, moved.went) == (True, (ANN_ON_T,))
        assert await broker.presence.users("t") == {BOB_ON_T[1]}
        assert (await broker.presence.update(B, [], [], 100.0)).went == ()

    async def test_node_taken_for_dead_is_told(self, broker: Broker) -> None:
        """A node that comes back after its lease learns that nobody knows its members."""
        await broker.presence.update(A, [ANN_ON_T], [], 10.0)
        await broker.presence.update(B, [], [], 100.0)
        CLOCK.skip(11.0)
        moved = await broker.presence.update(A, [], [], 10.0)
        assert (moved.is_known, moved.went) == (False, (ANN_ON_T,))
        assert (await broker.presence.update(A, [], [], 10.0)).is_known

    async def test_after_an_outage_nobody_is_buried(self, broker: Broker) -> None:
        """If nobody has told for a lease's length, all get another; who is silent then goes."""
        await broker.presence.update(A, [ANN_ON_T], [], 10.0)
        await broker.presence.update(B, [BOB_ON_T], [], 10.0)
        CLOCK.skip(60.0)
        moved = await broker.presence.update(B, [], [], 10.0)
        assert (moved.is_known, moved.went) == (True, ())
        CLOCK.skip(9.0)
        assert (await broker.presence.update(B, [], [], 10.0)).went == ()
        assert await broker.presence.users("t") == {ANN_ON_T[1], BOB_ON_T[1]}
        CLOCK.skip(2.0)
        assert (await broker.presence.update(B, [], [], 10.0)).went == (ANN_ON_T,)
        assert await broker.presence.users("t") == {BOB_ON_T[1]}

    async def test_nodes_that_die_together_are_buried_together(self, broker: Broker) -> None:
        """A user who was on two of them goes once."""
        await broker.presence.update(A, [ANN_ON_T], [], 10.0)
        await broker.presence.update(B, [ANN_ON_T], [], 10.0)
        await broker.presence.update(NodeId("c"), [], [], 100.0)
        CLOCK.skip(11.0)
        moved = await broker.presence.update(NodeId("c"), [], [], 100.0)
        assert (moved.came, moved.went) == ((), (ANN_ON_T,))
        assert await broker.presence.users("t") == frozenset()

    async def test_node_that_ends_takes_its_members_along(self, broker: Broker) -> None:
        """Whoever was nowhere else is reported at once."""
        await broker.presence.update(A, [ANN_ON_T, BOB_ON_T], [], 10.0)
        await broker.presence.update(B, [BOB_ON_T], [], 10.0)
        assert (await broker.presence.remove(A)).went == (ANN_ON_T,)
        assert (await broker.presence.remove(A)).went == ()

    async def test_many_members_at_once(self, broker: Broker) -> None:
        """Thousands come and go in one telling."""
        many = [("t", UserId(f"u{n}")) for n in range(2500)]
        assert set((await broker.presence.update(A, many, [], 10.0)).came) == set(many)
        moved = await broker.presence.update(A, many[:100], many[100:], 10.0)
        assert (moved.came, set(moved.went)) == ((), set(many[100:]))
        assert len(await broker.presence.users("t")) == 100


@pytest.mark.parametrize("name", FACTORIES)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(
                st.just("publish"),
                st.sampled_from("tu"),
                st.sampled_from(list(Priority)),
                st.sampled_from([None, None, "k", "l"]),
            ),
            st.tuples(st.just("read"), st.integers(0, 40)),
        ),
        max_size=40,
    ),
    limit=st.integers(0, 6),
)
def test_everything_is_read_superseded_or_in_a_gap(
    name: str, steps: list[tuple[Any, ...]], limit: int
) -> None:
    """From any position, each later message is in a page, superseded by one there, or in a gap."""

    async def script() -> None:
        async with FACTORIES[name]() as make:
            await check(make(retention=Retention(limit=limit)))

    async def check(broker: Broker) -> None:
        await broker.start()
        published: list[tuple[int, str, Priority, str | None]] = []
        for step in [*steps, ("read", 0)]:
            if step[0] == "publish":
                _, topic, lane, key = step
                head = await broker.publish(
                    draft(secrets.token_hex(4), topic=topic, priority=lane, key=key)
                )
                published.append((head.offset, topic, lane, key))
                continue
            topics = {"t": 0, "u": 0}
            for lane in Priority:
                page = await read(broker, lane, after=step[1], topics=topics)
                here = [e.offset for e in page.entries if isinstance(e, Message)]
                assert here == sorted(here)
                holes = gaps(page)
                for offset, topic, its_lane, key in published:
                    if its_lane is not lane or offset <= step[1]:
                        assert offset not in here
                        continue
                    superseded = key is not None and any(
                        o > offset and (t, k) == (topic, key) for o, t, _, k in published
                    )
                    covered = any(offset <= g.through and topic in g.topics for g in holes)
                    assert (offset in here) != (superseded or covered) or superseded
                lost = sum(g.count or 0 for g in holes)
                assert lost <= sum(
                    1 for o, _, where, _ in published if where is lane and o > step[1]
                )

    asyncio.run(script())
