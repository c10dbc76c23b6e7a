"""RequestedTopics: topics that change while the stream runs."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.client import InvalidTopic, RequestRefused, Subscribed
from tests.client.real_server import live, publish, serve
from tests.client.scripted_server import (
    first_frame,
    id_of,
    message,
    scripted_server,
    stream,
)
from tests.client.streams import PATIENCE, stream_from, take, until
from tests.support.clients import request
from tests.support.processes import free_port
from tests.support.proxy import Proxy


async def test_topics_change_at_any_time(port: int) -> None:
    """A change of topics holds from its reply on, over cuts too."""
    async with Proxy(port) as proxy, live(proxy.port, "c.a") as stream:
        await publish(port, "c.b", "early")
        assert await stream.subscribe("c.b", "c.a") == Subscribed(("c.b", "c.a"), ())
        await publish(port, "c.b", 1)
        assert await take(stream, 1) == [1]
        proxy.cut()
        assert await stream.subscribe("c.c") == Subscribed(("c.c",), ())
        assert await stream.unsubscribe("c.a", "c.x") == ("c.a",)
        await publish(port, "c.a", "late")
        await publish(port, "c.c", 2)
        assert await take(stream, 1) == [2]
        assert set(stream.topics) == {"c.b", "c.c"}
        proxy.cut()
        await publish(port, "c.b", 3)
        assert await take(stream, 1) == [3]
        assert await stream.unsubscribe("c.b", "c.c") == ("c.b", "c.c")
        proxy.cut()
        await publish(port, "c.b", "late")
        assert await stream.subscribe("c.d") == Subscribed(("c.d",), ())
        await publish(port, "c.d", 4)
        assert await take(stream, 1) == [4]
        with pytest.raises(InvalidTopic):
            await stream.subscribe("c..d")


async def test_unsubscribed_topic_can_be_subscribed_again(port: int) -> None:
    """A topic of the first request is unsubscribed and subscribed again on one connection."""
    async with live(port, "l.a", "l.b") as stream:
        id = stream.connection_id
        assert await stream.unsubscribe("l.a") == ("l.a",)
        await publish(port, "l.a", "missed")
        assert await stream.subscribe("l.a") == Subscribed(("l.a",), ())
        await publish(port, "l.a", 1)
        assert await take(stream, 1) == [1]
        assert stream.connection_id == id


async def test_topics_of_a_session_are_kept_beside_new_ones(port: int) -> None:
    """A stream without topics takes over those of its position, and keeps them."""
    position = (await request(port, "GET", "/position?topics=kept")).json()["id"]
    async with Proxy(port) as proxy, live(proxy.port, position=position) as stream:
        await stream.subscribe("added")
        proxy.cut()
        await stream.subscribe("more")
        await publish(port, "kept", 1)
        assert await take(stream, 1) == [1]


@pytest.mark.real_time
async def test_change_without_a_connection_waits_for_one(port: int) -> None:
    """A topic that is subscribed while the server is away is part of the next request."""
    async with Proxy(port) as proxy, live(proxy.port, "w.a") as stream:
        proxy.target = free_port()
        proxy.cut()
        await until(lambda: stream.connection_id is None)
        change = asyncio.create_task(stream.subscribe("w.b"))
        await asyncio.sleep(0.1)
        assert not change.done()
        proxy.target = port
        async with asyncio.timeout(PATIENCE):
            assert await change == Subscribed(("w.b",), ())
        await publish(port, "w.b", 1)
        assert await take(stream, 1) == [1]


async def test_refused_topics_are_not_requested_again() -> None:
    """The server's refusal raises, and the next request names the topics from before."""
    with serve(max_topics=2) as server:
        async with Proxy(server.port) as proxy, live(proxy.port, "a") as stream:
            with pytest.raises(RequestRefused) as caught:
                await stream.subscribe("b", "c")
            assert (caught.value.code, caught.value.status) == ("too_many_topics", 400)
            proxy.cut()
            await publish(server.port, "a", 1)
            assert await take(stream, 1) == [1]


async def test_withdrawn_topics_are_rejected(caplog: pytest.LogCaptureFixture) -> None:
    """A topic that the server withdraws is rejected; one that was not held changes nothing."""
    gone = b'data: {"type":"unsubscribed","data":{"topics":["u","x"]},"timestamp":1}\nid: %b\n\n'
    gone %= id_of(1).encode()
    async with (
        scripted_server(stream(first_frame(topics=["t", "u"]), gone * 3, message(2))) as server,
        stream_from(server) as stream_,
    ):
        assert await take(stream_, 1) == [2]
        assert (stream_.topics, stream_.rejected) == (("t",), ("u",))
    assert "withdrawn the topics ['u']" in caplog.text
