"""Tokens that open nothing: one answer for all, nothing used up, constant memory."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import AuditEvent, Broadcaster, MemoryBroker, TokenLimits
from holdfast.asgi import LiveApp
from holdfast.core.tokens import ConnectionId, RedeemStatus, Session, Token, TokenRegistry
from holdfast.runtime.connection import Connection
from tests.bad_inputs.entries import TOKEN_DOORS, Door, enter, is_too_long, refusal
from tests.bad_inputs.inputs import MEGABYTE, TEXTS, mangled_tokens
from tests.support.asgi import Http, by_name, fetch
from tests.support.inside import node_of
from tests.support.virtual import settle, wall_clock

if TYPE_CHECKING:
    from types import FrameType

every_door = pytest.mark.parametrize("door", TOKEN_DOORS, ids=str)
GUESSES = 20_000
LIFETIME, GRACE = 86_400.0, 60.0


async def begin(app: LiveApp, user: str | None = "ann", **headers: str) -> tuple[str, str]:
    """Event id and token of a session whose connection has gone."""
    sent = headers if user is None else {"x-user": user, **headers}
    async with Http(app, "/stream?topics=t", headers=sent) as call:
        assert await call.start() == 200
        token = (await call.frame())["data"]["reconnectToken"]
    return call.decoder.last_event_id, token


async def useless(app: LiveApp, broadcaster: Broadcaster) -> dict[str, str]:
    """Tokens that open nothing for ann, each for another reason."""
    at, two_ago = await begin(app)
    _, spent = await begin(app, **{"last-event-id": at})
    await begin(app, **{"x-reconnect-token": spent})
    _, foreign = await begin(app, "bob")
    _, of_nobody = await begin(app, None)
    logged_out = (await begin(app))[1]
    await broadcaster.disconnect_user("ann")
    return {
        "never issued": "A" * 22, "two generations ago": two_ago, "spent": spent,
        "somebody else's": foreign, "nobody's": of_nobody, "after logout": logged_out,
        "truncated": foreign[:-1], "padded": foreign + "==", "other case": foreign.swapcase(),
        "nonsense": "\0\r\n",
    }  # fmt: skip


def outside(client: Any) -> Any:
    """All that a client can see, without what is random or the time."""
    frame = {**client.first, "data": {**client.data}}
    sizes = {name: len(str(frame["data"].pop(name))) for name in ("connectionId", "reconnectToken")}
    assert frame["data"].pop("resumableUntil") > frame.pop("timestamp")
    headers = dict(getattr(client.call, "headers", {}))
    headers.pop("x-reconnect-token", None)
    headers.pop("content-length", None)  # of a poll: as long as the time is in digits
    return {k: v for k, v in frame.items() if k != "id"}, sizes, headers, frame["data"].keys()


@every_door
async def test_all_refusals_look_alike(app: LiveApp, broadcaster: Broadcaster, door: Door) -> None:
    """Unknown, somebody else's, spent, old, after a logout, malformed: one and the same answer."""
    answers = {}
    for why, token in (await useless(app, broadcaster)).items():
        async with enter(door, app, token, user="ann") as client:
            answers[why] = outside(client)
    assert answers["never issued"][0]["data"]["gap"] == {"cause": "unknown", "count": None}
    assert list(answers.values()) == [answers["never issued"]] * len(answers)


@every_door
async def test_expired_looks_like_unknown(door: Door) -> None:
    """A token whose life is over, and one whose grace is, are answered like one never issued."""
    async with Broadcaster(clock=wall_clock) as broadcaster:
        app = LiveApp(broadcaster, authenticate=by_name)
        for pause in (GRACE, LIFETIME):
            at, token = await begin(app)
            if pause == GRACE:
                await begin(app, **{"last-event-id": at})
            await asyncio.sleep(pause)
            answers = []
            for presented in (token, "A" * 22):
                async with enter(door, app, presented, user="ann") as client:
                    answers.append(outside(client))
            assert answers[0] == answers[1]


@every_door
async def test_what_is_nearly_a_token_uses_up_nothing(door: Door) -> None:
    """Truncated, padded, in another case, doubled, a megabyte long; the real one still works."""
    broker = MemoryBroker(tokens=TokenLimits(per_user=1000))  # each try leaves a session of ann's
    async with Broadcaster(broker=broker) as broadcaster:
        app = LiveApp(broadcaster, authenticate=by_name)
        await try_what_is_nearly_a_token(door, app, broadcaster)


async def try_what_is_nearly_a_token(door: Door, app: LiveApp, broadcaster: Broadcaster) -> None:
    """Try all that is nearly a token, with the rights of its owner, and then the token."""
    at, token = await begin(app)
    await broadcaster.publish("t", "missed")
    for text in [*TEXTS, *mangled_tokens(token)]:
        if is_too_long(door, text):
            assert (await refusal(door, app, text))[0] == "invalid_query"
            continue
        async with enter(door, app, text, user="ann") as client:
            assert client.data["gap"] == {"cause": "unknown", "count": None}, ascii(text[:60])
            assert "replay" not in client.data
    async with Http(app, "/stream", headers={"x-user": "ann", "last-event-id": at}) as call:
        await call.start()
        assert (await call.frame())["data"]["session"] == "resumed"
        assert (await call.frame())["data"] == "missed"


@pytest.mark.parametrize("door", [*TOKEN_DOORS[:4]], ids=str)
async def test_who_does_not_get_a_stream_uses_up_nothing(app: LiveApp, door: Door) -> None:
    """HEAD, OPTIONS, prefetches, other methods and every refusal leave the token as it was."""
    at, token = await begin(app)
    kind, _, name = door.place.partition(" ")
    for method, path, more, status in [
        ("HEAD", "", {}, 200), ("OPTIONS", "", {}, 405), ("POST", "", {}, 405),
        ("PUT", "", {}, 405), ("TRACE", "", {}, 405), ("get", "", {}, 405),
        ("GET", "", {"sec-purpose": "prefetch;prerender"}, 200),
        ("GET", "", {"purpose": "prefetch"}, 200), ("GET", "", {"x-moz": "prefetch"}, 200),
        ("GET", "", {"accept": "application/json"}, 406),
        ("GET", "", {"x-user": "nobody"}, 401), ("GET", "", {"origin": "https://evil.test"}, 403),
        ("OPTIONS", "", {"origin": "https://evil.test"}, 403),
        ("GET", "/../x", {}, 404), ("GET", "", {"topics": "a b"}, 400),
        ("GET", "", {"topics": "$user"}, 400), ("GET", "", {"topics": "x" * 70_000}, 400),
    ]:  # fmt: skip
        headers: dict[str, str] = {"x-user": "ann", **more}
        query = f"topics={headers.pop('topics', 't').replace(' ', '%20')}"
        if kind == "header":
            headers[name] = token
        else:
            query += f"&{name}={token}"
        answer = await fetch(app, method, f"{door.path}{path}?{query}", headers=headers)
        assert answer.status == status, (method, headers)
        assert "x-reconnect-token" not in answer.headers
    async with Http(app, "/stream", headers={"x-user": "ann", "last-event-id": at}) as call:
        await call.start()
        assert (await call.frame())["data"]["session"] == "resumed"


async def test_tokens_are_in_no_audit_and_no_repr() -> None:
    """What is presented, good or bad, is told to nobody."""
    events: list[AuditEvent] = []
    async with Broadcaster(audit=events.append) as broadcaster:
        app = LiveApp(broadcaster, authenticate=by_name)
        tokens = list((await useless(app, broadcaster)).values())
        for token in list(tokens):
            async with enter(TOKEN_DOORS[0], app, token, user="ann") as client:
                tokens.append(client.data["reconnectToken"])
    said = repr(events)
    assert "'token refused'" in said or "TOKEN_REFUSED" in said
    assert not [token for token in tokens if token in said]


# -- structure instead of a clock ------------------------------------------------------------------


def registry_with(tokens: dict[str, Token]) -> TokenRegistry:
    """Sessions of ann and bob, one token used up."""
    registry = TokenRegistry()
    for number, (user, token) in enumerate(tokens.items()):
        registry.issue(token, Session(user.partition(" ")[0]), 0.0, None)  # type: ignore[arg-type]
        if user.endswith("spent"):
            id = ConnectionId(f"c{number}")
            found = registry.redeem(token, "ann", id, bytes(16), 0.0)  # type: ignore[arg-type]
            assert found.session is not None
            registry.detach(id, found.session, -1000.0)  # its grace is over
    return registry


def test_refusing_takes_the_same_steps() -> None:
    """Between a guess, somebody else's token and a spent one, no step differs: no clock tells."""
    own = {"ann": Token("a" * 22), "bob": Token("b" * 22), "ann spent": Token("c" * 22)}
    counted: dict[RedeemStatus, Counter[str]] = {}
    for token in ("x" * 22, "b" * 22, "c" * 22):
        registry, steps = registry_with(own), Counter[str]()

        def count(frame: FrameType, event: str, arg: Any, steps: Counter[str] = steps) -> None:
            if event in ("call", "c_call"):
                steps[getattr(arg, "__name__", None) or frame.f_code.co_name] += 1

        gc.disable()  # a collection calls whoever wants to know of it, as Hypothesis does
        sys.setprofile(count)
        try:
            answer = registry.redeem(token, "ann", ConnectionId("new"), bytes(16), 1000.0)  # type: ignore[arg-type]
        finally:
            sys.setprofile(None)
            gc.enable()
        counted[answer.status] = steps
    assert set(counted) == {RedeemStatus.UNKNOWN, RedeemStatus.FOREIGN, RedeemStatus.SPENT}
    assert (
        counted[RedeemStatus.UNKNOWN]
        == counted[RedeemStatus.FOREIGN]
        == counted[RedeemStatus.SPENT]
    )


def test_no_secret_is_kept_that_could_be_compared() -> None:
    """Only hashes are looked up, so how long a comparison takes says nothing about a token."""
    own = {"ann": Token("a" * 22), "bob": Token("b" * 22)}
    registry = registry_with(own)
    secrets: list[Any] = [*own.values(), *(token.encode() for token in own.values())]
    held, seen = list[Any]([registry.__dict__]), set[int]()
    while held:
        thing = held.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        assert thing not in secrets
        held += [each for each in gc.get_referents(thing) if not callable(each)]
    assert len(seen) > 10, "the walk found the sessions"


# -- memory ----------------------------------------------------------------------------------------


async def test_flood_of_guesses_on_the_store() -> None:
    """20,000 tokens that were never issued, of every length: not one more entry, no memory."""
    broker = MemoryBroker()
    for user in ("ann", None):
        await broker.tokens.issue(Session(user), None)  # type: ignore[arg-type]
    shapes = ["{:022d}", "{}", "{:023d}", "{:01000d}"]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(GUESSES):
            guess = shapes[n % 4].format(n)
            answer = await broker.tokens.redeem(guess, None, ConnectionId("c"))
            assert answer.status is RedeemStatus.UNKNOWN
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(broker.tokens.registry) == 2
    assert grown < 20_000


@pytest.mark.parametrize("user", ["ann", None])
async def test_flood_of_guesses_through_the_door(user: str | None) -> None:
    """Who guesses gets sessions within the limits, others' stay, and no connection is left."""
    broker = MemoryBroker(tokens=TokenLimits(per_user=20, total=50))
    async with Broadcaster(broker=broker, clock=wall_clock) as broadcaster:
        app = LiveApp(broadcaster, authenticate=by_name)
        at, _ = await begin(app, "bob")
        headers = [] if user is None else [("x-user", user)]
        for n in range(500):
            sent = [*headers, ("x-reconnect-token", f"{n:022d}")]
            async with Http(app, "/stream?topics=t", headers=sent) as call:
                await call.start()
        assert len(broker.tokens.registry) <= 51
        assert broadcaster.statistics().connections == 0
        gc.collect()
        alive = sum(
            isinstance(each, Connection) and each._context is node_of(broadcaster).context
            for each in gc.get_objects()
        )
        assert alive < 50, f"{alive} connections that have gone are kept"
        async with Http(app, "/stream", headers={"x-user": "bob", "last-event-id": at}) as call:
            await call.start()
            assert (await call.frame())["data"]["session"] == "resumed"


async def test_megabytes_are_not_kept(app: LiveApp) -> None:
    """A token of any length that a server lets through is refused at the price of reading it."""
    text = "A" * (4 * MEGABYTE)
    async with enter(TOKEN_DOORS[0], app, "warm"):
        pass
    tracemalloc.start()
    try:
        for _ in range(3):
            async with enter(TOKEN_DOORS[0], app, text) as client:
                assert client.data["session"] == "gap"
                del client
        await settle()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < MEGABYTE
    assert peak < 8 * len(text)
