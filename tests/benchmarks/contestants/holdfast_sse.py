"""holdfast over SSE with ids, priorities, history and resume."""

from __future__ import annotations

import os

from tests.benchmarks.contestants import holdfast_app
from tests.benchmarks.contestants.holdfast_app import app, subscribers
from tests.benchmarks.wire import events

__all__ = ["app", "publish", "subscribers"]

publish = holdfast_app.publish_soon if holdfast_app.REDIS in os.environ else holdfast_app.publish

KIND = "sse"
PATH = f"/stream?topics={holdfast_app.TOPIC}"
# Its id is longer than the number that the others send.
ENVELOPE = holdfast_app.ENVELOPE + 38


def decode(body: bytes) -> list[int]:
    return holdfast_app.numbers((event.data, event.last_event_id) for event in events(body))
