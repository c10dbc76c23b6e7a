"""RequestSender: what the requests contain."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from holdfast.client import ConfigurationError, connect
from tests.client.real_server import publish, report
from tests.client.scripted_server import (
    first_frame,
    id_of,
    message,
    scripted_server,
    stream,
)
from tests.client.streams import stream_from, take
from tests.support.processes import HOST

GOOD = stream(first_frame(), message(1))


async def test_request_keeps_the_parts_of_the_application() -> None:
    """The path, the query and the headers of the application arrive beside the client's."""
    async with scripted_server(GOOD) as server:
        async with connect(
            f"{server.url}/a%2Fb/live/?tenant=7",
            topics=["b.*", "a", "b.*"],
            params={"x": "1&2"},
            headers={"X-User": "ann"},
            position=id_of(1),
            token="secret",
            on_gap=lambda gap: None,
        ) as stream_:
            await take(stream_, 1)
        (received,) = server.requests
    url = httpx.URL(f"http://h{received.path}")
    assert url.raw_path.startswith(b"/a%2Fb/live/stream?")
    assert dict(url.params) == {"tenant": "7", "x": "1&2", "topics": "a,b.*", "ack": "true"}
    assert received.headers["accept"] == "text/event-stream"
    assert received.headers["accept-encoding"] == "identity"
    assert received.headers["last-event-id"] == id_of(1)
    assert received.headers["authorization"] == "Bearer secret"
    assert received.headers["x-user"] == "ann"


@pytest.mark.parametrize("options", [{"headers": {"x": "a\nb"}}, {"token": "a b"}, {"token": str}])
async def test_header_that_cannot_be_sent_is_an_error_without_secrets(
    options: dict[str, Any],
) -> None:
    """A header that cannot be sent raises at once, and the error does not quote it."""
    async with scripted_server(GOOD) as server:
        with pytest.raises(ConfigurationError) as caught:
            async with stream_from(server, **options):
                raise AssertionError("the block must not begin")
    assert "a" + "\n" not in str(caught.value)
    assert server.requests == []


@pytest.mark.slow
@pytest.mark.real_time
async def test_http_client_of_the_application_is_used_and_left_open(port: int) -> None:
    """The stream uses the base URL and the headers of the client, and does not close it."""
    headers = {"x-user": "ann"}
    async with httpx.AsyncClient(
        base_url=f"http://{HOST}:{port}", headers=headers, timeout=0.2
    ) as http:
        async with connect("/", topics=["own"], http=http) as stream:
            await asyncio.sleep(0.5)
            assert (await report(port, stream))["user"] == "ann"
            await publish(port, "own", 1)
            assert await take(stream, 1) == [1]
        assert not http.is_closed
        assert (await http.get("/health")).status_code == 200
