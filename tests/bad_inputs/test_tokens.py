"""Invalid tokens: one answer for all, no token used up, constant memory."""

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
from tests.bad_inputs.entries import TOKEN_ENTRY_POINTS, EntryPoint, enter, is_too_long, refusal
from tests.bad_inputs.inputs import MEGABYTE, TEXTS, mangled_tokens
from tests.support.asgi import HttpExchange, authenticate_by_header, fetch
from tests.support.node import node_of
from tests.support.virtual_loop import run_ready, wall_clock

if TYPE_CHECKING:
    from types import FrameType

every_door = pytest.mark.parametrize("entry_point", TOKEN_ENTRY_POINTS, ids=str)
GUESSES = 20_000
LIFETIME, GRACE = 86_400.0, 60.0


async def begin(app: LiveApp, user: str | None = "ann", **headers: str) -> tuple[str, str]:
    """Return event id and token of a session whose connection has ended."""
    sent = headers if user is None else {"x-user": user, **headers}
    async with HttpExchange(app, "/stream?topics=t", headers=sent) as call:
        assert await call.read_head() == 200
        token = (await call.frame())["data"]["reconnectToken"]
    return call.decoder.last_event_id, token


async def useless(app: LiveApp, broadcaster: Broadcaster) -> dict[str, str]:
    """Return tokens that are invalid for Ann, each for another reason."""
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
    """Return everything a client can see, without random values and the time."""
    frame = {**client.first, "data": {**client.data}}
    sizes = {name: len(str(frame["data"].pop(name))) for name in ("connectionId", "reconnectToken")}
    assert frame["data"].pop("resumableUntil") > frame.pop("timestamp")
    headers = dict(getattr(client.call, "headers", {}))
    headers.pop("x-reconnect-token", None)
    headers.pop("content-length", None)  # the length of a poll depends on the digits of the time
    return {k: v for k, v in frame.items() if k != "id"}, sizes, headers, frame["data"].keys()


@every_door
async def test_all_token_refusals_are_equal(
    app: LiveApp, broadcaster: Broadcaster, entry_point: EntryPoint
) -> None:
    """Unknown, foreign, spent, old, logged-out and malformed tokens get the same answer."""
    answers = {}
    for why, token in (await useless(app, broadcaster)).items():
        async with enter(entry_point, app, token, user="ann") as client:
            answers[why] = outside(client)
    assert answers["never issued"][0]["data"]["gap"] == {"cause": "unknown", "count": None}
    assert list(answers.values()) == [answers["never issued"]] * len(answers)


@every_door
async def test_expired_token_is_answered_like_an_unknown_one(entry_point: EntryPoint) -> None:
    """A token after its lifetime or its grace is answered like one that was never issued."""
    async with Broadcaster(clock=wall_clock) as broadcaster:
        app = LiveApp(broadcaster, authenticate=authenticate_by_header)
        for pause in (GRACE, LIFETIME):
            at, token = await begin(app)
            if pause == GRACE:
                await begin(app, **{"last-event-id": at})
            await asyncio.sleep(pause)
            answers = []
            for presented in (token, "A" * 22):
                async with enter(entry_point, app, presented, user="ann") as client:
                    answers.append(outside(client))
            assert answers[0] == answers[1]


@every_door
async def test_near_miss_of_a_token_uses_up_nothing(entry_point: EntryPoint) -> None:
    """Truncated, padded, recased, doubled and huge tokens fail; the real one still works."""
    broker = MemoryBroker(tokens=TokenLimits(per_user=1000))  # each attempt leaves a session of Ann
    async with Broadcaster(broker=broker) as broadcaster:
        app = LiveApp(broadcaster, authenticate=authenticate_by_header)
        await try_what_is_nearly_a_token(entry_point, app, broadcaster)


async def try_what_is_nearly_a_token(
    entry_point: EntryPoint, app: LiveApp, broadcaster: Broadcaster
) -> None:
    """Present every near-miss of a token with its owner's rights, and then the token."""
    at, token = await begin(app)
    await broadcaster.publish("t", "missed")
    for text in [*TEXTS, *mangled_tokens(token)]:
        if is_too_long(entry_point, text):
            assert (await refusal(entry_point, app, text))[0] == "invalid_query"
            continue
        async with enter(entry_point, app, text, user="ann") as client:
            assert client.data["gap"] == {"cause": "unknown", "count": None}, ascii(text[:60])
            assert "replay" not in client.data
    async with HttpExchange(app, "/stream", headers={"x-user": "ann", "last-event-id": at}) as call:
        await call.read_head()
        assert (await call.frame())["data"]["session"] == "resumed"
        assert (await call.frame())["data"] == "missed"


@pytest.mark.parametrize("entry_point", [*TOKEN_ENTRY_POINTS[:4]], ids=str)
async def test_refused_request_uses_up_no_token(app: LiveApp, entry_point: EntryPoint) -> None:
    """HEAD, OPTIONS, prefetches, other methods and every refusal leave the token unused."""
    at, token = await begin(app)
    kind, _, name = entry_point.place.partition(" ")
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
        answer = await fetch(app, method, f"{entry_point.path}{path}?{query}", headers=headers)
        assert answer.status == status, (method, headers)
        assert "x-reconnect-token" not in answer.headers
    async with HttpExchange(app, "/stream", headers={"x-user": "ann", "last-event-id": at}) as call:
        await call.read_head()
        assert (await call.frame())["data"]["session"] == "resumed"


async def test_no_audit_event_or_repr_contains_a_token() -> None:
    """No answer and no log contains a presented token, valid or not."""
    events: list[AuditEvent] = []
    async with Broadcaster(audit=events.append) as broadcaster:
        app = LiveApp(broadcaster, authenticate=authenticate_by_header)
        tokens = list((await useless(app, broadcaster)).values())
        for token in list(tokens):
            async with enter(TOKEN_ENTRY_POINTS[0], app, token, user="ann") as client:
                tokens.append(client.data["reconnectToken"])
    said = repr(events)
    assert "'token refused'" in said or "TOKEN_REFUSED" in said
    assert not [token for token in tokens if token in said]


# -- structure instead of a clock ------------------------------------------------------------------


def registry_with(tokens: dict[str, Token]) -> TokenRegistry:
    """Create sessions of Ann and Bob, with one token used up."""
    registry = TokenRegistry()
    for number, (user, token) in enumerate(tokens.items()):
        registry.issue(token, Session(user.partition(" ")[0]), 0.0, None)  # type: ignore[arg-type]
        if user.endswith("spent"):
            id = ConnectionId(f"c{number}")
            found = registry.redeem(token, "ann", id, bytes(16), 0.0)  # type: ignore[arg-type]
            assert found.session is not None
            registry.detach(id, found.session, -1000.0)  # its grace is over
    return registry


def test_all_token_refusals_take_the_same_steps() -> None:
    """A guess, a foreign token and a spent one take the same steps, so timing reveals nothing."""
    own = {"ann": Token("a" * 22), "bob": Token("b" * 22), "ann spent": Token("c" * 22)}
    counted: dict[RedeemStatus, Counter[str]] = {}
    for token in ("x" * 22, "b" * 22, "c" * 22):
        registry, steps = registry_with(own), Counter[str]()

        def count(frame: FrameType, event: str, arg: Any, steps: Counter[str] = steps) -> None:
            if event in ("call", "c_call"):
                steps[getattr(arg, "__name__", None) or frame.f_code.co_name] += 1

        gc.disable()  # a garbage collection calls its registered callbacks, as Hypothesis has some
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


def test_only_hashes_of_tokens_are_kept() -> None:
    """Only hashes are looked up, so the time of a comparison reveals nothing about a token."""
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
    assert len(seen) > 10, "the walk did not reach the sessions"


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_guessed_tokens_cost_the_store_no_memory() -> None:
    """20,000 tokens that were never issued, of every length, add no entry and no memory."""
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


@pytest.mark.slow
@pytest.mark.parametrize("user", ["ann", None])
async def test_guessed_tokens_at_the_endpoint_stay_within_limits(user: str | None) -> None:
    """A guessing client gets sessions within the limits; other sessions and connections stay."""
    broker = MemoryBroker(tokens=TokenLimits(per_user=20, total=50))
    async with Broadcaster(broker=broker, clock=wall_clock) as broadcaster:
        app = LiveApp(broadcaster, authenticate=authenticate_by_header)
        at, _ = await begin(app, "bob")
        headers = [] if user is None else [("x-user", user)]
        for n in range(500):
            sent = [*headers, ("x-reconnect-token", f"{n:022d}")]
            async with HttpExchange(app, "/stream?topics=t", headers=sent) as call:
                await call.read_head()
        assert len(broker.tokens.registry) <= 51
        assert broadcaster.statistics().connections == 0
        gc.collect()
        alive = sum(
            isinstance(each, Connection) and each._context is node_of(broadcaster).context
            for each in gc.get_objects()
        )
        assert alive < 50, f"{alive} closed connections are kept"
        async with HttpExchange(
            app, "/stream", headers={"x-user": "bob", "last-event-id": at}
        ) as call:
            await call.read_head()
            assert (await call.frame())["data"]["session"] == "resumed"


async def test_huge_token_is_not_stored(app: LiveApp) -> None:
    """A token of any length that a server accepts is refused for the price of reading it."""
    text = "A" * (4 * MEGABYTE)
    async with enter(TOKEN_ENTRY_POINTS[0], app, "warm"):
        pass
    tracemalloc.start()
    try:
        for _ in range(3):
            async with enter(TOKEN_ENTRY_POINTS[0], app, text) as client:
                assert client.data["session"] == "gap"
                del client
        await run_ready()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < MEGABYTE
    assert peak < 8 * len(text)
