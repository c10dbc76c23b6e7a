"""The SSE transport, on a scope and two queues."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import Broadcaster, Priority, Reason
from holdfast.core import frames
from holdfast.core.frames import Frame
from holdfast.transports import sse
from tests.support.asgi import HttpExchange
from tests.support.eventstream import EventStreamDecoder
from tests.support.virtual_loop import anyio_backend as anyio_backend
from tests.support.virtual_loop import run_ready


def app(broadcaster: Broadcaster, **first_frame: Any) -> Any:
    """An endpoint of the application's own, as small as it gets."""

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        async with broadcaster.connect(**{"topics": ["t"], **first_frame}) as connection:
            await sse.serve(connection, scope, receive, send, extra_headers=[(b"x-extra", b"1")])

    return endpoint


async def test_bytes_of_a_stream(broadcaster: Broadcaster) -> None:
    """The first chunk has a retry and the first frame; each frame is data, then id, then blank."""
    async with HttpExchange(app(broadcaster), "/") as call:
        assert await call.read_head() == 200
        first = await call.chunk()
        assert re.fullmatch(
            rb"retry: [1-9]\d{3}\ndata: \{[^\n\r\0]*\}\nid: [A-Za-z0-9._~-]{1,128}\n\n", first
        )
        await broadcaster.publish("t", 1)
        await broadcaster.publish("t", 2)
        second = await call.chunk()
        assert re.fullmatch(rb"(data: \{[^\n\r\0]*\}\nid: [A-Za-z0-9._~-]{1,128}\n\n){2}", second)


@pytest.mark.parametrize("version", ["1.0", "1.1", "2", "3"])
async def test_headers(broadcaster: Broadcaster, version: str) -> None:
    """The headers of an event stream; keep-alive belongs to HTTP/1.1 alone (RFC 9113, 8.2.2)."""
    async with HttpExchange(app(broadcaster), "/", http_version=version) as call:
        await call.read_head()
        token = (await call.frame())["data"]["reconnectToken"]
        expected = {
            "content-type": "text/event-stream",
            "cache-control": "no-cache, no-transform",
            "x-accel-buffering": "no",
            "x-reconnect-token": token,
            "x-extra": "1",
        }
        if version == "1.1":
            expected["connection"] = "keep-alive"
        assert call.headers == expected


async def test_retry_is_jittered(broadcaster: Broadcaster) -> None:
    """Clients are told different reconnection times, and never 0."""
    times = set()
    for _ in range(20):
        async with HttpExchange(app(broadcaster), "/") as call:
            await call.read_head()
            await call.event()
            times.add(call.decoder.retry)
    assert len(times) > 10
    assert all(time is not None and 1000 <= time <= 3000 for time in times)


async def test_client_that_leaves_is_let_go_at_once(broadcaster: Broadcaster) -> None:
    """When the client is gone the call returns, and the connection with it."""
    async with HttpExchange(app(broadcaster), "/") as call:
        await call.read_head()
        await call.event()
        assert broadcaster.statistics().connections == 1
        call.disconnect()
        await call.wait_ended()
        assert broadcaster.statistics().connections == 0
        assert call.from_app.empty(), "it was sent an end that nobody reads"


async def test_client_that_left_before_the_response_began(broadcaster: Broadcaster) -> None:
    """A request whose client is gone already ends without harm."""
    call = HttpExchange(app(broadcaster), "/")
    call.disconnect()
    async with call:
        await call.wait_ended()
    assert broadcaster.statistics().connections == 0


async def test_drain_ends_the_stream_cleanly(broadcaster: Broadcaster) -> None:
    """A stream that this side ends has a closing frame and a proper last chunk."""
    async with HttpExchange(app(broadcaster), "/") as call:
        await call.read_head()
        await call.event()
        broadcaster.begin_drain()
        event = await call.event()
        assert event is not None
        assert event.json()["data"] == {"reason": "drain", "reconnect": True}
        assert await call.event() is None
        await call.wait_ended()


class Blocking:
    """A `send` that behaves as told from the nth call on."""

    def __init__(self, send: Any, calls: int, error: BaseException | None = None) -> None:
        self.send, self.calls, self.error = send, calls, error

    async def __call__(self, message: Any) -> None:
        self.calls -= 1
        if self.calls >= 0:
            await self.send(message)
        elif self.error is not None:
            raise self.error
        else:
            await asyncio.sleep(1_000_000.0)


def faulty(broadcaster: Broadcaster, calls: int, error: BaseException | None = None) -> Any:
    """The endpoint behind a server whose `send` fails after so many calls."""
    inner = app(broadcaster)

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, Blocking(send, calls, error))

    return endpoint


@pytest.mark.parametrize("calls", [0, 1, 2])
async def test_blocked_send_ends_when_the_client_leaves(
    broadcaster: Broadcaster, calls: int
) -> None:
    """A client that leaves while a send is stuck ends the call all the same."""
    async with HttpExchange(faulty(broadcaster, calls), "/") as call:
        await run_ready()
        await broadcaster.publish("t", 1)
        await run_ready()
        call.disconnect()
        await asyncio.wait_for(call.wait_ended(), 1.0)
    assert broadcaster.statistics().connections == 0


@pytest.mark.parametrize("calls", [1, 2])
async def test_blocked_send_is_given_up_in_time(calls: int) -> None:
    """A send that is stuck for longer than `send_timeout` ends the stream; the client resumes."""
    async with Broadcaster(send_timeout=20.0) as broadcaster:
        async with HttpExchange(faulty(broadcaster, calls), "/") as call:
            await run_ready()
            await broadcaster.publish("t", 1)
            await asyncio.wait_for(call.wait_ended(), 60.0)
        assert broadcaster.statistics().connections == 0


@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.parametrize("error", [OSError, ConnectionResetError, TimeoutError])
async def test_send_that_raises_is_a_client_that_left(
    broadcaster: Broadcaster, calls: int, error: type[OSError]
) -> None:
    """An OSError from send is no error of the application."""
    async with HttpExchange(faulty(broadcaster, calls, error()), "/") as call:
        await run_ready()
        await broadcaster.publish("t", 1)
        await asyncio.wait_for(call.wait_ended(), 1.0)
    assert broadcaster.statistics().connections == 0


async def test_last_send_that_never_ends_is_given_up(broadcaster: Broadcaster) -> None:
    """A server that hangs in the final send holds the call up for two seconds at most."""
    async with HttpExchange(faulty(broadcaster, 3), "/") as call:
        await run_ready()
        broadcaster.begin_drain()
        begun = asyncio.get_running_loop().time()
        await asyncio.wait_for(call.wait_ended(), 10.0)
        assert asyncio.get_running_loop().time() - begun <= 2.01


async def test_cancelled_call_leaves_nothing(broadcaster: Broadcaster) -> None:
    """A server that cancels the call gets it ended, and the session is kept for a resume."""
    before = asyncio.all_tasks()
    async with HttpExchange(app(broadcaster), "/") as call:
        await call.read_head()
        event = await call.event()
        assert event is not None
        call.task.cancel()
        await asyncio.wait([call.task])
        assert call.task.cancelled()
        call.task = asyncio.ensure_future(asyncio.sleep(0))
    await run_ready()
    assert asyncio.all_tasks() == before
    assert broadcaster.statistics().connections == 0
    await broadcaster.publish("t", 1)
    async with HttpExchange(app(broadcaster, last_event_id=event.last_event_id), "/") as call:
        await call.read_head()
        assert (await call.frame())["data"]["replay"] == 1


async def test_every_wake_is_one_chunk(broadcaster: Broadcaster) -> None:
    """What is published in one go is handed to the server in one send."""
    async with HttpExchange(app(broadcaster), "/") as call:
        await call.read_head()
        await call.chunk()
        for n in range(30):
            await broadcaster.publish("t", n)
        assert (await call.chunk()).count(b"\n\n") == 30


async def test_urgent_overtakes_on_the_wire(broadcaster: Broadcaster) -> None:
    """What is better comes first in the bytes, too."""
    async with HttpExchange(app(broadcaster), "/") as call:
        await call.read_head()
        await call.chunk()
        for lane in Priority:
            await broadcaster.publish("t", lane.label, priority=lane)
        assert [(await call.frame())["data"] for _ in range(4)] == [
            "critical", "high", "normal", "low",
        ]  # fmt: skip


async def test_close_while_starting(broadcaster: Broadcaster) -> None:
    """A connection that is ended before its first frame still says what it was, and why."""

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        async with broadcaster.connect(topics=["t"]) as connection:
            connection.close(Reason.IDLE)
            await sse.serve(connection, scope, receive, send)

    async with HttpExchange(endpoint, "/") as call:
        await call.read_head()
        assert (await call.frame())["type"] == "connection_established"
        assert (await call.frame())["data"]["reason"] == "idle"
        assert await call.event() is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3
    ),
    max_leaves=8,
)  # fmt: skip


@given(st.lists(JSON, min_size=1, max_size=5))
def test_what_is_sent_is_what_a_browser_reads(values: list[Any]) -> None:
    """Whatever the data, the specification's decoder gets just these frames and ids."""
    sent = [
        Frame(frames.message("t", value, Priority.LOW, 1.0, None), f"e~{n}~t")
        for n, value in enumerate(values)
    ]
    events = EventStreamDecoder().feed(sse.encode(sent))
    assert [event.json()["data"] for event in events] == values
    assert [event.last_event_id for event in events] == [frame.id for frame in sent]
    assert {event.type for event in events} == {"message"}
    assert {event.fields for event in events} == {("data", "id")}


@given(st.lists(st.text("a\n\r:é\u2028", max_size=5), min_size=1, max_size=4), st.data())
def test_cut_anywhere_the_id_belongs_to_the_last_whole_event(
    values: list[str], data: st.DataObject
) -> None:
    """However few bytes arrived, the last id never stands beyond what was dispatched."""
    sent = [
        Frame(frames.message("t", value, Priority.LOW, 1.0, None), f"e~{n}~t")
        for n, value in enumerate(values)
    ]
    stream = sse.encode(sent)
    decoder = EventStreamDecoder()
    events = decoder.feed(stream[: data.draw(st.integers(0, len(stream)))])
    assert decoder.last_event_id == (sent[len(events) - 1].id if events else "")
