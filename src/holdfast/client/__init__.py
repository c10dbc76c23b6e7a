"""The Python client: for services that consume a stream. Needs the extra `client` (httpx).

    from holdfast.client import connect

    async with connect("https://example.org/live", topics=["orders"]) as stream:
        async for message in stream:
            ...

event_stream     bytes to events
frames           events to records
backlog          what was read and not handled, and the position that follows
link             the connection of now
endpoint         requests, the token
reader           connects, reads, comes back
subscriptions    topics, and their changes
acknowledging    tells the server what was handled
stream           what a consumer holds
"""

from ..core.message import Priority
from ..errors import InvalidStream, RequestRefused, StreamEnded, StreamFailed
from .records import Gap, Message, Status, StreamState, Subscribed
from .stream import Stream, connect

__all__ = [
    "Gap",
    "InvalidStream",
    "Message",
    "Priority",
    "RequestRefused",
    "Status",
    "Stream",
    "StreamEnded",
    "StreamFailed",
    "StreamState",
    "Subscribed",
    "connect",
]
