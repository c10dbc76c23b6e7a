"""Servers in processes of their own, and what a test does with one."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from holdfast.client import Stream, connect
from tests.client.streams import FAST, PATIENCE
from tests.support import ServerKind, ServerProcess
from tests.support.clients import request
from tests.support.processes import ARGS, HOST

if TYPE_CHECKING:
    from collections.abc import Callable


def serve(kind: ServerKind = "uvicorn", **options: Any) -> ServerProcess:
    """Return a server whose history holds all messages of a test."""
    env = {"HOLDFAST_OPTIONS": json.dumps({"history_limit": 100_000, **options})}
    return ServerProcess(kind, "tests.apps.live:app", args=ARGS[kind], env=env)


def live(port: int, *topics: str, **options: Any) -> Stream:
    """Return a stream from the server at this port."""
    return connect(f"http://{HOST}:{port}", topics=topics, **{"retry_delays": FAST, **options})


async def publish(port: int, topic: str, *data: Any, **more: Any) -> None:
    """Publish each of `data` as one message."""
    body = {"messages": [{"topic": topic, "data": each, **more} for each in data]}
    assert (await request(port, "POST", "/publish", body)).status == 200


async def report(port: int, stream: Stream) -> dict[str, Any]:
    """Return the server's statistics of the open connection."""
    connections = (await request(port, "GET", "/connection-stats")).json()["connections"]
    (found,) = [one for one in connections if one["connection_id"] == stream.connection_id]
    return dict(found)


async def reported(port: int, stream: Stream, condition: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the server's statistics satisfy the condition."""
    async with asyncio.timeout(PATIENCE):
        while not condition(await report(port, stream)):  # noqa: ASYNC110 - no event reports it
            await asyncio.sleep(0.02)
