"""The publisher of the single-server soak checks the answers of the server."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.soak.environment import Environment
from tests.soak.published import LANES, PublishedMessages
from tests.soak.results import Results
from tests.soak.workload import TOPICS, RandomPublisher


@pytest.mark.parametrize(
    ("offsets", "violations"), [([3, 4, 5, 6], {}), ([3, 5, 4, 6], {"reordered": 1})]
)
async def test_offsets_of_one_batch_are_consecutive(
    offsets: list[int], violations: dict[str, int]
) -> None:
    """The messages of the only publisher are stored one after the other."""
    results = Results()
    published = PublishedMessages(None, TOPICS, results)
    environment = Environment(seed=1, mean_life=1.0, published=published, results=results)
    publisher = RandomPublisher(
        environment=environment, rate=1.0, users=("u",), min_flood=1, clients=1
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"offsets": offsets}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    environment.server_started(server.sockets[0].getsockname()[1])
    async with server:
        await publisher.publish_end_markers()
    assert results.violations == violations
    assert published.confirmed == len(LANES) - 1
