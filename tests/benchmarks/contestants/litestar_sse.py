"""Litestar's channels plugin (memory backend) behind its ServerSentEvent response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Litestar, get
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.response import ServerSentEvent, ServerSentEventMessage

from tests.benchmarks.wire import numbers_of_events as decode
from tests.benchmarks.wire import to_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["decode"]

KIND = "sse"
PATH = "/events"
SHARE = 0.5
channels = ChannelsPlugin(backend=MemoryChannelsBackend(), channels=["main"])


def publish(message: dict[str, Any]) -> None:
    channels.publish(f"{message['i']}|{to_json(message)}", "main")


def subscribers() -> int:
    return len(channels._channels["main"])


async def stream() -> AsyncIterator[ServerSentEventMessage]:
    async with channels.start_subscription("main") as subscriber:
        async for raw in subscriber.iter_events():
            number, _, text = raw.decode().partition("|")
            yield ServerSentEventMessage(data=text, id=number)


@get(PATH)
async def events() -> ServerSentEvent:
    return ServerSentEvent(stream())


app = Litestar([events], plugins=[channels], openapi_config=None)
