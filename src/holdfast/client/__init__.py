"""The Python client, for services that consume a stream (extra `client`, which brings httpx).

    from holdfast.client import connect

    async with connect("https://example.org/live", topics=["orders"]) as stream:
        async for message in stream:
            ...

Each module imports only from modules above it:

records           the records that an application gets
event_stream      decodes bytes into server-sent events
frames            parses events into frames
backoff           computes the delay before the next attempt
arguments         checks what the application gives
receive_queue     holds received messages, and the position after the handled ones
connection        holds the state of the newest connection
bearer_token      holds the bearer token, and renews it
request_sender    sends HTTP requests and reads replies
requested_topics  keeps the topics, and sends changes to the server
acknowledger      acknowledges handled messages
receiver          connects, receives and reconnects
stream            `connect` and `Stream`
"""

from importlib.util import find_spec

if find_spec("httpx") is None:
    raise ModuleNotFoundError(
        'holdfast.client needs httpx: pip install "holdfast[client]"', name="httpx"
    )

from ..core.message import Priority
from ..errors import (
    ConfigurationError,
    InvalidStream,
    InvalidTopic,
    NotRunning,
    RequestRefused,
    StreamEnded,
    StreamFailed,
)
from .bearer_token import TokenSource
from .records import Gap, Message, Status, StreamState, Subscribed
from .stream import OnGap, OnStatus, Stream, connect

__all__ = [
    "ConfigurationError",
    "Gap",
    "InvalidStream",
    "InvalidTopic",
    "Message",
    "NotRunning",
    "OnGap",
    "OnStatus",
    "Priority",
    "RequestRefused",
    "Status",
    "Stream",
    "StreamEnded",
    "StreamFailed",
    "StreamState",
    "Subscribed",
    "TokenSource",
    "connect",
]
