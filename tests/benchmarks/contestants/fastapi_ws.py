"""The ConnectionManager of FastAPI's documentation: send_text, one connection after another."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from tests.benchmarks.wire import numbers_of_texts as decode
from tests.benchmarks.wire import to_json

__all__ = ["decode"]

KIND = "ws"
PATH = "/ws"
app = FastAPI()
connections: list[WebSocket] = []


async def publish(message: dict[str, Any]) -> None:
    text = to_json(message)
    for connection in connections:
        await connection.send_text(text)


def subscribers() -> int:
    return len(connections)


@app.websocket(PATH)
async def serve_one(websocket: WebSocket) -> None:
    await websocket.accept()
    connections.append(websocket)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        connections.remove(websocket)
