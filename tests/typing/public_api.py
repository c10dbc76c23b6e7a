"""The public names as type checkers read them; this file is never run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

import httpx

from holdfast import (
    AuditAction,
    AuditEvent,
    Broadcaster,
    Connection,
    MemoryBroker,
    MessageTooLarge,
    Priority,
    Reason,
    Refused,
    Retention,
    Statistics,
    TokenLimits,
)
from holdfast.asgi import LiveApp
from holdfast.auth import Action, Request, User, anonymous, require_role
from holdfast.auth.jwt import JWTAuthenticator
from holdfast.brokers.protocol import Broker
from holdfast.client import Gap, Message, Status, StreamFailed, Subscribed, connect
from holdfast.core.cursor import Cursor, EventId
from holdfast.core.frames import Frame
from holdfast.core.message import Offset
from holdfast.runtime.periodic import PeriodicSource
from holdfast.settings import Settings
from holdfast.transports.websocket import InboundLimits


def on_event(event: AuditEvent) -> None:
    """Check the type of an audit hook."""
    assert_type(event.action, AuditAction)
    assert_type(event.user, str | None)


def authenticate(request: Request) -> User | None:
    """Check the type of an authenticate hook."""
    assert_type(request.headers, dict[str, str])
    assert_type(request.cookies, Mapping[str, str])
    return None


async def authenticate_async(request: Request) -> User | None:
    """Check the type of an authenticate hook that is a coroutine function."""
    return User(id=request.client)


async def authorize_async(user: User, action: Action, topic: str | None) -> bool:
    """Check the type of an authorize hook that is a coroutine function."""
    assert_type(user.roles, frozenset[str])
    return action is Action.SUBSCRIBE


async def may_subscribe(topic: str) -> bool:
    """Check the type of `may_subscribe` of `connect`."""
    return bool(topic)


async def source() -> dict[str, int]:
    """Check the type of a periodic source."""
    return {"n": 1}


async def use_broadcaster() -> None:
    """Check the types of Broadcaster and Connection."""
    broker: Broker = MemoryBroker(retention=Retention(limit=5), tokens=TokenLimits(grace=1.0))
    settings = Settings.from_env({})
    async with Broadcaster(
        broker=broker, audit=on_event, buffer_capacity=5, idle_timeout=None
    ) as broadcaster:
        assert_type(broadcaster, Broadcaster)
        offset = await broadcaster.publish(
            "t", {"a": [1, None, 2.5, "x", True]}, priority=Priority.HIGH, key="k", ttl=5,
            to_user="ann", idempotency_key="i",
        )  # fmt: skip
        assert_type(offset, Offset)
        assert_type(await broadcaster.publish_to_user("ann", None), Offset)
        assert_type(broadcaster.publish_from_thread("t", 1, timeout=1.0), Offset)
        assert_type(broadcaster.periodic("t", source, interval=1.0), PeriodicSource)
        assert_type(broadcaster.periodic("t", lambda: 5, interval=1.0), PeriodicSource)
        assert_type(await broadcaster.position(["t"], user="ann"), str)
        async with broadcaster.connect(
            user="ann", topics=("t",), last_event_id="x", may_subscribe=may_subscribe
        ) as connection:
            assert_type(connection, Connection)
            assert_type(connection.close_reason, Reason | None)
            assert_type(await connection.next_frames(), list[Frame] | None)
            assert_type(connection.acknowledge("x"), bool)
            accepted, rejected = await broadcaster.subscribe(connection, ["t"])
            assert_type(accepted, list[str])
            assert_type(rejected, list[str])
            assert_type(await broadcaster.unsubscribe(connection, {"t"}), list[str])
        assert_type(broadcaster.statistics(), Statistics)
        assert_type(broadcaster.statistics().transports, dict[str, int])
        assert_type(await broadcaster.drain(), bool)
        assert_type(broadcaster.connection("x"), Connection | None)
        assert_type(broadcaster.disconnect("x"), bool)
    Broadcaster(**settings.for_broadcaster())
    Broadcaster(buffer_capacity="5")  # type: ignore[arg-type]
    Broadcaster(no_such_option=5)  # type: ignore[arg-type]
    await broadcaster.publish("t", 1, priority=3)  # type: ignore[arg-type]


async def use_live_app(scope: Any, receive: Any, send: Any) -> None:
    """Check the types of LiveApp."""
    broadcaster = Broadcaster()
    for hook in (anonymous, authenticate, JWTAuthenticator("x")):
        LiveApp(broadcaster, authenticate=hook)
    app = LiveApp(
        broadcaster,
        authenticate=authenticate_async,
        authorize=authorize_async,
        inbound=InboundLimits(rate=5),
        **Settings().for_app(),
    )
    LiveApp(broadcaster, authenticate=anonymous, authorize=require_role("ops"))
    LiveApp(broadcaster)  # type: ignore[call-arg]
    await app(scope, receive, send)


def on_status(status: Status) -> None:
    """Check the type of a callback of the client."""
    assert_type(status.retry_in, float | None)


async def on_gap(gap: Gap) -> None:
    """Check the type of a callback that is a coroutine function."""
    assert_type(gap.count, int | None)
    assert_type(gap.priority, Priority | None)


async def token() -> str:
    """Check the type of a function that returns a bearer token."""
    return "x"


async def use_client() -> None:
    """Check the types of the client."""
    async with httpx.AsyncClient() as http, connect(
        "http://h/live", topics={"t"}, token=token, http=http, on_gap=on_gap,
        on_status=on_status, headers={"x": "y"}, position="x", retry_delays=(1, 5),
    ) as stream:  # fmt: skip
        async for message in stream:
            assert_type(message, Message)
            assert_type(message.data, object)
            assert_type(message.event_id, str)
            assert_type(message.priority, Priority)
        assert_type(await stream.subscribe("a"), Subscribed)
        assert_type(await stream.unsubscribe("a"), tuple[str, ...])
        assert_type(stream.position, str)
    connect("http://h", token=lambda: "x", on_gap=print)
    connect("http://h", token=5)  # type: ignore[arg-type]


def use_stream_failed(error: StreamFailed) -> None:
    """Check the types of the error that ends a stream."""
    assert_type(error.status, int | None)
    assert_type(error.code, str)


def use_records(error: Refused, too_large: MessageTooLarge, event_id: str) -> None:
    """Check the types of values."""
    assert_type(error.reason, Reason)
    assert_type(too_large.limit, int)
    parsed = EventId.parse(event_id)
    assert_type(parsed, EventId | None)
    assert_type(Cursor.parse(event_id), Cursor | None)
    assert_type(Cursor.at(5)[Priority.LOW], Offset)
