"""What the transports share: the types of ASGI 3.0, and how long a last send may take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

FINISH_TIMEOUT = 2.0
"""Seconds for the last send: hypercorn never ends it over HTTP/2 when the client has gone."""
