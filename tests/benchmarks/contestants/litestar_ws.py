"""Litestar's channels plugin (memory backend) with the WebSocket handlers that it makes."""

from __future__ import annotations

from typing import Any

from litestar import Litestar
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend

from tests.benchmarks.wire import numbers_of_texts as decode
from tests.benchmarks.wire import to_json

__all__ = ["decode"]

KIND = "ws"
PATH = "/main"
SHARE = 0.5
channels = ChannelsPlugin(
    backend=MemoryChannelsBackend(), channels=["main"], create_ws_route_handlers=True
)


def publish(message: dict[str, Any]) -> None:
    channels.publish(to_json(message), "main")


def subscribers() -> int:
    return len(channels._channels["main"])


app = Litestar([], plugins=[channels], openapi_config=None)
