"""Publishing before start, after stop, from threads, other loops and hooks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast import (
    AuditEvent,
    Broadcaster,
    InvalidPayload,
    InvalidTopic,
    MessageTooLarge,
    NotRunning,
    PublishError,
    WrongThread,
)
from holdfast.asgi import LiveApp
from holdfast.auth import User
from tests.bad_inputs.entries import reader
from tests.bad_inputs.inputs import MEGABYTE
from tests.support.asgi import HttpExchange

pytestmark = pytest.mark.real_time

REAL = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""Use a real loop, because a virtual clock would not wait for threads."""


async def test_call_outside_the_lifetime_raises() -> None:
    """Every call that needs a running Broadcaster raises the error that names its mistake."""
    broadcaster = Broadcaster()
    for _ in range(2):
        for call in (
            lambda: broadcaster.publish("t", 1),
            lambda: broadcaster.publish_to_user("ann", 1),
            lambda: broadcaster.position(["t"]),
        ):
            with pytest.raises(NotRunning):
                await call()
        with pytest.raises(NotRunning):
            async with broadcaster.connect(topics=["t"]):
                pass
        with pytest.raises(NotRunning):
            broadcaster.publish_from_thread("t", 1)
        async with broadcaster:
            assert await broadcaster.publish("t", 1) > 0


@REAL
async def test_mistake_in_a_thread_raises_there(broadcaster: Broadcaster) -> None:
    """Every mistake raises in its own thread; correct publishes from threads succeed."""
    raised: list[type[BaseException] | int] = []

    def work() -> None:
        calls: list[tuple[str, Any, dict[str, Any]]] = [
            ("a b", 1, {}), ("t", object(), {}), ("t", 1, {"ttl": 0}), ("t", 1, {"priority": True}),
            ("t", 1, {"to_user": ""}), ("t", "x" * 2 * MEGABYTE, {}), ("t", "good", {}),
        ]  # fmt: skip
        for topic, data, options in calls:
            try:
                raised.append(broadcaster.publish_from_thread(topic, data, timeout=10, **options))
            except PublishError as error:
                raised.append(type(error))

    async with reader(broadcaster) as made:
        await asyncio.to_thread(work)
        assert raised == [
            InvalidTopic, InvalidPayload, PublishError, PublishError, PublishError,
            MessageTooLarge, 1,
        ]  # fmt: skip
        assert await made.take(1) == ["good"]


@REAL
async def test_call_from_another_loop_raises(broadcaster: Broadcaster) -> None:
    """Every call from another event loop names the thread-safe way."""
    raised: list[BaseException] = []

    async def foreign() -> None:
        for call in (
            lambda: broadcaster.publish("t", 1),
            lambda: broadcaster.position(["t"]),
            lambda: broadcaster.publish("a b", object()),
        ):
            try:
                await call()
            except WrongThread as error:
                raised.append(error)
        try:
            broadcaster.publish_from_thread("t", 1)
        except WrongThread as error:
            raised.append(error)

    async with reader(broadcaster):
        await asyncio.to_thread(lambda: asyncio.run(foreign()))
        assert len(raised) == 4


async def test_publish_in_a_hook_never_deadlocks() -> None:
    """In hooks, awaiting publish works, and blocking publish is refused instead of a deadlock."""
    made: list[Broadcaster] = []
    refused: list[WrongThread] = []

    def audit(event: AuditEvent) -> None:
        try:
            made[0].publish_from_thread("t", "from a hook")
        except WrongThread as error:
            refused.append(error)

    async def authenticate(request: Any) -> User:
        with pytest.raises(PublishError):
            await made[0].publish("t", object())
        await made[0].publish("t", "from authenticate")
        return User(id="ann")

    async with Broadcaster(audit=audit) as broadcaster:
        made.append(broadcaster)
        app = LiveApp(broadcaster, authenticate=authenticate)
        async with reader(broadcaster) as seen, HttpExchange(app, "/stream?topics=t") as call:
            await call.read_head()
            await call.frame()
            assert await seen.take(1) == ["from authenticate"]
            assert refused
