"""A server process: one contestant, and a control channel for its commands.

session.py starts it with a JSON object as its argument. The process inherits the channel, a socket,
so the contestant needs no route for the benchmark, and exits when the other end closes.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import json
import mmap
import os
import socket
import struct
import sys
import time
from functools import partial
from typing import Any

from tests.benchmarks.wire import SIZE, make_message


class Received:
    """The load client's count of deliveries, in shared memory: no traffic, no waking."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    def __call__(self) -> int:
        count: int = struct.unpack_from("<q", self._map)[0]
        return count


async def publish(contestant: Any, received: Received, spec: dict[str, Any]) -> None:
    """Publish `count` messages to `connections`, the first one numbered `first`.

    A `rate` publishes as many messages per second by the clock. Without it, each tick of the loop
    publishes `chunk` messages, with at most `window` in flight per connection. Only holdfast has
    `topic`, a topic of its own.
    """
    count, first, chunk, rate = spec["count"], spec["first"], spec["chunk"], spec["rate"]
    connections, most = spec["connections"], spec["window"] * spec["connections"]
    size = SIZE - getattr(contestant, "ENVELOPE", 0)
    publish_one = contestant.publish
    waits = inspect.iscoroutinefunction(publish_one)
    if spec["topic"]:
        publish_one = partial(publish_one, topic=spec["topic"])
    start = time.monotonic()
    for done in range(1, count + 1):
        message = make_message(first + done - 1, size)
        if waits:
            await publish_one(message)
        else:
            publish_one(message)
        if rate:
            await asyncio.sleep(max(0.0, start + done / rate - time.monotonic()))
        elif done % chunk == 0:
            await asyncio.sleep(0)
            while done * connections - received() > most:  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(0.0005)


async def control(contestant: Any, channel: socket.socket, received: Received) -> None:
    """Answer commands, one JSON object per line, until the channel is closed."""
    reader, writer = await asyncio.open_connection(sock=channel)
    while line := await reader.readline():
        spec = json.loads(line)
        answer: dict[str, Any] = {}
        match spec["command"]:
            case "subscribers":
                answer["subscribers"] = contestant.subscribers()
            case "collect":
                gc.collect()
            case "publish":
                await publish(contestant, received, spec)
        writer.write(json.dumps(answer).encode() + b"\n")
    os._exit(0)  # no client waits for a graceful end


def of_uvicorn(contestant: Any) -> Any:
    """Return the contestant's application on uvicorn with uvloop and httptools.

    Compression is off, because every contestant would pay the same for it. The server's pings are
    off for the same reason.
    """
    import uvicorn

    config = uvicorn.Config(
        contestant.app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="error",
        backlog=4096,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


async def run(spec: dict[str, Any]) -> None:
    """Serve until the control channel closes."""
    contestant = importlib.import_module(f"tests.benchmarks.contestants.{spec['contestant']}")
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    if hasattr(contestant, "serve"):
        server = asyncio.ensure_future(contestant.serve(listening))
        await asyncio.sleep(0)
    else:
        uvicorn = of_uvicorn(contestant)
        server = asyncio.ensure_future(uvicorn.serve(sockets=[listening]))
        while not uvicorn.started and not server.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    channel = socket.socket(fileno=spec["channel"])
    hello = {"port": listening.getsockname()[1]}
    channel.sendall(json.dumps(hello).encode() + b"\n")
    commands = asyncio.ensure_future(control(contestant, channel, Received(spec["received"])))
    for ended in asyncio.as_completed([server, commands]):
        await ended  # its exception ends the process, and is in its log
        return


def main() -> None:
    """Run in uvloop, as every contestant does."""
    import uvloop

    spec = json.loads(sys.argv[1])
    if spec["cpu"] is not None:
        os.sched_setaffinity(0, {spec["cpu"]})
    uvloop.run(run(spec))


if __name__ == "__main__":
    main()
