"""GET /poll: a resume that waits for messages, and answers with the frames of WebSocket."""

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
    """Return a running Broadcaster without heartbeats, which would answer a poll early."""
    async with Broadcaster(heartbeat_interval=None) as made:
        yield made


async def poll(
    app: LiveApp, event_id: str | None = None, query: str = "", **headers: str
) -> list[Any]:
    """Send one poll. Returns its frames."""
    if event_id is not None:
        headers["Last-Event-ID"] = event_id
    answer = await fetch(app, "GET", f"/poll?topics=t{query}", headers=headers)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    frames = answer.json()["frames"]
    assert frames[0]["type"] == "connection_established"
    return list(frames)


def now() -> float:
    """Return seconds of the loop's clock."""
    return asyncio.get_running_loop().time()


async def test_first_poll_is_answered_at_once(app: LiveApp, broadcaster: Broadcaster) -> None:
    """A fresh session is answered at once, and its connection has ended then."""
    start = now()
    (first,) = await poll(app)
    assert now() - start < 0.1
    assert (first["data"]["session"], first["data"]["topics"]) == ("fresh", ["t"])
    assert first["id"].endswith(first["data"]["reconnectToken"])
    assert broadcaster.statistics().connections == 0


async def test_poll_returns_the_messages_since_the_last_one(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """A poll returns the messages since the last one at once, in order."""
    (first,) = await poll(app)
    for n in range(250):
        await broadcaster.publish("t", n)
    start = now()
    first_frame, *frames = await poll(app, first["id"])
    assert now() - start < 0.1
    assert first_frame["data"]["session"] == "resumed"
    assert [frame["data"] for frame in frames] == list(range(250))
    first_frame, *frames = await poll(app, frames[99]["id"], "&wait=0")
    assert [frame["data"] for frame in frames] == list(range(100, 250))


async def test_poll_without_messages_waits(app: LiveApp, broadcaster: Broadcaster) -> None:
    """A poll without pending messages is answered with the next message."""
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
    """A poll waits for 25 s at most, which proxies allow."""
    (first,) = await poll(app)
    start = now()
    assert len(await poll(app, first["id"], query)) == 1
    assert seconds <= now() - start < seconds + 0.1


async def test_gap_is_reported_at_once(app: LiveApp) -> None:
    """A client with an unknown position gets its gap at once."""
    start = now()
    (first,) = await poll(app, "nonsense")
    assert first["data"]["gap"] == {"cause": "unknown", "count": None}
    assert now() - start < 0.1


async def test_lost_answer_is_repeated(app: LiveApp, broadcaster: Broadcaster) -> None:
    """A client whose answer was lost gets the same messages with the same id."""
    (first,) = await poll(app)
    await broadcaster.publish("t", 1)
    event_id = ""
    for _ in range(3):
        first_frame, message = await poll(app, first["id"])
        assert (first_frame["data"]["session"], message["data"]) == ("resumed", 1)
        event_id = message["id"]
    (first_frame,) = await poll(app, event_id, "&wait=0")
    assert (first_frame["data"]["session"], first_frame["data"]["replay"]) == ("resumed", 0)


async def test_client_that_disconnects_while_it_waits(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """If the client disconnects, its connection ends, and no message is lost."""
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
    """A drain answers a waiting poll, and refuses a new one with Retry-After."""
    (first,) = await poll(app)
    waiting = asyncio.create_task(poll(app, first["id"]))
    await run_ready()
    broadcaster.begin_drain()
    assert (await waiting)[-1]["data"] == {"reason": "drain", "reconnect": True}
    answer = await fetch(app, "GET", "/poll?topics=t")
    assert (answer.status, answer.json()["error"]["code"]) == (503, "drain")
    assert 2 <= int(answer.headers["retry-after"]) <= 10


async def test_poll_over_capacity_gets_503(broadcaster: Broadcaster) -> None:
    """A poll over the limit of connections gets 503, because it is not an EventSource."""
    async with Broadcaster(max_connections=1) as full:
        app = live_app(full)
        async with HttpExchange(app, "/stream?topics=t") as call:
            await call.read_head()
            answer = await fetch(app, "GET", "/poll?topics=t")
            assert (answer.status, answer.json()["error"]["code"]) == (503, "over_capacity")
            assert "retry-after" in answer.headers


async def test_credentials_that_expire_while_it_waits(broadcaster: Broadcaster) -> None:
    """A waiting poll ends when its credentials expire."""
    expires_at = wall_clock() + 30.0
    async with Broadcaster(clock=wall_clock, heartbeat_interval=None) as own_broadcaster:
        app = live_app(
            own_broadcaster, authenticate=lambda request: User(id="ann", expires_at=expires_at)
        )
        (first,) = await poll(app)
        (second,) = await poll(app, first["id"])
        frames = await poll(app, second["id"])
        assert frames[-1]["data"] == {"reason": "credentials_expired", "reconnect": False}
        assert (await fetch(app, "GET", "/poll?topics=t")).status == 401


async def test_refusals(app: LiveApp, broadcaster: Broadcaster) -> None:
    """A poll is refused with the same statuses as a stream, and if `wait` is not a number."""
    for path, headers, status, word in [
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
        assert (answer.status, answer.json()["error"]["code"]) == (status, word)
    assert broadcaster.statistics().opened == 0
    (first,) = await poll(app, None, ",secret")
    assert first["data"]["rejected"] == ["secret"]


async def test_cors_headers_of_a_poll(broadcaster: Broadcaster) -> None:
    """A poll and a refusal have the CORS headers of a stream."""
    app = live_app(broadcaster, allowed_origins=["https://page.test"])
    for query, status in (("t", 200), ("a%20b", 400)):
        answer = await fetch(
            app, "GET", f"/poll?topics={query}", headers={"Origin": "https://page.test"}
        )
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == "https://page.test"


async def test_head_and_prefetch_consume_nothing(app: LiveApp, broadcaster: Broadcaster) -> None:
    """HEAD and a prefetch redeem no token, and do not wait."""
    (first,) = await poll(app)
    opened = broadcaster.statistics().opened
    for method, more in (("HEAD", {}), ("GET", {"Sec-Purpose": "prefetch"})):
        headers = {"Last-Event-ID": first["id"], **more}
        answer = await fetch(app, method, "/poll?topics=t", headers=headers)
        assert answer.status == 200
        assert answer.body == (b"" if method == "HEAD" else b'{"frames":[]}')
    assert broadcaster.statistics().opened == opened


async def test_disabled_poll_gets_204(broadcaster: Broadcaster) -> None:
    """A disabled /poll gets 204, as a stream does."""
    answer = await fetch(live_app(broadcaster, enabled=False), "GET", "/poll?topics=t")
    assert (answer.status, answer.body) == (204, b"")


async def test_answer_has_a_limit(app: LiveApp, broadcaster: Broadcaster) -> None:
    """An answer has about 256 KiB at most, and the next poll has the remaining messages."""
    (first,) = await poll(app)
    padding = "x" * 30_000
    for n in range(40):
        await broadcaster.publish("t", [n, padding])
    event_id, received = first["id"], list[int]()
    poll_count = 0
    while len(received) < 40:
        frames = await poll(app, event_id, "&wait=0")
        received += [frame["data"][0] for frame in frames[1:]]
        event_id, poll_count = frames[-1]["id"], poll_count + 1
        assert sum(len(str(frame)) for frame in frames) < 400_000
    assert received == list(range(40))
    assert poll_count > 3


async def test_steady_messages_do_not_delay_an_answer(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """A poll is answered even if messages come faster than its pause."""
    (first,) = await poll(app)

    async def publish() -> None:
        for n in range(2000):
            await broadcaster.publish("t", n)
            await asyncio.sleep(0.005)

    publishing = asyncio.create_task(publish())
    start, event_id, received = now(), first["id"], list[int]()
    for _ in range(20):
        frames = await poll(app, event_id)
        received += [frame["data"] for frame in frames[1:]]
        event_id = frames[-1]["id"]
    assert now() - start < 20 * 0.2
    assert received == list(range(len(received)))
    publishing.cancel()


async def test_polls_are_slow_while_the_broker_is_unavailable(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """A `degraded` frame delays the answer, and the frame of its end does not."""
    (first,) = await poll(app)
    node_of(broadcaster).set_reachable(False)
    start = now()
    frames = await poll(app, first["id"])
    assert [frame["type"] for frame in frames[1:]] == ["degraded"]
    assert 4.0 < now() - start < 6.0
    waiting = asyncio.create_task(poll(app, frames[-1]["id"]))
    await asyncio.sleep(1.0)
    node_of(broadcaster).set_reachable(True)
    start = now()
    assert [frame["type"] for frame in (await waiting)[1:]] == ["degraded", "recovered"]
    assert now() - start < 0.2


async def test_topics_of_a_poll_replace_the_subscriptions(
    app: LiveApp, broadcaster: Broadcaster
) -> None:
    """The subscriptions of a poll are its topics, because no POST reaches its connection."""
    async with HttpExchange(app, "/stream?topics=t,u") as call:
        await call.read_head()
        first_frame = await call.frame()
        body = {"connectionId": first_frame["data"]["connectionId"], "topics": ["u"]}
        assert (await fetch(app, "POST", "/unsubscribe", body=body)).status == 200
        event_id = call.decoder.last_event_id
    (first,) = await poll(app, event_id, ",u&wait=0")
    assert sorted(first["data"]["topics"]) == ["t", "u"]
    assert first["data"]["session"] == "resumed"


async def test_answer_lost_an_hour_ago_is_repeated(
    broadcaster: Broadcaster,
) -> None:
    """The predecessor of a token that was sent in a poll is valid for the token lifetime."""
    async with Broadcaster(
        clock=wall_clock, heartbeat_interval=None, history_age=86_400.0
    ) as own_broadcaster:
        app = live_app(own_broadcaster)
        (first,) = await poll(app)
        await own_broadcaster.publish("t", 1)
        (_, lost) = await poll(app, first["id"])
        await asyncio.sleep(3600.0)
        first_frame, message = await poll(app, first["id"])
        assert (first_frame["data"]["session"], message["data"]) == ("resumed", 1)
        (first_frame,) = await poll(app, message["id"], "&wait=0")
        (first_frame,) = await poll(app, lost["id"], "&wait=0")
        assert first_frame["data"]["session"] == "resumed", "the same token gets the same answer"
        (first_frame,) = await poll(app, first["id"], "&wait=0")
        assert first_frame["data"]["gap"]["cause"] == "unknown"
        # A stream sends its token in the first frame, so its predecessor has only the grace time.
        async with HttpExchange(
            app, "/stream?topics=t", headers={"Last-Event-ID": lost["id"]}
        ) as call:
            await call.read_head()
        await asyncio.sleep(61.0)
        (first_frame,) = await poll(app, lost["id"], "&wait=0")
        assert first_frame["data"]["gap"]["cause"] == "unknown"
