"""GET /poll: a resume that waits, answered with the frames of WebSocket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth import User
from tests.support.asgi import HttpExchange, fetch, live_app
from tests.support.node import node_of
from tests.support.virtual_loop import run_ready, wall_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def broadcaster() -> AsyncIterator[Broadcaster]:
    """A running broadcaster, without the heartbeats that would answer a poll early."""
    async with Broadcaster(heartbeat_interval=None) as made:
        yield made


async def poll(app: LiveApp, at: str | None = None, query: str = "", **headers: str) -> list[Any]:
    """The frames of one poll."""
    if at is not None:
        headers["Last-Event-ID"] = at
    answer = await fetch(app, "GET", f"/poll?topics=t{query}", headers=headers)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    frames = answer.json()["frames"]
    assert frames[0]["type"] == "connection_established"
    return list(frames)


def now() -> float:
    """Seconds of the loop's clock."""
    return asyncio.get_running_loop().time()


async def test_first_poll_is_answered_at_once(app: LiveApp, broadcaster: Broadcaster) -> None:
    """A fresh session is not made to wait, and its connection has ended when it is answered."""
    began = now()
    (first,) = await poll(app)
    assert now() - began < 0.1
    assert (first["data"]["session"], first["data"]["topics"]) == ("fresh", ["t"])
    assert first["id"].endswith(first["data"]["reconnectToken"])
    assert broadcaster.statistics().connections == 0


async def test_resumed_poll_has_what_came_in_between(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """What was published while nobody asked is answered at once, in one piece and in order."""
    (first,) = await poll(app)
    for n in range(250):
        await broadcaster.publish("t", n)
    began = now()
    first_frame, *frames = await poll(app, first["id"])
    assert now() - began < 0.1
    assert first_frame["data"]["session"] == "resumed"
    assert [frame["data"] for frame in frames] == list(range(250))
    first_frame, *frames = await poll(app, frames[99]["id"], "&wait=0")
    assert [frame["data"] for frame in frames] == list(range(100, 250))


async def test_resumed_poll_waits(app: LiveApp, broadcaster: Broadcaster) -> None:
    """With nothing there it waits, and is answered when something comes."""
    (first,) = await poll(app)
    waiting = asyncio.create_task(poll(app, first["id"]))
    await asyncio.sleep(10.0)
    assert not waiting.done()
    assert broadcaster.statistics().transports == {"poll": 1}
    await broadcaster.publish("t", 1)
    await broadcaster.publish("t", 2)
    assert [frame.get("data") for frame in (await waiting)[1:]] == [1, 2]


@pytest.mark.parametrize(
    ("query", "seconds"), [("", 25.0), ("&wait=3", 3.0), ("&wait=0.5", 0.5), ("&wait=9999", 25.0)]
)
async def test_wait_is_bounded(app: LiveApp, query: str, seconds: float) -> None:
    """25 s by default, and at most, so that no proxy on the way gives up first."""
    (first,) = await poll(app)
    began = now()
    assert len(await poll(app, first["id"], query)) == 1
    assert seconds <= now() - began < seconds + 0.1


async def test_a_gap_is_told_at_once(app: LiveApp) -> None:
    """A client whose position is not known does not wait to learn of it."""
    began = now()
    (first,) = await poll(app, "nonsense")
    assert first["data"]["gap"] == {"cause": "unknown", "count": None}
    assert now() - began < 0.1


async def test_lost_answer_loses_nothing(app: LiveApp, broadcaster: Broadcaster) -> None:
    """Whoever never got an answer presents the same id again and gets the same."""
    (first,) = await poll(app)
    await broadcaster.publish("t", 1)
    at = ""
    for _ in range(3):
        first_frame, message = await poll(app, first["id"])
        assert (first_frame["data"]["session"], message["data"]) == ("resumed", 1)
        at = message["id"]
    (first_frame,) = await poll(app, at, "&wait=0")
    assert (first_frame["data"]["session"], first_frame["data"]["replay"]) == ("resumed", 0)


async def test_client_that_leaves_while_it_waits_is_let_go(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """Its connection ends at once, nothing is answered, and what comes then is not lost."""
    (first,) = await poll(app)
    async with HttpExchange(app, "/poll?topics=t", headers={"Last-Event-ID": first["id"]}) as call:
        await run_ready()
        assert broadcaster.statistics().connections == 1
        call.disconnect()
        await call.wait_ended()
        assert call.from_app.empty()
    assert broadcaster.statistics().connections == 0
    await broadcaster.publish("t", 1)
    assert [frame["data"] for frame in (await poll(app, first["id"]))[1:]] == [1]


async def test_drain_answers_at_once(app: LiveApp, broadcaster: Broadcaster) -> None:
    """Whoever waits is told to come back, and whoever comes then, when."""
    (first,) = await poll(app)
    waiting = asyncio.create_task(poll(app, first["id"]))
    await run_ready()
    broadcaster.begin_drain()
    assert (await waiting)[-1]["data"] == {"reason": "drain", "reconnect": True}
    answer = await fetch(app, "GET", "/poll?topics=t")
    assert (answer.status, answer.json()["error"]["code"]) == (503, "drain")
    assert 2 <= int(answer.headers["retry-after"]) <= 10


async def test_no_room_is_a_status(broadcaster: Broadcaster) -> None:
    """No room is 503: this client is no EventSource, and does not give up at it."""
    async with Broadcaster(max_connections=1) as small:
        app = live_app(small)
        async with HttpExchange(app, "/stream?topics=t") as call:
            await call.read_head()
            answer = await fetch(app, "GET", "/poll?topics=t")
            assert (answer.status, answer.json()["error"]["code"]) == (503, "over_capacity")
            assert "retry-after" in answer.headers


async def test_credentials_that_expire_while_it_waits(broadcaster: Broadcaster) -> None:
    """A poll does not outlive the credentials that it came with."""
    until = wall_clock() + 30.0
    async with Broadcaster(clock=wall_clock, heartbeat_interval=None) as timed:
        app = live_app(timed, authenticate=lambda request: User(id="ann", expires_at=until))
        (first,) = await poll(app)
        (second,) = await poll(app, first["id"])
        frames = await poll(app, second["id"])
        assert frames[-1]["data"] == {"reason": "credentials_expired", "reconnect": False}
        assert (await fetch(app, "GET", "/poll?topics=t")).status == 401


async def test_refusals(app: LiveApp, broadcaster: Broadcaster) -> None:
    """Those of the stream, with the same statuses, and a wait that is no number."""
    for path, headers, status, code in [
        ("/poll?topics=a%20b", {}, 400, "invalid_topic"),
        ("/poll?topics=t&wait=-1", {}, 400, "invalid_query"),
        ("/poll?topics=t&wait=nan", {}, 400, "invalid_query"),
        ("/poll?topics=t&wait=1e9", {}, 400, "invalid_query"),
        ("/poll?topics=t&wait=", {}, 400, "invalid_query"),
        ("/poll?topics=t&wait=%D9%A5", {}, 400, "invalid_query"),
        ("/poll?topics=t", {"X-User": "nobody"}, 401, "unauthorized"),
        ("/poll?topics=t", {"Origin": "https://evil.test"}, 403, "foreign_origin"),
    ]:
        answer = await fetch(app, "GET", path, headers=headers)
        assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert broadcaster.statistics().opened == 0
    (first,) = await poll(app, None, ",secret")
    assert first["data"]["rejected"] == ["secret"]


async def test_a_page_of_an_allowed_origin_may_poll(broadcaster: Broadcaster) -> None:
    """CORS as for a stream, also for a refusal."""
    app = live_app(broadcaster, allowed_origins=["https://page.test"])
    for query, status in (("t", 200), ("a%20b", 400)):
        answer = await fetch(
            app, "GET", f"/poll?topics={query}", headers={"Origin": "https://page.test"}
        )
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == "https://page.test"


async def test_head_and_prefetch_consume_nothing(app: LiveApp, broadcaster: Broadcaster) -> None:
    """Whoever only looks uses up no token, and does not wait."""
    (first,) = await poll(app)
    opened = broadcaster.statistics().opened
    for method, more in (("HEAD", {}), ("GET", {"Sec-Purpose": "prefetch"})):
        headers = {"Last-Event-ID": first["id"], **more}
        answer = await fetch(app, method, "/poll?topics=t", headers=headers)
        assert answer.status == 200
        assert answer.body == (b"" if method == "HEAD" else b'{"frames":[]}')
    assert broadcaster.statistics().opened == opened


async def test_disabled(broadcaster: Broadcaster) -> None:
    """When switched off, 204, as for streams."""
    answer = await fetch(live_app(broadcaster, enabled=False), "GET", "/poll?topics=t")
    assert (answer.status, answer.body) == (204, b"")


async def test_an_answer_has_a_limit(app: LiveApp, broadcaster: Broadcaster) -> None:
    """What is more than about 256 KiB is for the next poll; together they have all."""
    (first,) = await poll(app)
    pad = "x" * 30_000
    for n in range(40):
        await broadcaster.publish("t", [n, pad])
    at, got = first["id"], list[int]()
    polls = 0
    while len(got) < 40:
        frames = await poll(app, at, "&wait=0")
        got += [frame["data"][0] for frame in frames[1:]]
        at, polls = frames[-1]["id"], polls + 1
        assert sum(len(str(frame)) for frame in frames) < 400_000
    assert got == list(range(40))
    assert polls > 3


async def test_an_answer_is_not_held_back_by_what_keeps_coming(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """Where messages follow each other faster than the pause, the answer leaves all the same."""
    (first,) = await poll(app)

    async def publish() -> None:
        for n in range(2000):
            await broadcaster.publish("t", n)
            await asyncio.sleep(0.005)

    publishing = asyncio.create_task(publish())
    began, at, got = now(), first["id"], list[int]()
    for _ in range(20):
        frames = await poll(app, at)
        got += [frame["data"] for frame in frames[1:]]
        at = frames[-1]["id"]
    assert now() - began < 20 * 0.2
    assert got == list(range(len(got)))
    publishing.cancel()


async def test_polls_do_not_race_while_the_broker_is_away(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """What tells `degraded` each time waits a little, and what tells of its end does not."""
    (first,) = await poll(app)
    node_of(broadcaster).set_reachable(False)
    began = now()
    frames = await poll(app, first["id"])
    assert [frame["type"] for frame in frames[1:]] == ["degraded"]
    assert 4.0 < now() - began < 6.0
    waiting = asyncio.create_task(poll(app, frames[-1]["id"]))
    await asyncio.sleep(1.0)
    node_of(broadcaster).set_reachable(True)
    began = now()
    assert [frame["type"] for frame in (await waiting)[1:]] == ["degraded", "recovered"]
    assert now() - began < 0.2


async def test_the_topics_of_a_poll_are_those_that_it_gets(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """No POST reaches the connection of a poll: what was changed by one before, it changes back."""
    async with HttpExchange(app, "/stream?topics=t,u") as call:
        await call.read_head()
        first_frame = await call.frame()
        body = {"connectionId": first_frame["data"]["connectionId"], "topics": ["u"]}
        assert (await fetch(app, "POST", "/unsubscribe", body=body)).status == 200
        at = call.decoder.last_event_id
    (first,) = await poll(app, at, ",u&wait=0")
    assert sorted(first["data"]["topics"]) == ["t", "u"]
    assert first["data"]["session"] == "resumed"


async def test_an_answer_that_was_lost_an_hour_ago_loses_nothing(
    broadcaster: Broadcaster,
) -> None:
    """A laptop that slept while its poll was answered goes on; a token that is older does not."""
    async with Broadcaster(
        clock=wall_clock, heartbeat_interval=None, history_age=86_400.0
    ) as timed:
        app = live_app(timed)
        (first,) = await poll(app)
        await timed.publish("t", 1)
        (_, lost) = await poll(app, first["id"])
        await asyncio.sleep(3600.0)
        first_frame, message = await poll(app, first["id"])
        assert (first_frame["data"]["session"], message["data"]) == ("resumed", 1)
        (first_frame,) = await poll(app, message["id"], "&wait=0")
        (first_frame,) = await poll(app, lost["id"], "&wait=0")
        assert first_frame["data"]["session"] == "resumed", "the same token: the same answer again"
        (first_frame,) = await poll(app, first["id"], "&wait=0")
        assert first_frame["data"]["gap"]["cause"] == "unknown"
        # A stream has given its token with the first frame, and asks for no such patience.
        async with HttpExchange(
            app, "/stream?topics=t", headers={"Last-Event-ID": lost["id"]}
        ) as call:
            await call.read_head()
        await asyncio.sleep(61.0)
        (first_frame,) = await poll(app, lost["id"], "&wait=0")
        assert first_frame["data"]["gap"]["cause"] == "unknown"
