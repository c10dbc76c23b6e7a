"""The SSE transport, with a scope and two queues in place of a server."""

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


def app(broadcaster: Broadcaster, **options: Any) -> Any:
    """Return a minimal endpoint of an application."""

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        async with broadcaster.connect(**{"topics": ["t"], **options}) as connection:
            await sse.serve(connection, scope, receive, send, extra_headers=[(b"x-extra", b"1")])

    return endpoint


async def test_bytes_of_a_stream(broadcaster: Broadcaster) -> None:
    """The first chunk has `retry` and the first frame; each event has data and id."""
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
    """An event stream has these headers; `connection` only in HTTP/1.1 (RFC 9113, 8.2.2)."""
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
    """Clients get different reconnection times from 1 s to 3 s."""
    times = set()
    for _ in range(20):
        async with HttpExchange(app(broadcaster), "/") as call:
            await call.read_head()
            await call.event()
            times.add(call.decoder.retry)
    assert len(times) > 10
    assert all(time is not None and 1000 <= time <= 3000 for time in times)


async def test_disconnect_ends_the_connection(broadcaster: Broadcaster) -> None:
    """If the client disconnects, the call returns, and the connection ends."""
    async with HttpExchange(app(broadcaster), "/") as call:
        await call.read_head()
        await call.event()
        assert broadcaster.statistics().connections == 1
        call.disconnect()
        await call.wait_ended()
        assert broadcaster.statistics().connections == 0
        assert call.from_app.empty(), "no closing frame is sent to a client that has disconnected"


async def test_disconnect_before_the_response(broadcaster: Broadcaster) -> None:
    """A client that disconnects before the response ends its connection."""
    call = HttpExchange(app(broadcaster), "/")
    call.disconnect()
    async with call:
        await call.wait_ended()
    assert broadcaster.statistics().connections == 0


async def test_drain_ends_the_stream_cleanly(broadcaster: Broadcaster) -> None:
    """A drained stream has a closing frame and a last chunk."""
    async with HttpExchange(app(broadcaster), "/") as call:
        await call.read_head()
        await call.event()
        broadcaster.begin_drain()
        event = await call.event()
        assert event is not None
        assert event.json()["data"] == {"reason": "drain", "reconnect": True}
        assert await call.event() is None
        await call.wait_ended()


class BlockingSend:
    """A `send` that raises `error`, or blocks, after `calls` calls."""

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


def app_with_blocking_send(
    broadcaster: Broadcaster, calls: int, error: BaseException | None = None
) -> Any:
    """Return the endpoint with a `send` that fails after `calls` calls."""
    inner = app(broadcaster)

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, BlockingSend(send, calls, error))

    return endpoint


@pytest.mark.parametrize("calls", [0, 1, 2])
async def test_disconnect_ends_a_blocked_send(broadcaster: Broadcaster, calls: int) -> None:
    """If the client disconnects while a send is blocked, the call returns."""
    async with HttpExchange(app_with_blocking_send(broadcaster, calls), "/") as call:
        await run_ready()
        await broadcaster.publish("t", 1)
        await run_ready()
        call.disconnect()
        await asyncio.wait_for(call.wait_ended(), 1.0)
    assert broadcaster.statistics().connections == 0


@pytest.mark.parametrize("calls", [1, 2])
async def test_blocked_send_times_out(calls: int) -> None:
    """A send that is blocked for `send_timeout` ends the stream."""
    async with Broadcaster(send_timeout=20.0) as broadcaster:
        async with HttpExchange(app_with_blocking_send(broadcaster, calls), "/") as call:
            await run_ready()
            await broadcaster.publish("t", 1)
            await asyncio.wait_for(call.wait_ended(), 60.0)
        assert broadcaster.statistics().connections == 0


@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.parametrize("error", [OSError, ConnectionResetError, TimeoutError])
async def test_send_that_raises_oserror_is_a_disconnect(
    broadcaster: Broadcaster, calls: int, error: type[OSError]
) -> None:
    """An OSError of `send` is not an error of the application."""
    async with HttpExchange(app_with_blocking_send(broadcaster, calls, error()), "/") as call:
        await run_ready()
        await broadcaster.publish("t", 1)
        await asyncio.wait_for(call.wait_ended(), 1.0)
    assert broadcaster.statistics().connections == 0


async def test_blocked_last_send_times_out(broadcaster: Broadcaster) -> None:
    """A blocked last send delays the end of the call by two seconds at most."""
    async with HttpExchange(app_with_blocking_send(broadcaster, 3), "/") as call:
        await run_ready()
        broadcaster.begin_drain()
        start = asyncio.get_running_loop().time()
        await asyncio.wait_for(call.wait_ended(), 10.0)
        assert asyncio.get_running_loop().time() - start <= 2.01


async def test_cancelled_call_ends_its_connection(broadcaster: Broadcaster) -> None:
    """A call that the server cancels ends, leaves no task, and keeps the session."""
    tasks = asyncio.all_tasks()
    async with HttpExchange(app(broadcaster), "/") as call:
        await call.read_head()
        event = await call.event()
        assert event is not None
        call.task.cancel()
        await asyncio.wait([call.task])
        assert call.task.cancelled()
        call.task = asyncio.ensure_future(asyncio.sleep(0))
    await run_ready()
    assert asyncio.all_tasks() == tasks
    assert broadcaster.statistics().connections == 0
    await broadcaster.publish("t", 1)
    async with HttpExchange(app(broadcaster, last_event_id=event.last_event_id), "/") as call:
        await call.read_head()
        assert (await call.frame())["data"]["replay"] == 1


async def test_messages_of_one_turn_are_one_chunk(broadcaster: Broadcaster) -> None:
    """Messages that are published in one turn of the loop are sent in one chunk."""
    async with HttpExchange(app(broadcaster), "/") as call:
        await call.read_head()
        await call.chunk()
        for n in range(30):
            await broadcaster.publish("t", n)
        assert (await call.chunk()).count(b"\n\n") == 30


async def test_bytes_are_in_the_order_of_the_lanes(broadcaster: Broadcaster) -> None:
    """The most urgent message comes first in the bytes."""
    async with HttpExchange(app(broadcaster), "/") as call:
        await call.read_head()
        await call.chunk()
        for lane in Priority:
            await broadcaster.publish("t", lane.label, priority=lane)
        assert [(await call.frame())["data"] for _ in range(4)] == [
            "critical", "high", "normal", "low",
        ]  # fmt: skip


async def test_close_before_the_first_frame(broadcaster: Broadcaster) -> None:
    """A connection that is closed at once still sends the first and the closing frame."""

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
def test_encoded_frames_are_decoded_as_they_were(values: list[Any]) -> None:
    """The decoder of the specification reads exactly the encoded frames and ids."""
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
def test_cut_stream_has_the_id_of_its_last_whole_event(
    values: list[str], data: st.DataObject
) -> None:
    """The last event id after a cut is that of the last whole event."""
    sent = [
        Frame(frames.message("t", value, Priority.LOW, 1.0, None), f"e~{n}~t")
        for n, value in enumerate(values)
    ]
    stream = sse.encode(sent)
    decoder = EventStreamDecoder()
    events = decoder.feed(stream[: data.draw(st.integers(0, len(stream)))])
    assert decoder.last_event_id == (sent[len(events) - 1].id if events else "")
