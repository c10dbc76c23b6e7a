"""Health, statistics and configuration, as JSON."""

from __future__ import annotations

from dataclasses import asdict

from ..runtime.broadcaster import Broadcaster
from ..runtime.lifecycle import BroadcasterState

CONNECTIONS_LISTED = 1000
"""Connections in the list of a report, at most. Its counts include all of them."""


class Reports:
    """The answers of the reporting endpoints (docs/protocol.md, section 2.4)."""

    def __init__(self, broadcaster: Broadcaster, websocket: dict[str, object]) -> None:
        self._broadcaster = broadcaster
        self._websocket = websocket

    def health(self) -> tuple[int, dict[str, object]]:
        """Return status and body: 200 while connections may begin, 503 otherwise."""
        state = self._broadcaster.state
        serving = state is BroadcasterState.RUNNING
        return (200 if serving else 503), {"status": "ok" if serving else state.value}

    def connections(self) -> dict[str, object]:
        """Return the counts of the node, and its connections."""
        return self._report(None)

    def websockets(self) -> dict[str, object]:
        """Return the counts of the node, and its WebSocket connections."""
        return self._report("websocket")

    def websocket_info(self) -> dict[str, object]:
        """Return the configuration of the WebSocket endpoint."""
        return self._websocket

    def _report(self, transport: str | None) -> dict[str, object]:
        statistics = self._broadcaster.statistics()
        found = self._broadcaster.connection_statistics(transport, limit=CONNECTIONS_LISTED)
        of_all = statistics.transports
        return {
            "statistics": statistics.as_dict(),
            "count": sum(of_all.values()) if transport is None else of_all.get(transport, 0),
            "connections": [asdict(each) for each in found],
        }
