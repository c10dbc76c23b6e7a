"""A publisher's mistake raises at its call, before a message is queued; no reader sees it."""

from __future__ import annotations

import asyncio
import copy
import json
from collections import OrderedDict, UserDict
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from holdfast import Broadcaster, InvalidPayload, MessageTooLarge, PublishError
from holdfast.asgi import LiveApp
from tests.bad_inputs.entries import reader
from tests.bad_inputs.inputs import (
    BAD_KEYS,
    BAD_PAYLOADS,
    BAD_PRIORITIES,
    BAD_TTLS,
    GOOD_KEYS,
    GOOD_PAYLOADS,
    HUGE,
    MARK,
    MEGABYTE,
)
from tests.support.asgi import HttpExchange
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import run_ready

if TYPE_CHECKING:
    pass


class Colour(Enum):
    RED = 1


OBJECTS: list[Any] = [
    datetime.now(UTC), datetime.now(UTC).date(), Decimal("1.5"), uuid4(), Colour.RED, UserDict(a=1),
    frozenset(), lambda: 1, (n for n in range(3)), {}.keys(), asyncio, type("X", (), {})(),
]  # fmt: skip
OPTIONS: list[tuple[str, Any]] = [
    *(("ttl", value) for value in BAD_TTLS),
    *(("priority", value) for value in BAD_PRIORITIES),
    *((name, value) for name in ("key", "to_user", "idempotency_key") for value in BAD_KEYS),
    ("to_user", ""),
]


async def test_unencodable_payload_raises_at_once(broadcaster: Broadcaster) -> None:
    """InvalidPayload is raised at once, at any depth; the error does not show the value."""
    async with reader(broadcaster):
        for data in [*BAD_PAYLOADS, *OBJECTS]:
            for whole in (data, [data], {"a": {"b": [1, data]}}):
                with pytest.raises(InvalidPayload) as caught:
                    await broadcaster.publish("t", whole)
                assert MARK not in str(caught.value)
                assert len(str(caught.value)) < 500
                with pytest.raises(InvalidPayload):
                    await broadcaster.publish_to_user("ann", whole)
        assert broadcaster.statistics().published == 0


@pytest.mark.parametrize(("name", "value"), OPTIONS, ids=lambda value: repr(value)[:30])
async def test_invalid_publish_option_raises_at_once(
    broadcaster: Broadcaster, name: str, value: Any
) -> None:
    """Each mistake raises a PublishError that names it, at every publishing call."""
    if value is None and name != "priority":
        pytest.fail("None is valid there")
    options: dict[str, Any] = {name: value}
    async with reader(broadcaster):
        with pytest.raises(PublishError, match=name) as caught:
            await broadcaster.publish("t", 1, **options)
        assert len(str(caught.value)) < 500, "the error is too long to read"
        if name != "to_user":
            with pytest.raises(PublishError, match=name):
                await broadcaster.publish_to_user("ann", 1, **options)
        else:
            with pytest.raises(PublishError):
                await broadcaster.publish_to_user(value, 1)
        assert broadcaster.statistics().offset == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("ttl", 0), ("ttl", HUGE), ("ttl", "5"), ("priority", True), ("priority", "HIGH"), ("key", 5),
     ("key", "x" * 201), ("interval", 0), ("interval", -1), ("interval", float("nan")),
     ("interval", float("inf")), ("interval", "5"), ("interval", True), ("interval", None)],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_unpublishable_periodic_source_raises_at_once(name: str, value: Any) -> None:
    """A source that would fail at every call fails when it is made, with an error of holdfast."""
    options: dict[str, Any] = {"interval": 1.0, name: value}
    with pytest.raises(ValueError, match=name):  # ConfigurationError and PublishError are
        Broadcaster().periodic("t", lambda: 1, **options)


async def test_valid_payload_arrives_unchanged(app: LiveApp, broadcaster: Broadcaster) -> None:
    """Any JSON value is one `data` line and one `id` line, and decodes to the same value."""
    async with HttpExchange(app, "/stream?topics=t") as call:
        await call.read_head()
        await call.frame()
        for data in GOOD_PAYLOADS:
            for key in (None, *GOOD_KEYS[:3]):
                await broadcaster.publish("t", data, key=key)
            await run_ready()
        for data in GOOD_PAYLOADS:
            for key in (None, *GOOD_KEYS[:3]):
                event = await call.event()
                assert event is not None
                assert event.fields in (("data", "id"), ("retry", "data", "id"))
                assert event.type == "message"
                frame = event.json()
                assert frame["data"] == data
                assert frame.get("key") == key
                assert frame["type"] == "message"


async def test_wire_has_no_raw_control_characters(broadcaster: Broadcaster) -> None:
    """CR, LF, NUL and the rest of C0 never reach a field, from data, key or topic."""
    async with broadcaster.connect(topics=["t"]) as connection:
        await connection.next_frames()
        connection.mark_sent()
        for char in map(chr, range(0x20)):
            await broadcaster.publish("t", {char: [char, f"a{char}b"]}, key=f"k{char}")
        for frame in await connection.next_frames() or []:
            assert not [byte for byte in frame.body if byte < 0x20]
            json.loads(frame.body)


async def test_empty_key_supersedes(broadcaster: Broadcaster) -> None:
    """An empty key supersedes like any other, and similar keys do not."""
    async with broadcaster.connect(topics=["t"]) as connection:
        made = FrameReader(connection)
        await made.first_frame()
        for round_ in range(2):
            await broadcaster.publish("t", f"none {round_}")
            for key in GOOD_KEYS:
                await broadcaster.publish("t", f"{key} {round_}", key=key)
        got = await made.take(2 + len(GOOD_KEYS))
        assert sorted(got) == sorted(["none 0", "none 1", *(f"{key} 1" for key in GOOD_KEYS)])


@pytest.mark.parametrize("size", [0, 1, 65_536, MEGABYTE - 200, MEGABYTE, 8 * MEGABYTE])
async def test_message_size_limit_is_exact(broadcaster: Broadcaster, size: int) -> None:
    """A message of the limit arrives; a larger one is MessageTooLarge and reaches no reader."""
    async with reader(broadcaster) as made:
        if size < MEGABYTE:
            await broadcaster.publish("t", "x" * size)
            assert await made.take(1) == ["x" * size]
        else:
            with pytest.raises(MessageTooLarge) as caught:
                await broadcaster.publish("t", "x" * size)
            assert caught.value.size > caught.value.limit == MEGABYTE
            assert len(str(caught.value)) < 200


async def test_later_change_of_a_payload_has_no_effect() -> None:
    """The data is encoded before any wait, also while the broker is publishing."""
    broker = DelayedBroker()
    async with (
        Broadcaster(broker=broker) as broadcaster,
        broadcaster.connect(topics=["t"]) as connection,
    ):
        made = FrameReader(connection)
        await made.first_frame()
        data: dict[str, Any] = {"n": 1, "list": [1], "ordered": OrderedDict(a=1)}
        as_it_was = copy.deepcopy(data)
        broker.hold()
        publishing = asyncio.ensure_future(broadcaster.publish("t", data))
        await run_ready()
        data["n"], data["new"] = object(), float("nan")
        data["list"].append("changed")
        data["ordered"]["a"] = 2
        broker.release()
        await publishing
        data.clear()
        assert await made.take(1) == [as_it_was]
