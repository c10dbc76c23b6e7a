"""Subscribing: changing the topics of a live connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import Broadcaster, Priority, Reason, Refused
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import run_ready


async def test_subscribe_begins_now() -> None:
    """From the answer on the topic is delivered; what was before is not, live or replayed."""
    async with Broadcaster() as broadcaster:
        async with broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            at = (await reader.first_frame()).id
            await broadcaster.publish("u", "before")
            await run_ready()
            assert await broadcaster.subscribe(connection, ["u", "t"]) == (["u", "t"], [])
            await broadcaster.publish("u", "after")
            assert await reader.take(1) == ["after"]
        async with broadcaster.connect(topics=["t"], last_event_id=at) as connection:
            reader = FrameReader(connection)
            assert (await reader.first_frame()).data["replay"] == 1
            assert await reader.take(1) == ["after"]


async def test_subscribe_is_recorded_before_it_is_answered() -> None:
    """When the answer is here, a resume knows of the topic, whatever happens to the server."""
    broker = DelayedBroker()
    async with Broadcaster(broker=broker) as broadcaster:
        async with broadcaster.connect(topics=["t"]) as connection:
            at = (await FrameReader(connection).first_frame()).id
            broker.hold()
            answering = asyncio.ensure_future(broadcaster.subscribe(connection, ["u"]))
            await run_ready()
            assert not answering.done(), "answered before it was recorded"
            broker.release()
            await answering
        async with broadcaster.connect(topics=["t"], last_event_id=at) as connection:
            assert (await FrameReader(connection).first_frame()).data["topics"] == ["t", "u"]


async def test_subscribed_again_keeps_its_since() -> None:
    """Subscribing to what is held already takes nothing away."""
    async with Broadcaster() as broadcaster:
        async with broadcaster.connect(topics=["t"]) as connection:
            at = (await FrameReader(connection).first_frame()).id
            await broadcaster.publish("t", 1)
            await run_ready()
            await broadcaster.subscribe(connection, ["t"])
        async with broadcaster.connect(topics=["t"], last_event_id=at) as connection:
            assert (await FrameReader(connection).first_frame()).data["replay"] == 1


async def test_unsubscribe_drops_what_waits() -> None:
    """After the answer nothing of the topic is sent, not even what was waiting."""
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


async def test_unsubscribe_keeps_what_another_covers() -> None:
    """A message that a pattern covers as well stays."""
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


async def test_unsubscribed_and_subscribed_again_begins_anew() -> None:
    """Between the two nothing was subscribed, so nothing of it comes."""
    async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
        reader = FrameReader(connection)
        await reader.first_frame()
        await broadcaster.unsubscribe(connection, ["t"])
        await broadcaster.publish("t", "between")
        await run_ready()
        await broadcaster.subscribe(connection, ["t"])
        await broadcaster.publish("t", "again")
        assert await reader.take(1) == ["again"]


async def test_rejected_are_named_and_not_subscribed() -> None:
    """The hook decides for each; the rejected ones are told apart and get nothing."""

    async def may(topic: str) -> bool:
        return topic.startswith("mine")

    async with (
        Broadcaster() as broadcaster,
        broadcaster.connect(user="ann", topics=["mine"], may_subscribe=may) as connection,
    ):
        reader = FrameReader(connection)
        await reader.first_frame()
        answer = await broadcaster.subscribe(connection, ["theirs", "mine.too"])
        assert answer == (["mine.too"], ["theirs"])
        await broadcaster.publish("theirs", "secret")
        await broadcaster.publish("mine.too", "open")
        assert await reader.take(1) == ["open"]


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["a b"], "invalid_topic"),
        (["$user"], "invalid_topic"),
        (["a", "b", "c"], "too_many_topics"),
        ([f"t{n}" for n in range(100_000)], "too_many_topics"),
        (["\ud800"], "invalid_topic"),
    ],
)
async def test_bad_names_change_nothing(names: list[str], code: str) -> None:
    """A name that is none, or one topic too many, is refused as a whole."""
    async with (
        Broadcaster(max_topics=3) as broadcaster,
        broadcaster.connect(user="ann", topics=["t"]) as connection,
    ):
        reader = FrameReader(connection)
        await reader.first_frame()
        with pytest.raises(Refused) as caught:
            await broadcaster.subscribe(connection, names)
        assert caught.value.reason.word == code
        await broadcaster.publish("t", 1)
        assert await reader.take(1) == [1]


async def told(reader: FrameReader) -> Any:
    """The topics that the next frame says were unsubscribed."""
    frame = await reader.frame()
    assert frame is not None
    assert frame.type == "unsubscribed"
    return frame.data["topics"]


async def test_reauthorize_drops_what_is_withdrawn() -> None:
    """Rights that are taken away end with `reauthorize`, for what waits, too, and for resumes."""
    rights = {"t", "u"}

    async def may(topic: str) -> bool:
        return topic in rights

    first_frame: dict[str, Any] = {"topics": ["t", "u"], "may_subscribe": may}
    async with Broadcaster() as broadcaster:
        async with (
            broadcaster.connect(user="ann", **first_frame) as anns,
            broadcaster.connect(user="bob", **first_frame) as bobs,
        ):
            ann, bob = FrameReader(anns), FrameReader(bobs)
            at = (await ann.first_frame()).id
            await bob.first_frame()
            await broadcaster.publish("t", 1)
            await broadcaster.publish("u", 2)
            await run_ready()
            rights.discard("t")
            await broadcaster.reauthorize("ann")
            assert await told(ann) == ["t"]
            assert await ann.take(1) == [2]
            await ann.assert_no_frame()
            assert await bob.take(2) == [1, 2]
            await broadcaster.reauthorize()
            assert await told(bob) == ["t"]
            await broadcaster.publish("t", 3)
            await broadcaster.publish("u", 4)
            assert await bob.take(1) == [4]
        async with broadcaster.connect(user="ann", last_event_id=at, **first_frame) as connection:
            reader = FrameReader(connection)
            data = (await reader.first_frame()).data
            assert (data["topics"], data["rejected"]) == (["u"], ["t"])
            assert await reader.take(2) == [2, 4]


async def test_personal_topic_survives_reauthorize() -> None:
    """A user's own topic is not a matter of the hook."""

    async def never(topic: str) -> bool:
        return False

    async with (
        Broadcaster() as broadcaster,
        broadcaster.connect(user="ann", may_subscribe=never) as connection,
    ):
        reader = FrameReader(connection)
        await reader.first_frame()
        await broadcaster.reauthorize()
        await broadcaster.publish_to_user("ann", 1)
        assert await reader.take(1) == [1]


async def test_subscribe_of_a_ghost_does_not_touch_its_successor() -> None:
    """A subscribe that waits while the session moves on is not answered as if it had worked."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def may(topic: str) -> bool:
        if topic == "late":
            asked.set()
            await answer.wait()
        return True

    async with (
        Broadcaster() as broadcaster,
        broadcaster.connect(user="ann", topics=["t"], may_subscribe=may) as ghost,
    ):
        at = (await FrameReader(ghost).first_frame()).id
        subscribing = asyncio.ensure_future(broadcaster.subscribe(ghost, ["late"]))
        await asked.wait()
        async with broadcaster.connect(user="ann", topics=["t"], last_event_id=at) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            answer.set()
            with pytest.raises(Refused):
                await subscribing
            await broadcaster.publish("late", "no")
            await broadcaster.publish("t", "yes")
            assert await reader.take(1) == ["yes"]
            assert list(connection.session.subscriptions) == ["t", "$user"]


async def test_hook_that_raises_ends_that_connection_and_no_more() -> None:
    """Where nobody can say what a client may have, it comes back; the others are asked for."""

    async def broken(topic: str) -> bool:
        if asked:
            raise ValueError("the database is gone")
        return True

    async def no(topic: str) -> bool:
        return not asked

    asked: list[bool] = []
    async with (
        Broadcaster() as broadcaster,
        broadcaster.connect(topics=["t"], may_subscribe=broken) as first,
        broadcaster.connect(topics=["t"], may_subscribe=no) as second,
    ):
        asked.append(True)
        await broadcaster.reauthorize()
        assert first.close_reason is Reason.FAILED
        assert second.subscriptions == {}
