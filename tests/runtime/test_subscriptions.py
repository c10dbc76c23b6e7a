"""subscribe, unsubscribe and reauthorize: the topics of an open connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import Broadcaster, BrokerUnavailable, MemoryBroker, Priority, Reason, Refused
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import run_ready


async def test_subscribe_begins_now() -> None:
    """A subscribed topic begins at the subscribe, live and in a replay."""
    async with Broadcaster() as broadcaster:
        async with broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            event_id = (await reader.first_frame()).id
            await broadcaster.publish("u", "before")
            await run_ready()
            assert await broadcaster.subscribe(connection, ["u", "t"]) == (["u", "t"], [])
            await broadcaster.publish("u", "after")
            assert await reader.take(1) == ["after"]
        async with broadcaster.connect(topics=["t"], last_event_id=event_id) as connection:
            reader = FrameReader(connection)
            assert (await reader.first_frame()).data["replay"] == 1
            assert await reader.take(1) == ["after"]


async def test_subscribe_returns_after_the_session_is_saved() -> None:
    """A resume after a subscribe restores the topic, even if the server has ended."""
    broker = DelayedBroker()
    async with Broadcaster(broker=broker) as broadcaster:
        async with broadcaster.connect(topics=["t"]) as connection:
            event_id = (await FrameReader(connection).first_frame()).id
            broker.hold()
            subscribing = asyncio.ensure_future(broadcaster.subscribe(connection, ["u"]))
            await run_ready()
            assert not subscribing.done(), "subscribe returned before the session was saved"
            broker.release()
            await subscribing
        async with broadcaster.connect(topics=["t"], last_event_id=event_id) as connection:
            assert (await FrameReader(connection).first_frame()).data["topics"] == ["t", "u"]


async def test_subscription_that_cannot_be_saved_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the refusal, neither the connection nor a resume of its session has the topic."""
    broker = MemoryBroker()

    async def fail(*_: Any) -> bool:
        raise BrokerUnavailable("gone")

    async with Broadcaster(broker=broker) as broadcaster:
        async with broadcaster.connect(user="ann", topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            with monkeypatch.context() as patch:
                patch.setattr(broker.tokens, "save", fail)
                with pytest.raises(Refused) as caught:
                    await broadcaster.subscribe(connection, ["u"])
            assert caught.value.reason is Reason.UNAVAILABLE
            assert set(connection.subscriptions) == {"t", "$user"}
        async with broadcaster.connect(user="ann", last_event_id=reader.last_id) as connection:
            assert (await FrameReader(connection).first_frame()).data["topics"] == ["t"]


async def test_subscribed_again_keeps_its_since() -> None:
    """A repeated subscribe keeps the since of the topic."""
    async with Broadcaster() as broadcaster:
        async with broadcaster.connect(topics=["t"]) as connection:
            event_id = (await FrameReader(connection).first_frame()).id
            await broadcaster.publish("t", 1)
            await run_ready()
            await broadcaster.subscribe(connection, ["t"])
        async with broadcaster.connect(topics=["t"], last_event_id=event_id) as connection:
            assert (await FrameReader(connection).first_frame()).data["replay"] == 1


async def test_unsubscribe_drops_pending_messages() -> None:
    """No message of an unsubscribed topic is sent, not even a pending one."""
    async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t", "u"]) as connection:
        reader = FrameReader(connection)
        await reader.first_frame()
        for n in range(4):
            await broadcaster.publish("tu"[n % 2], n, priority=Priority(n))
        await run_ready()
        assert await broadcaster.unsubscribe(connection, ["t", "never"]) == ["t"]
        await broadcaster.publish("t", "later")
        assert await reader.take(2) == [3, 1]
        await reader.assert_no_frame()
        assert await broadcaster.unsubscribe(connection, ["t"]) == []


async def test_unsubscribe_keeps_messages_that_a_pattern_covers() -> None:
    """A pending message that a pattern also covers is sent."""
    async with (
        Broadcaster() as broadcaster,
        broadcaster.connect(topics=["a.b", "a.*"]) as connection,
    ):
        reader = FrameReader(connection)
        await reader.first_frame()
        await broadcaster.publish("a.b", 1)
        await run_ready()
        await broadcaster.unsubscribe(connection, ["a.b"])
        await broadcaster.publish("a.b", 2)
        assert await reader.take(2) == [1, 2]


async def test_topic_subscribed_again_begins_again() -> None:
    """A message between an unsubscribe and a subscribe is not delivered."""
    async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
        reader = FrameReader(connection)
        await reader.first_frame()
        await broadcaster.unsubscribe(connection, ["t"])
        await broadcaster.publish("t", "between")
        await run_ready()
        await broadcaster.subscribe(connection, ["t"])
        await broadcaster.publish("t", "again")
        assert await reader.take(1) == ["again"]


async def test_rejected_topic_is_returned_and_not_subscribed() -> None:
    """`subscribe` returns the rejected topics, and their messages are not delivered."""

    async def may_subscribe(topic: str) -> bool:
        return topic.startswith("mine")

    async with (
        Broadcaster() as broadcaster,
        broadcaster.connect(user="ann", topics=["mine"], may_subscribe=may_subscribe) as connection,
    ):
        reader = FrameReader(connection)
        await reader.first_frame()
        answer = await broadcaster.subscribe(connection, ["theirs", "mine.too"])
        assert answer == (["mine.too"], ["theirs"])
        await broadcaster.publish("theirs", "secret")
        await broadcaster.publish("mine.too", "open")
        assert await reader.take(1) == ["open"]


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["a b"], "invalid_topic"),
        (["$user"], "invalid_topic"),
        (["a", "b", "c"], "too_many_topics"),
        ([f"t{n}" for n in range(100_000)], "too_many_topics"),
        (["\ud800"], "invalid_topic"),
    ],
)
async def test_invalid_topics_change_nothing(names: list[str], word: str) -> None:
    """An invalid topic, or too many topics, is refused as a whole."""
    async with (
        Broadcaster(max_topics=3) as broadcaster,
        broadcaster.connect(user="ann", topics=["t"]) as connection,
    ):
        reader = FrameReader(connection)
        await reader.first_frame()
        with pytest.raises(Refused) as caught:
            await broadcaster.subscribe(connection, names)
        assert caught.value.reason.word == word
        await broadcaster.publish("t", 1)
        assert await reader.take(1) == [1]


async def unsubscribed_topics(reader: FrameReader) -> Any:
    """Return the topics of the next frame, which is `unsubscribed`."""
    frame = await reader.frame()
    assert frame is not None
    assert frame.type == "unsubscribed"
    return frame.data["topics"]


async def test_reauthorize_unsubscribes_forbidden_topics() -> None:
    """`reauthorize` unsubscribes forbidden topics: pending messages, live and at a resume."""
    allowed_topics = {"t", "u"}

    async def may_subscribe(topic: str) -> bool:
        return topic in allowed_topics

    options: dict[str, Any] = {"topics": ["t", "u"], "may_subscribe": may_subscribe}
    async with Broadcaster() as broadcaster:
        async with (
            broadcaster.connect(user="ann", **options) as ann_connection,
            broadcaster.connect(user="bob", **options) as bob_connection,
        ):
            ann, bob = FrameReader(ann_connection), FrameReader(bob_connection)
            event_id = (await ann.first_frame()).id
            await bob.first_frame()
            await broadcaster.publish("t", 1)
            await broadcaster.publish("u", 2)
            await run_ready()
            allowed_topics.discard("t")
            await broadcaster.reauthorize("ann")
            assert await unsubscribed_topics(ann) == ["t"]
            assert await ann.take(1) == [2]
            await ann.assert_no_frame()
            assert await bob.take(2) == [1, 2]
            await broadcaster.reauthorize()
            assert await unsubscribed_topics(bob) == ["t"]
            await broadcaster.publish("t", 3)
            await broadcaster.publish("u", 4)
            assert await bob.take(1) == [4]
        async with broadcaster.connect(user="ann", last_event_id=event_id, **options) as connection:
            reader = FrameReader(connection)
            data = (await reader.first_frame()).data
            assert (data["topics"], data["rejected"]) == (["u"], ["t"])
            assert await reader.take(2) == [2, 4]


async def test_personal_topic_survives_reauthorize() -> None:
    """`reauthorize` does not ask the hook about a user's personal topic."""

    async def may_subscribe(topic: str) -> bool:
        return False

    async with (
        Broadcaster() as broadcaster,
        broadcaster.connect(user="ann", may_subscribe=may_subscribe) as connection,
    ):
        reader = FrameReader(connection)
        await reader.first_frame()
        await broadcaster.reauthorize()
        await broadcaster.publish_to_user("ann", 1)
        assert await reader.take(1) == [1]


async def test_subscribe_after_a_takeover_is_refused() -> None:
    """A subscribe whose session is taken over while the hook waits is refused."""
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def may_subscribe(topic: str) -> bool:
        if topic == "late":
            is_asked.set()
            await may_answer.wait()
        return True

    async with (
        Broadcaster() as broadcaster,
        broadcaster.connect(user="ann", topics=["t"], may_subscribe=may_subscribe) as taken_over,
    ):
        event_id = (await FrameReader(taken_over).first_frame()).id
        subscribing = asyncio.ensure_future(broadcaster.subscribe(taken_over, ["late"]))
        await is_asked.wait()
        async with broadcaster.connect(
            user="ann", topics=["t"], last_event_id=event_id
        ) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            may_answer.set()
            with pytest.raises(Refused):
                await subscribing
            await broadcaster.publish("late", "no")
            await broadcaster.publish("t", "yes")
            assert await reader.take(1) == ["yes"]
            assert list(connection.session.subscriptions) == ["t", "$user"]


async def test_hook_that_raises_ends_its_connection_only() -> None:
    """An exception of the hook closes its connection as failed, and no other."""

    async def raising(topic: str) -> bool:
        if is_withdrawn:
            raise ValueError("the database is down")
        return True

    async def refusing(topic: str) -> bool:
        return not is_withdrawn

    is_withdrawn: list[bool] = []
    async with (
        Broadcaster() as broadcaster,
        broadcaster.connect(topics=["t"], may_subscribe=raising) as first,
        broadcaster.connect(topics=["t"], may_subscribe=refusing) as second,
    ):
        is_withdrawn.append(True)
        await broadcaster.reauthorize()
        assert first.close_reason is Reason.FAILED
        assert second.subscriptions == {}
