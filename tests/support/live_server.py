"""The application of tests/apps/live.py in a real server, and publishing to it."""

from __future__ import annotations

import json
from typing import Any

from tests.support.clients import request
from tests.support.processes import ARGS, ServerKind, ServerProcess


def serve(kind: ServerKind = "uvicorn", **options: Any) -> ServerProcess:
    """Return a server as docs/guide.md advises it, with these options of the Broadcaster."""
    env = {"HOLDFAST_OPTIONS": json.dumps(options)}
    return ServerProcess(kind, "tests.apps.live:app", args=ARGS[kind], env=env)


async def publish(port: int, *data: Any, **options: Any) -> list[int]:
    """Publish each item as one message, all in one request. Returns their offsets."""
    body = {"messages": [{"data": each, **options} for each in data]}
    answer = await request(port, "POST", "/publish", body)
    assert answer.status == 200
    return list(answer.json()["offsets"])
