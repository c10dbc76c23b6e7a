"""Arguments: misuse raises where it happens, and the error names the accepted form."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

from holdfast.client import (
    ConfigurationError,
    InvalidTopic,
    Message,
    NotRunning,
    Priority,
    RequestRefused,
    Status,
    Stream,
    connect,
)
from holdfast.client.arguments import redact
from tests.client.scripted_server import (
    first_frame,
    id_of,
    message,
    scripted_server,
    status,
    stream,
)
from tests.client.streams import stream_from, take

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "https://example.org/live"
MESSAGE = Message("t", 1, Priority.NORMAL, 1.5, None, id_of(1))


async def get_token() -> str:
    """Return a token, as an application does."""
    return "secret"


async def wait_for(status: Status) -> None:
    """Take longer than on_status may."""


# (the keyword arguments, a part of the error)
MISUSE: list[tuple[dict[str, Any], str]] = [
    ({"topics": "orders"}, r"topics='orders': it must be a list of topics, such as \[\"orders\""),
    ({"topics": b"orders"}, "must be a list of topics"),
    ({"topics": None}, "must be a list of topics"),
    ({"topics": 5}, "must be a list of topics"),
    (
        {"url": "example.org/live"},
        r"url='example.org/live': it must begin with http:// or https://",
    ),
    ({"url": "live"}, "must begin with http"),
    ({"url": "ftp://h/live"}, "must begin with http"),
    ({"url": "http://"}, "must begin with http"),
    ({"url": "wss://example.org/live"}, "reads the event stream, so the address begins with http"),
    ({"url": "/live"}, r"a path needs http=httpx.AsyncClient\(base_url=…\)"),
    ({"url": "http://h:port/"}, "url cannot be parsed"),
    ({"url": httpx.URL(URL)}, "url must be a str, not URL"),
    ({"url": None}, "url must be a str, not NoneType"),
    ({"token": "Bearer secret"}, "must not contain the word Bearer"),
    ({"token": "secret\n"}, "printable ASCII without spaces and line breaks"),
    ({"token": ""}, "token is empty: give None"),
    ({"token": b"secret"}, "token must be a str, or a function that returns one, not bytes"),
    ({"position": MESSAGE}, r"give message\.event_id, not the message"),
    ({"position": b"x"}, r"position must be a str, not bytes: give stream\.position"),
    ({"position": "é"}, r"position is not an event id: give stream\.position"),
    ({"position": "a\nb"}, "position is not an event id"),
    ({"position": "x" * 600}, "position is not an event id"),
    ({"headers": [("x", "y")]}, "headers must be a mapping of str to str, not list"),
    ({"headers": {"x": 5}}, r"headers\['x'\] must be a str, not int"),
    ({"headers": {"x": "secret\r\n"}}, "must not contain line breaks"),
    ({"headers": {"Accept": "*/*"}}, r"headers=\['accept'\]: the client sets these headers itself"),
    ({"headers": {b"x": "y"}}, "a name must be a str, not bytes"),
    ({"params": "a=b"}, "params must be a mapping of str to str, not str"),
    ({"params": {"tenant": 7}}, r"params\['tenant'\] must be a str, not int"),
    ({"params": {"topics": "a"}}, r"params=\['topics'\]: the client sets these fields itself"),
    (
        {"token": "secret", "headers": {"Authorization": "Basic x"}},
        r"give only one of token and headers\['authorization'\]",
    ),
    (
        {"token": "secret", "url": "https://ann:secret@example.org/"},
        "give only one of token and the user and password of url",
    ),
    ({"http": httpx.Client}, "http must be an httpx.AsyncClient, not type"),
    ({"on_gap": "log"}, "on_gap must be a plain or coroutine function, not str"),
    ({"on_status": 5}, "on_status must be a plain function, which does not wait, not int"),
    ({"on_status": wait_for}, "on_status must be a plain function.*let it start a task"),
    ({"retry_delays": 5}, r"two numbers of seconds, \(min_delay, max_delay\).*not 5"),
    ({"retry_delays": (1, 2, 3)}, "two numbers of seconds"),
    ({"retry_delays": (2.0, 1.0)}, "min_delay is greater than max_delay"),
    ({"retry_delays": (-1.0, 1.0)}, r"retry_delays\[0\]=-1.0: it must be a number"),
    ({"retry_delays": ("1", 2)}, r"retry_delays\[0\]='1': it must be a number"),
    ({"max_frame_bytes": 0}, "max_frame_bytes=0: it must be a whole number over 0"),
    ({"max_queue_messages": 0}, "max_queue_messages=0"),
    ({"max_queue_bytes": True}, "max_queue_bytes=True"),
]


@pytest.mark.parametrize(("arguments", "text"), MISUSE)
def test_misuse_of_connect_raises_at_once(arguments: dict[str, Any], text: str) -> None:
    """The error names the argument and the accepted form, and quotes no secret."""
    with pytest.raises(ConfigurationError, match=text) as caught:
        connect(**{"url": URL, **arguments})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("topic", ["a,b", "", "$own", 5])
def test_misuse_of_a_topic_raises_at_once(topic: Any) -> None:
    """A topic that breaks a rule for topics raises InvalidTopic."""
    with pytest.raises(InvalidTopic):
        connect(URL, topics=[topic])


@pytest.mark.parametrize("name", ["token", "position", "on_gap", "on_status"])
def test_coroutine_instead_of_a_function_raises_at_once(name: str) -> None:
    """The error appears without a second one about a coroutine that was never awaited."""
    form = "token=get_token instead of" if name == "token" else f"{name} must be"
    with pytest.raises(ConfigurationError, match=form):
        connect(URL, **{name: cast("Any", get_token())})


async def test_closed_http_client_raises_at_once() -> None:
    """A client that is closed, or that is not asynchronous, raises with the accepted form."""
    async with httpx.AsyncClient() as http:
        pass
    with pytest.raises(ConfigurationError, match="http is closed: keep it open"):
        connect(URL, http=http)
    with httpx.Client() as wrong, pytest.raises(ConfigurationError, match="not Client"):
        connect(URL, http=cast("Any", wrong))


@pytest.mark.parametrize("result", ["", "a b", "é", None, 5, b"x"])
async def test_token_function_with_a_wrong_result_ends_the_stream(result: Any) -> None:
    """The error names the form that the function must return."""
    async with scripted_server(stream(first_frame())) as server:
        with pytest.raises(ConfigurationError, match="must return a str of printable ASCII"):
            async with stream_from(server, token=lambda: result):
                raise AssertionError("the block must not begin")
    assert server.requests == []


async def test_list_instead_of_topics_raises_at_once() -> None:
    """The methods that take topics one by one show how to give a list."""
    async with scripted_server(stream(first_frame())) as server, stream_from(server) as stream_:
        with pytest.raises(ConfigurationError, match=r"subscribe\(\*topics\)"):
            await stream_.subscribe(cast("Any", ["a", "b"]))
        with pytest.raises(ConfigurationError, match=r"unsubscribe\(\*topics\)"):
            await stream_.unsubscribe(cast("Any", ["a", "b"]))
        with pytest.raises(InvalidTopic):
            await stream_.subscribe("a..b")
    assert server.posts == []


async def test_use_outside_of_the_block_is_an_error() -> None:
    """The error distinguishes a stream that was not entered from one that was left."""

    async def iterate(stream_: Stream) -> None:
        async for _ in stream_:
            raise AssertionError("no message can arrive")

    uses: list[Callable[[Stream], Any]] = [
        iterate,
        lambda stream_: stream_.subscribe("a"),
        lambda stream_: stream_.unsubscribe("a"),
    ]
    async with scripted_server(stream(first_frame())) as server:
        stream_ = stream_from(server)
        for use in uses:
            with pytest.raises(NotRunning, match="enter the stream first: async with connect"):
                await use(stream_)
        async with stream_:
            pass
        for use in uses:
            with pytest.raises(NotRunning, match="was left: call connect again"):
                await use(stream_)
        with pytest.raises(RuntimeError, match="entered once: call connect again"):
            await stream_.__aenter__()


async def test_reprs_contain_no_secret() -> None:
    """The repr of a stream shows address, state and topics; no repr contains a token."""
    async with scripted_server(stream(first_frame(), message(1))) as server:
        address = server.url.removeprefix("http://")
        stream_ = connect(f"http://ann:secret@{address}/?token=secret", params={"key": "secret"})
        assert repr(stream_) == (
            f"<holdfast.client.Stream http://{address}/ connecting topics=[] connection_id=None>"
        )
        async with stream_:
            assert f"http://{address}/ open topics=['t'] connection_id='c'>" in repr(stream_)
            async with asyncio.timeout(5):
                shown = repr([stream_, await anext(stream_), stream_.status])
            assert "tttt" not in shown
            assert "secret" not in shown
        assert " closed " in repr(stream_)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/live", "https://h/live"),
        ("https://ann:secret@h:8000/a@b/?token=secret#secret", "https://h:8000/a@b/"),
        ("https://h?secret@x/y", "https://h"),
        ("ann:secret@h/live", "h/live"),
        ("//ann@h/x", "//h/x"),
        ("/live?token=secret", "/live"),
        ("", ""),
    ],
)
def test_redacted_address(url: str, shown: str) -> None:
    """An address is shown without credentials, query and fragment."""
    assert redact(url) == shown


async def test_redirect_error_contains_no_secret() -> None:
    """The error about a redirect names the target without its query."""
    answer = status("307 x", "location: https://ann:secret@elsewhere/live?token=secret")
    async with scripted_server(answer) as server:
        with pytest.raises(RequestRefused, match="names 'https://elsewhere/live': give") as caught:
            async with stream_from(server) as stream_:
                await take(stream_, 1)
    assert "secret" not in str(caught.value)
