"""holdfast over WebSocket with ids, priorities, history and resume."""

from __future__ import annotations

import json

from tests.benchmarks.contestants import holdfast_app
from tests.benchmarks.contestants.holdfast_app import app, publish, subscribers
from tests.benchmarks.wire import texts

__all__ = ["app", "publish", "subscribers"]

KIND = "ws"
PATH = f"/websocket?topics={holdfast_app.TOPIC}"
ENVELOPE = holdfast_app.ENVELOPE + 49  # the id is a member of the frame


def decode(data: bytes) -> list[int]:
    return holdfast_app.numbers((text, json.loads(text)["id"]) for text in texts(data))
