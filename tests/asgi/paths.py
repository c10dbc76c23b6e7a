"""The endpoints of LiveApp, by what they are asked with."""

from __future__ import annotations

STREAMS = ["/stream", "/reconnect"]
GETS = ["/health", "/connection-stats", "/websocket-stats", "/websocket-info"]
POSTS = ["/subscribe", "/unsubscribe", "/ack", "/test-connection"]
