"""A hundred mistakes of developers: each error names the argument and the remedy."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from holdfast import (
    Broadcaster,
    BrokerUnavailable,
    HoldfastError,
    InboundLimits,
    LiveApp,
    MemoryBroker,
    Priority,
    PriorityBuffer,
    Retention,
    Settings,
    TokenLimits,
    User,
    anonymous,
    require_role,
)

Make = Callable[[], object]
Call = Callable[[Any], Any]


def live(**options: Any) -> LiveApp:
    """A LiveApp with these arguments."""
    return LiveApp(Broadcaster(), **{"authenticate": anonymous, **options})


def any_broadcaster(**options: Any) -> Broadcaster:
    """A Broadcaster with these options, of any type."""
    return Broadcaster(**options)


CONSTRUCTIONS: list[tuple[Make, str]] = [
    (lambda: any_broadcaster(heartbeat=30), "did you mean 'heartbeat_interval'"),
    (lambda: any_broadcaster(max_conections=5), "did you mean 'max_connections'"),
    (lambda: any_broadcaster(history=5), "did you mean 'history_"),
    (lambda: any_broadcaster(url="redis://"), "did you mean"),
    (lambda: any_broadcaster(broker="redis://x"), "broker='redis://x': .*RedisBroker"),
    (lambda: any_broadcaster(broker=MemoryBroker), r"broker=.*MemoryBroker\(\)"),
    (lambda: any_broadcaster(audit="audit.log"), "audit='audit.log': .* function"),
    (lambda: any_broadcaster(presence="yes"), "presence='yes': .*True, False, or a function"),
    (lambda: any_broadcaster(clock=5.0), "clock=5.0: .*seconds since the Unix epoch"),
    (lambda: any_broadcaster(buffer_capacity=0), "buffer_capacity=0: .* over 0"),
    (lambda: any_broadcaster(buffer_capacity="5"), "buffer_capacity='5': .* whole number"),
    (lambda: any_broadcaster(buffer_capacity=1.5), "buffer_capacity=1.5: .* whole number"),
    (lambda: any_broadcaster(heartbeat_interval=0), "heartbeat_interval=0: .* over 0"),
    (lambda: any_broadcaster(heartbeat_interval="30s"), "heartbeat_interval='30s': .* number"),
    (lambda: any_broadcaster(idle_timeout=-1), "idle_timeout=-1: .* over 0"),
    (lambda: any_broadcaster(send_timeout=True), "send_timeout=True: .* number"),
    (lambda: any_broadcaster(max_topics=None), "max_topics=None: .* whole number"),
    (lambda: any_broadcaster(drain_at_signal="no"), "drain_at_signal='no': .*True or False"),
    (lambda: any_broadcaster(max_message_bytes=10**9), "max_message_bytes=.*buffer_bytes"),
    (
        lambda: any_broadcaster(broker=MemoryBroker(), history_limit=5),
        "history_limit: pass this to the broker",
    ),
    (lambda: Retention(limits=5), "did you mean 'limit'"),  # type: ignore[call-arg]
    (lambda: Retention(limit=-1), "limit=-1: .* 0 or more"),
    (lambda: Retention(age=0), "age=0: .* over 0"),
    (lambda: Retention(limit="5"), "limit='5'"),  # type: ignore[arg-type]
    (lambda: TokenLimits(lifetme=5), "did you mean 'lifetime'"),  # type: ignore[call-arg]
    (lambda: TokenLimits(lifetime=0), "lifetime=0: .* over 0"),
    (lambda: TokenLimits(grace=-1), "grace=-1: .* 0 or more"),
    (lambda: InboundLimits(rates=5), "did you mean 'rate'"),  # type: ignore[call-arg]
    (lambda: InboundLimits(rate=0), "rate=0: .* over 0"),
    (lambda: MemoryBroker(retention=5), r"retention=5: .*Retention\("),  # type: ignore[arg-type]
    (lambda: MemoryBroker(tokens={}), r"tokens=\{\}: .*TokenLimits\("),  # type: ignore[arg-type]
    (lambda: PriorityBuffer(0), "capacity=0: .* over 0"),
    (lambda: PriorityBuffer("5"), "capacity='5'"),  # type: ignore[arg-type]
    (lambda: PriorityBuffer(5, max_bytes=0), "max_bytes=0: .* over 0"),
    (lambda: PriorityBuffer(True), "capacity=True"),
    (lambda: LiveApp(Broadcaster), "needs a Broadcaster|missing 1 required"),  # type: ignore[call-arg, arg-type]
    (lambda: LiveApp(None, authenticate=anonymous), "needs a Broadcaster, not None"),  # type: ignore[arg-type]
    (lambda: live(authenticate=None), "authenticate=None: .* function .*anonymous"),
    (lambda: live(authenticate=User(id="ada")), "authenticate=User.*function"),
    (lambda: live(authenticate=lambda: None), "authenticate=.* function of a request"),
    (lambda: live(authenticate=User), "authenticate=.* function"),
    (lambda: live(authorize="admin"), r"authorize='admin': .*require_role\('admin'\)"),
    (lambda: live(authorize=require_role), r"authorize=.*require_role\('admin'\)"),
    (lambda: live(authorize=lambda user: True), "authorize=.* user, action, topic"),
    (lambda: live(authorize=None), "authorize=None: .* function"),
    (lambda: live(allowed_origins="*"), r"allowed_origins='\*': .* list"),
    (lambda: live(allowed_origins=None), "allowed_origins=None: .* list"),
    (lambda: live(allowed_origins=["shop.example"]), "'shop.example' .* 'https://shop.example'"),
    (lambda: live(allowed_origins=["https://*.x"]), r"'https://\*.x' is not an origin"),
    (lambda: live(allowed_origins=[""]), "'' is not an origin"),
    (lambda: live(allowed_origins=["https://a.example/path"]), "is not an origin"),
    (lambda: live(allowed_origins=[5]), "5 is not an origin"),
    (lambda: live(websocket_path="ws"), "websocket_path='ws': .* begin with /"),
    (lambda: live(websocket_path=5), "websocket_path=5: .* begin with /"),
    (lambda: live(enabled="false"), "enabled='false': .*True or False"),
    (lambda: live(inbound={"rate": 5}), r"inbound=.*InboundLimits\("),
    (lambda: live(origins=["x"]), "did you mean 'allowed_origins'"),
    (lambda: live(authorise=anonymous), "did you mean 'authorize'"),
    (lambda: User(id=7), "id=7: .* str"),  # type: ignore[arg-type]
    (lambda: User(id=""), "id='': .* not empty, or None"),
    (lambda: User(id="ada", roles="admin"), r"roles='admin': .*frozenset\("),  # type: ignore[arg-type]
    (lambda: User(id="ada", roles=5), "roles=5"),  # type: ignore[arg-type]
    (lambda: User(id="ada", expires_at="tomorrow"), "expires_at='tomorrow'"),  # type: ignore[arg-type]
    (lambda: require_role(["admin"]), r"role=\['admin'\]: .* name of a role"),  # type: ignore[arg-type]
    (lambda: require_role(""), "role='': .* name of a role"),
    (lambda: Settings.from_env({"REAL_TIME_ENABLED": "maybe"}), "REAL_TIME_ENABLED='maybe'"),
    (lambda: Settings.from_env({"REAL_TIME_HEARTBEAT": "5"}), "REAL_TIME_HEARTBEAT: .*misspelt"),
    (lambda: Settings.from_env({"WEBSOCKET_PATH": "ws"}), "WEBSOCKET_PATH='ws': .* begins with /"),
    (lambda: Settings.from_env({"WEBSOCKET_PING_INTERVAL": "5s"}), "WEBSOCKET_PING_INTERVAL='5s'"),
    (lambda: Broadcaster().publish_from_thread("t", 1), "not running"),
    (lambda: Broadcaster().connect(), "not running: .*async with broadcaster"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "remedy"), CONSTRUCTIONS)
def test_construction(make: Make, remedy: str) -> None:
    """A wrong argument of a constructor is refused at once, by name and with the accepted form."""
    with pytest.raises((TypeError, HoldfastError), match=remedy):
        make()


async def enter(broadcaster: Broadcaster, **options: Any) -> None:
    """Open a connection with these arguments."""
    async with broadcaster.connect(**options):
        pass


async def twice(broadcaster: Broadcaster) -> None:
    """Enter one pending connection twice."""
    pending = broadcaster.connect()
    for _ in range(2):
        async with pending:
            pass


CALLS: list[tuple[Call, str]] = [
    (lambda b: enter(b, topics="orders"), r"topics must be a list of names, such as \['orders'\]"),
    (lambda b: enter(b, topics=None), "topics must be a list of names, not None"),
    (lambda b: enter(b, topics=[1]), "a topic is a str, not int"),
    (lambda b: enter(b, topics=[""]), "at least one character"),
    (lambda b: enter(b, topics=["a b"]), "a space"),
    (lambda b: enter(b, user=7), "user=7: .* str"),
    (lambda b: enter(b, user=""), "user='': .* not empty, or None"),
    (lambda b: enter(b, user=User(id="ada")), "user=User.* the id of a user"),
    (lambda b: enter(b, last_event_id=5), "last_event_id=5: .* str or None"),
    (lambda b: enter(b, reconnect_token=5), "reconnect_token=5: .* str or None"),
    (lambda b: enter(b, token="x"), "did you mean 'reconnect_token'"),
    (lambda b: enter(b, topic="x"), "did you mean 'topics'"),
    (lambda b: enter(b, transport=5), "transport=5: .* str"),
    (lambda b: enter(b, may_subscribe=True), "may_subscribe=True: .* function"),
    (lambda b: enter(b, expires_at="tomorrow"), "expires_at='tomorrow': .* number"),
    (twice, r"entered once: call connect\(\) again"),
    (lambda b: b.publish(None, 1), "a topic is a str, not NoneType"),
    (lambda b: b.publish({"id": 1}, "orders"), "a topic is a str, not dict"),
    (lambda b: b.publish("a.*", 1), "wildcard: publish to one topic"),
    (lambda b: b.publish("$user", 1), "reserved"),
    (lambda b: b.publish("t", 1, priority="high"), "priority='high': .* member of Priority"),
    (lambda b: b.publish("t", 1, priority=2), "priority=2: .* member of Priority"),
    (lambda b: b.publish("t", 1, prio=Priority.HIGH), "did you mean 'priority'"),
    (lambda b: b.publish("t", 1, user="ada"), "did you mean 'to_user'"),
    (lambda b: b.publish("t", 1, ttl=-1), "ttl=-1: seconds, finite and over 0"),
    (lambda b: b.publish("t", 1, ttl="5"), "ttl='5': seconds"),
    (lambda b: b.publish("t", 1, key=5), "key=5: .* str or None"),
    (lambda b: b.publish("t", 1, to_user=""), "to_user='': .* name a user"),
    (lambda b: b.publish("t", 1, idempotency_key=b"x"), "idempotency_key=b'x': .* str or None"),
    (lambda b: b.publish("t", datetime.datetime.now(datetime.UTC)), "no JSON form: .*datetime"),
    (lambda b: b.publish("t", {1, 2}), "no JSON form: .*set"),
    (lambda b: b.publish("t", float("nan")), "no JSON form"),
    (lambda b: b.publish("t", "\ud800"), "lone surrogate"),
    (lambda b: b.publish("t", "x" * 2_000_000), "send a reference, or raise max_message_bytes"),
    (lambda b: b.publish_to_user(None, 1), "user=None: .* id of a user"),
    (lambda b: b.publish_to_user(User(id="ada"), 1), "user=User.* id of a user"),
    (lambda b: b.periodic("t", lambda: 1, interval=0), "interval=0: .* over 0"),
    (lambda b: b.periodic("t", 5, interval=1), "source=5: .* function"),
    (lambda b: b.periodic("a.*", lambda: 1, interval=1), "wildcard"),
    (lambda b: b.periodic("t", lambda: 1, interval=1, prio=1), "did you mean 'priority'"),
    (lambda b: b.subscribe("id", ["t"]), r"connection='id': .*broadcaster.connection\(id"),
    (lambda b: b.unsubscribe(None, ["t"]), "connection=None: .* a Connection"),
    (lambda b: b.disconnect(object()), "connection_id=.* id of a connection"),
    (lambda b: b.disconnect("x", "bye"), "reason='bye': .* member of Reason"),
    (lambda b: b.presence("t"), "pass presence=True to Broadcaster"),
    (lambda b: b.online_users(), "pass presence=True to Broadcaster"),
    (lambda b: b.reauthorize(User(id="ada")), "user=User.* id of a user"),
    (lambda b: b.disconnect_user(None), "user=None: .* id of a user"),
    (lambda b: b.position("orders"), "topics must be a list"),
    (lambda b: b.position(["t"], user=5), "user=5: .* id of a user"),
    (lambda b: b.publish_from_thread("t", 1), "await publish instead"),
    (lambda b: b.start(), "running already: start it once"),
    (lambda b: b.drain(timeout="5"), "timeout='5': .* number"),
    (lambda b: b.connection_statistics(limit=-1), "limit=-1: .* 0 or more"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "remedy"), CALLS)
async def test_call(call: Call, remedy: str) -> None:
    """A wrong argument of a method is refused with its name and the accepted form."""
    async with Broadcaster() as broadcaster:
        with pytest.raises((TypeError, RuntimeError, HoldfastError), match=remedy):
            result = call(broadcaster)
            if inspect.isawaitable(result):
                awaitable: Awaitable[object] = result
                await awaitable


def test_errors_of_an_operator_are_not_errors_of_arguments() -> None:
    """An exception that an operator must act on is not a TypeError, which only a developer can."""
    assert not issubclass(BrokerUnavailable, TypeError)


SECRET = "s3cr3t-s3cr3t-s3cr3t-s3"


async def test_reprs_are_useful_and_have_no_secrets() -> None:
    """Each public object names its kind and its state, and no token."""
    async with (
        Broadcaster() as broadcaster,
        broadcaster.connect(user="ada", topics=["t"], reconnect_token=SECRET) as connection,
    ):
        live_app = LiveApp(broadcaster, authenticate=anonymous)
        source = broadcaster.periodic("clock", lambda: 1, interval=1.0)
        pending = broadcaster.connect(last_event_id=SECRET, reconnect_token=SECRET)
        shown = [
            repr(each)
            for each in (broadcaster, live_app, connection, source, pending, PriorityBuffer(5))
        ]
        assert shown[0] == "<Broadcaster running, 1 connections>"
        assert shown[1] == f"<LiveApp of {shown[0]}>"
        assert shown[2].startswith("<Connection ")
        assert "custom opening" in shown[2]
        assert shown[3] == "<PeriodicSource 'clock' every 1.0 s>"
        assert shown[5] == "<PriorityBuffer of 0 messages, at most 5>"
        for text in shown:
            assert SECRET not in text
            assert connection.token not in text
