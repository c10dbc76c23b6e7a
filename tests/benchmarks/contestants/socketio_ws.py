"""python-socketio: `emit` to a room, over WebSocket only."""

from __future__ import annotations

import json
from typing import Any

import socketio  # type: ignore[import-untyped]

from tests.benchmarks.wire import texts

__all__ = ["app"]

KIND = "sio"
PATH = "/socket.io/?EIO=4&transport=websocket"
SHARE = 0.4
ENVELOPE = 7  # 42["m",…]
server = socketio.AsyncServer(
    async_mode="asgi", transports=["websocket"], ping_interval=600, ping_timeout=600
)
connected: set[str] = set()


async def publish(message: dict[str, Any]) -> None:
    await server.emit("m", message, room="main")


def subscribers() -> int:
    return len(connected)


@server.event
async def connect(sid: str, environ: Any) -> None:
    await server.enter_room(sid, "main")
    connected.add(sid)


@server.event
async def disconnect(sid: str) -> None:
    connected.discard(sid)


def decode(data: bytes) -> list[int]:
    return [json.loads(text.removeprefix("42"))[1]["i"] for text in texts(data)]


app = socketio.ASGIApp(server)
