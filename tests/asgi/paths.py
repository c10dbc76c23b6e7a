"""The paths of LiveApp, by method."""

from __future__ import annotations

STREAMS = ["/stream", "/reconnect"]
GETS = ["/health", "/connection-stats", "/websocket-stats", "/websocket-info"]
POSTS = ["/subscribe", "/unsubscribe", "/ack", "/test-connection"]
