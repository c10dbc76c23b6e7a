"""publish: the accepted arguments, and the errors that are raised before a message is queued."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from holdfast import Broadcaster, InvalidPayload, InvalidTopic, MessageTooLarge, PublishError
from tests.support.frame_reader import FrameReader
from tests.support.node import node_of
from tests.support.virtual_loop import wall_clock


class TestPublish:
    """The arguments of publish."""

    @pytest.mark.parametrize(
        "topic",
        [
            "", " ", "a b", "a\nb", "a\rb", "a\0b", "a\u2028b", "a\u202eb", "a\u200bb", "a\ufeffb",
            "\ud800", "x" * 201, "é" * 101, "x" * 10_240, "a,b", "a..b", ".a", "a.", "*", "a.*",
            "**", "a*", "$user", "$anything", ".".join("abcdefghi"), "\ue000", 7, None, b"t", ["t"],
        ],
    )  # fmt: skip
    async def test_bad_topic(self, topic: Any) -> None:
        """A text that is not a topic raises InvalidTopic, and no message is queued."""
        async with Broadcaster() as broadcaster:
            with pytest.raises(InvalidTopic):
                await broadcaster.publish(topic, 1)
            assert (await node_of(broadcaster).broker.head()).offset == 0

    @pytest.mark.parametrize(
        "topic", ["a", "x" * 200, "é" * 100, "a.b.c.d.e.f.g.h", "A", "{a}:b|c", "ä%20", "日本"]
    )
    async def test_good_topic(self, topic: str) -> None:
        """A message is delivered under exactly the name of its topic."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=[topic]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            await broadcaster.publish(topic, 1)
            frame = await reader.frame()
            assert frame is not None
            assert frame.body["topic"] == topic

    @pytest.mark.parametrize(
        "names", [("a", "A"), ("é", "e\u0301"), ("straße", "strasse"), ("k", "\u212a")]
    )
    async def test_topics_are_compared_byte_by_byte(self, names: tuple[str, str]) -> None:
        """Names that differ in case or normalisation are different topics."""
        async with (
            Broadcaster() as broadcaster,
            broadcaster.connect(topics=names[:1]) as connection,
        ):
            reader = FrameReader(connection)
            await reader.first_frame()
            await broadcaster.publish(names[1], "other")
            await broadcaster.publish(names[0], "mine")
            assert await reader.take(1) == ["mine"]

    @staticmethod
    def nested(depth: int) -> Any:
        value: list[Any] = []
        for _ in range(depth):
            value = [value]
        return value

    @staticmethod
    def cycle() -> Any:
        value: dict[str, Any] = {}
        value["self"] = value
        return value

    @pytest.mark.parametrize(
        "data",
        [
            float("nan"), float("inf"), {"a": [float("-inf")]}, b"bytes", object(), {1, 2},
            {"a": object()}, "\ud800", {"\udfff": 1}, ["a", "\udc00b"], {(1, 2): 3},
            pytest.param(10**5000, id="10**5000"),
            cycle(), nested(100_000), wall_clock, 1j, range(3),
        ],
    )  # fmt: skip
    async def test_bad_payload(self, data: Any) -> None:
        """Data without a JSON form raises InvalidPayload, and no message is queued."""
        async with Broadcaster() as broadcaster:
            with pytest.raises(InvalidPayload):
                await broadcaster.publish("t", data)
            assert (await node_of(broadcaster).broker.head()).offset == 0

    async def test_circular_data_is_not_written_out(self) -> None:
        """Circular data of 100 KB is refused within 1 MB of memory."""
        data: list[Any] = ["x" * 100_000]
        data.append({"parent": data})
        async with Broadcaster() as broadcaster:
            tracemalloc.start()
            try:
                with pytest.raises(InvalidPayload):
                    await broadcaster.publish("t", data)
                assert tracemalloc.get_traced_memory()[1] < 1_000_000
            finally:
                tracemalloc.stop()

    @pytest.mark.parametrize(
        "data",
        [
            None, True, 0, -1.5, "", "a\r\nid: 9\n\ndata: x", "\u2028\u2029\x85", "\0", "\ufeffx",
            " lead", [], {}, {"": ""}, [[[[1]]]], 2**70, "x" * 100_000,
            {"id": "forged", "type": "closing"},
        ],
    )  # fmt: skip
    async def test_good_payload_arrives_unchanged(self, data: Any) -> None:
        """Every JSON value arrives unchanged, in one line without CR, LF or NUL."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            await FrameReader(connection).first_frame()
            await broadcaster.publish("t", data)
            (frame,) = await connection.next_frames() or []
            assert not set(b"\r\n\0") & set(frame.body)
            connection.mark_sent()
            await broadcaster.publish("t", data)
            assert await FrameReader(connection).take(1) == [data]

    @pytest.mark.parametrize(
        "options",
        [
            {"priority": True}, {"priority": 3}, {"priority": "HIGH"}, {"priority": None},
            {"ttl": 0}, {"ttl": -1.0}, {"ttl": float("inf")}, {"ttl": float("nan")}, {"ttl": "5"},
            {"ttl": True}, {"key": 5}, {"key": b"k"}, {"key": "x" * 201}, {"key": "\ud800"},
            {"to_user": ""}, {"to_user": 5}, {"to_user": "\udfff"}, {"idempotency_key": 5},
            {"idempotency_key": "x" * 201},
        ],
    )  # fmt: skip
    async def test_bad_option(self, options: dict[str, Any]) -> None:
        """A wrong option raises a PublishError that names it, and no message is queued."""
        async with Broadcaster() as broadcaster:
            (name,) = options
            with pytest.raises(PublishError, match=name):
                await broadcaster.publish("t", 1, **options)
            assert (await node_of(broadcaster).broker.head()).offset == 0

    async def test_size_limit(self) -> None:
        """A message of exactly the limit is sent; a larger one raises an error with both sizes."""
        async with (
            Broadcaster(max_message_bytes=200, clock=lambda: 1.5) as broadcaster,
            broadcaster.connect(topics=["t"]) as connection,
        ):
            reader = FrameReader(connection)
            await reader.first_frame()
            await broadcaster.publish("t", "")
            (frame,) = await connection.next_frames() or []
            room = 200 - len(frame.body)
            await broadcaster.publish("t", "x" * room)
            assert await reader.take(1) == ["x" * room]
            with pytest.raises(MessageTooLarge) as caught:
                await broadcaster.publish("t", "x" * (room + 50))
            assert (caught.value.size, caught.value.limit) == (250, 200)

    async def test_largest_message_by_default(self) -> None:
        """A message of nearly 1 MiB is delivered, live and in a replay."""
        data = "x" * (1024 * 1024 - 200)
        async with Broadcaster() as broadcaster:
            async with broadcaster.connect(topics=["t"]) as connection:
                reader = FrameReader(connection)
                event_id = (await reader.first_frame()).id
                await broadcaster.publish("t", data)
                assert await reader.take(1) == [data]
            async with broadcaster.connect(topics=["t"], last_event_id=event_id) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                assert await reader.take(1) == [data]

    async def test_data_is_encoded_at_publish(self) -> None:
        """A change of the object after publish has returned does not reach the client."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            data = {"n": 1}
            await broadcaster.publish("t", data)
            data["n"] = 2
            assert await reader.take(1) == [{"n": 1}]

    async def test_hook_can_publish(self) -> None:
        """A hook of the library can publish."""
        async with Broadcaster() as broadcaster:

            async def may_subscribe(topic: str) -> bool:
                await broadcaster.publish("asked", topic)
                return True

            async with broadcaster.connect(topics=["asked"]) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                async with broadcaster.connect(topics=["t"], may_subscribe=may_subscribe):
                    assert await reader.take(1) == ["t"]

    async def test_repeated_publish_with_a_key_delivers_once(self) -> None:
        """A publish that is repeated with its idempotency key is delivered once."""
        async with Broadcaster() as broadcaster, broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            await reader.first_frame()
            first = await broadcaster.publish("t", 1, idempotency_key="")
            assert await broadcaster.publish("t", 1, idempotency_key="") == first
            await broadcaster.publish("t", 2)
            assert await reader.take(2) == [1, 2]
