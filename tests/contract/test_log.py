"""The contract of every Broker: the messages of the log can be read within the retention."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import Priority, Retention
from holdfast.brokers.protocol import Broker
from holdfast.core.message import Message, Offset, UserId
from tests.contract.implementations import CLOCK, FACTORIES, Make
from tests.contract.reading import bodies, draft, gaps, read, summarize


class TestLog:
    """Publishing and reading."""

    async def test_published_is_readable_at_once(self, broker: Broker) -> None:
        """A message can be read as soon as `publish` returns."""
        head = await broker.publish(draft(1))
        page = await read(broker)
        assert bodies(page) == [b"1"]
        assert page.up_to == head.offset
        assert await broker.head() == head

    async def test_order_is_that_of_publishing(self, broker: Broker) -> None:
        """Offsets ascend by one, and a lane is read in their order."""
        offsets = [(await broker.publish(draft(n))).offset for n in range(10)]
        assert offsets == list(range(offsets[0], offsets[0] + 10))
        page = await read(broker)
        assert bodies(page) == [b"%d" % n for n in range(10)]
        assert page.complete

    async def test_concurrent_publishers_get_offsets_of_their_own(self, broker: Broker) -> None:
        """Concurrent publishes get different offsets."""
        heads = await asyncio.gather(*(broker.publish(draft(n)) for n in range(20)))
        offsets = [head.offset for head in heads]
        assert sorted(offsets) == list(range(min(offsets), min(offsets) + 20))
        by_offset = [n for _, n in sorted(zip(offsets, range(20), strict=True))]
        assert bodies(await read(broker)) == [b"%d" % n for n in by_offset]

    async def test_message_has_the_fields_of_its_draft(self, broker: Broker) -> None:
        """Every field of a draft is kept."""
        body = '{"data":"é\u2028\\u0000"}'.encode()
        published = draft(
            body=body, priority=Priority.CRITICAL, key="", expires_at=CLOCK() + 60.0,
            to_user=UserId("ann"),
        )  # fmt: skip
        head = await broker.publish(published)
        (entry,) = (await read(broker, Priority.CRITICAL, user="ann")).entries
        assert isinstance(entry, Message)
        for name in ("topic", "priority", "body", "timestamp", "key", "expires_at", "to_user"):
            assert getattr(entry, name) == getattr(published, name), name
        assert entry.offset == head.offset

    async def test_lanes_are_read_one_by_one(self, broker: Broker) -> None:
        """A page contains the messages of one lane."""
        for lane in Priority:
            await broker.publish(draft(lane.label, priority=lane))
        for lane in Priority:
            assert bodies(await read(broker, lane)) == [lane.label.encode()]

    async def test_pages_join_without_hole_or_overlap(self, broker: Broker) -> None:
        """Pages that are read from `up_to` on contain each message once, in order."""
        for n in range(25):
            await broker.publish(draft(n, topic="tu"[n % 2]))
        received: list[bytes] = []
        after, complete = 0, False
        while not complete:
            page = await read(broker, after=after, topics={"t": 0, "u": 0}, limit=4)
            assert len(page.entries) <= 4
            assert page.complete or page.up_to > after
            received += bodies(page)
            after, complete = page.up_to, page.complete
        assert received == [b"%d" % n for n in range(25)]

    async def test_page_is_bounded_in_bytes_but_not_empty(self, broker: Broker) -> None:
        """A page has `max_bytes` at most, except a single larger message."""
        for n in range(3):
            await broker.publish(draft(body=b"%d" % n * 100))
        page = await read(broker, max_bytes=10)
        assert len(page.entries) == 1
        assert not page.complete
        assert len((await read(broker, max_bytes=250)).entries) == 2

    async def test_page_ends_at_up_to(self, broker: Broker) -> None:
        """A page ends at `up_to`, and is complete there."""
        for n in range(10):
            await broker.publish(draft(n))
        page = await read(broker, after=2, up_to=6)
        assert bodies(page) == [b"2", b"3", b"4", b"5"]
        assert (page.up_to, page.complete) == (6, True)

    async def test_since_hides_earlier_messages(self, broker: Broker) -> None:
        """Messages up to `since` are neither read, nor counted, nor in a gap."""
        await broker.publish(draft(1))
        head = await broker.publish(draft(2))
        await broker.publish(draft(3))
        topics: dict[str, int] = {"t": head.offset}
        assert bodies(await read(broker, topics=topics)) == [b"3"]
        summary = await summarize(broker, 0, {"t": head.offset})
        assert (summary.replay, summary.gap) == (1, None)

    async def test_patterns_are_read(self, broker: Broker) -> None:
        """A pattern reads each topic that it covers once, and no other."""
        for topic in ("a.b", "a.c", "b.c", "a"):
            await broker.publish(draft(topic, topic=topic))
        received = bodies(await read(broker, topics={"a.*": 0, "a.b": 0, "**": 10**9}))
        assert received == [b"a.b", b"a.c"]

    async def test_personal_messages_are_for_their_user(self, broker: Broker) -> None:
        """A message to a user is read by that user only, and other messages by all."""
        await broker.publish(draft("all"))
        await broker.publish(draft("ann", to_user=UserId("ann")))
        await broker.publish(draft("bob", to_user=UserId("bob")))
        assert bodies(await read(broker)) == [b"all"]
        assert bodies(await read(broker, user="ann")) == [b"all", b"ann"]
        assert bodies(await read(broker, user="carl")) == [b"all"]

    async def test_superseded_message_is_not_replayed(self, broker: Broker) -> None:
        """Only the newest message of a key is read, over all lanes, without a gap."""
        await broker.publish(draft(1, key="k"))
        await broker.publish(draft(2, key="k", priority=Priority.LOW))
        await broker.publish(draft(3, key="other"))
        await broker.publish(draft(4, key="k", topic="u"))
        await broker.publish(draft(5, key="k", to_user=UserId("ann")))
        topics = {"t": 0, "u": 0}
        entries = [
            entry
            for lane in Priority
            for entry in (await read(broker, lane, topics=topics)).entries
        ]
        assert [entry.body for entry in entries if isinstance(entry, Message)] == [b"2", b"3", b"4"]
        summary = await summarize(broker, 0, {"t": Offset(0), "u": Offset(0)})
        assert (summary.replay, summary.gap) == (3, None)

    async def test_empty_key_is_a_key(self, broker: Broker) -> None:
        """An empty key conflates, and a missing key does not."""
        for n, key in enumerate(["", "", None, None]):
            await broker.publish(draft(n, key=key))
        assert bodies(await read(broker)) == [b"1", b"2", b"3"]

    async def test_expired_message_is_not_replayed(self, broker: Broker) -> None:
        """An expired message is not read, and makes no gap."""
        await broker.publish(draft(1, expires_at=CLOCK() + 5.0))
        await broker.publish(draft(2))
        assert bodies(await read(broker)) == [b"1", b"2"]
        CLOCK.skip(6.0)
        page = await read(broker)
        assert (bodies(page), gaps(page)) == ([b"2"], [])

    async def test_idempotency_key_publishes_once(self, broker: Broker) -> None:
        """A repeated publish with a key appends no message, and returns the first position."""
        first = await broker.publish(draft(1, idempotency_key="x"))
        await broker.publish(draft(2))
        repeated = await broker.publish(draft(3, idempotency_key="x"))
        other = await broker.publish(draft(4, idempotency_key="y"))
        assert repeated.offset == first.offset
        assert other.offset > first.offset
        assert bodies(await read(broker)) == [b"1", b"2", b"4"]

    async def test_idempotency_holds_for_concurrent_publishers(self, broker: Broker) -> None:
        """Concurrent publishes with one key append one message, and all get its position."""
        heads = await asyncio.gather(
            *(broker.publish(draft(n, idempotency_key="x")) for n in range(8))
        )
        assert len({head.offset for head in heads}) == 1
        assert len(bodies(await read(broker))) == 1


class TestRetention:
    """The bounds of the history, and the gaps of trimmed messages."""

    async def test_retention_is_per_topic_and_lane(self, make: Make) -> None:
        """A busy lane trims neither another topic nor another lane of its topic."""
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

    async def test_gap_has_the_exact_count(self, make: Make) -> None:
        """A reader before the trimmed messages gets a gap with their count, and another none."""
        broker = make(retention=Retention(limit=3))
        await broker.start()
        offsets = [(await broker.publish(draft(n))).offset for n in range(10)]
        for position, lost in [(offsets[3], 3), (offsets[5], 1), (offsets[6], 0), (offsets[8], 0)]:
            summary = await summarize(broker, position, {"t": Offset(0)})
            assert (summary.gap.count if summary.gap else 0) == lost
            page = await read(broker, after=position)
            assert sum(gap.count or 0 for gap in gaps(page)) == lost

    async def test_sweep_trims_by_age(self, make: Make) -> None:
        """Messages beyond the age are trimmed by a sweep, and reported."""
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

    async def test_history_of_no_messages_is_a_gap(self, make: Make) -> None:
        """A limit of 0 leaves the live feed complete, and gives a reader of the history a gap."""
        broker = make(retention=Retention(limit=0))
        await broker.start()
        start = await broker.head()
        await broker.publish(draft(1))
        batch = await broker.follow(start)
        assert [message.body for message in batch.messages] == [b"1"]
        page = await read(broker)
        assert (bodies(page), [gap.count for gap in gaps(page)]) == ([], [1])

    async def test_wide_gap_may_have_no_count(self, make: Make) -> None:
        """A reader from far back gets a gap, with or without the count."""
        broker = make(retention=Retention(limit=16))
        await broker.start()
        for n in range(200):
            await broker.publish(draft(n))
        summary = await summarize(broker, 1, {"t": Offset(0)})
        assert summary.gap is not None
        assert summary.gap.count in (None, 183)


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
def test_every_message_is_read_superseded_or_in_a_gap(
    name: str, steps: list[tuple[Any, ...]], limit: int
) -> None:
    """From any position, each later message is in a page, superseded, or in a gap."""

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
                offsets = [entry.offset for entry in page.entries if isinstance(entry, Message)]
                assert offsets == sorted(offsets)
                page_gaps = gaps(page)
                for offset, topic, message_lane, key in published:
                    if message_lane is not lane or offset <= step[1]:
                        assert offset not in offsets
                        continue
                    is_superseded = key is not None and any(
                        other > offset and (other_topic, other_key) == (topic, key)
                        for other, other_topic, _, other_key in published
                    )
                    is_in_a_gap = any(
                        offset <= gap.last and topic in gap.topics for gap in page_gaps
                    )
                    assert (offset in offsets) != (is_superseded or is_in_a_gap) or is_superseded
                lost = sum(gap.count or 0 for gap in page_gaps)
                assert lost <= sum(
                    1
                    for other, _, message_lane, _ in published
                    if message_lane is lane and other > step[1]
                )

    asyncio.run(script())
