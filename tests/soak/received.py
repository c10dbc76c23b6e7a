"""The frames that arrive at one client: each is decoded, checked and passed to the oracle."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from .acknowledger import Acknowledger
from .environment import Environment, checksum
from .oracle import ClientOracle, ConnectAttempt
from .published import LANES

EVENT_ID = re.compile(
    r"[\w-]{12}~(?:0|[1-9]\d{0,18})(?:(?:\.(?:0|[1-9]\d{0,18})){3})?~[\w-]{22}", re.ASCII
)
MAX_CHECKED = 4000
END_TOPIC = "end"
"""Each client subscribes to this topic. Its message in each lane is the last of the run."""


class ReceivedFrames:
    """The frames of one client, across its connections."""

    def __init__(self, environment: Environment, oracle: ClientOracle) -> None:
        self._environment, self._oracle = environment, oracle
        self.last_event_id: str | None = None
        self.connection_id: str | None = None
        self.connected_at: float | None = None
        """When (loop time) the first frame of the connection came, or its last stall ended."""
        self.received_at = 0.0
        self.closing: str | None = None
        """The reason in the closing frame."""
        self.end_markers: set[str] = set()
        """The lanes in which the last message has arrived."""
        self.acknowledger: Acknowledger | None = None
        self._attempt: ConnectAttempt | None = None
        self._resume_from: str | None = None
        """The event id that the client still has to send in its first message."""
        self._resuming = False

    def expect_connection(self, attempt: ConnectAttempt, *, resume_by_message: bool) -> None:
        """Prepare for the frames of a new connection."""
        self._attempt = attempt
        self.connection_id = self.closing = self.connected_at = None
        self._resume_from = self.last_event_id if resume_by_message else None
        self._resuming = False

    def has_all_end_markers(self) -> bool:
        return self.end_markers >= set(LANES)

    def receive(self, body: str, id: str | None) -> str | None:
        """Check a frame. Returns the client's reply, if it has one.

        Args:
            body: the frame as JSON.
            id: its event id. None: the id is inside the frame.
        """
        self.received_at = asyncio.get_running_loop().time()
        if id is not None and (number := self._environment.checked.get(body)) is not None:
            self._deliver(number)
            self._store_id(id, len(body))
            return None
        try:
            frame = json.loads(body)
            kind = frame["type"]
        except (ValueError, KeyError, TypeError):
            self._violation("corrupted", repr(body[:200]))
            return None
        if self._resume_from is not None or self._resuming:
            # All frames before the second `connection_established` are to be ignored.
            if kind != "connection_established":
                self._check_end(kind, frame)
                return None
            if self._resume_from is not None:
                reply = {"type": "resume", "id": self._resume_from}
                self._resume_from, self._resuming = None, True
                return json.dumps(reply)
            self._resuming = False
        if id is None:
            id = str(frame.get("id", ""))
        if kind == "message":
            self._check_message(frame, body)
        else:
            self._check_control(kind, frame, id)
        self._store_id(id, len(body))
        return None

    def _store_id(self, id: str, size: int) -> None:
        """Keep the event id after the frame was handled, as docs/protocol.md requires."""
        if EVENT_ID.fullmatch(id) is not None:
            self.last_event_id = id
            if self.acknowledger is not None:
                self.acknowledger.handled(id, size)
        elif self.closing is None:  # a stream that ends at once has the id that was presented
            self._violation("corrupted", f"the event id {id!r}")

    def _check_message(self, frame: dict[str, Any], body: str) -> None:
        topic, lane, key = frame["topic"], frame["priority"], frame.get("key")
        try:
            number, text = frame["data"]
            message = self._environment.published.messages[number]
        except (ValueError, TypeError, IndexError):
            self._violation("corrupted", repr(body[:200]))
            return
        if message.checksum != checksum(number, topic, lane, key, text):
            self._violation("corrupted", repr(body[:200]))
            return
        if len(self._environment.checked) > MAX_CHECKED:
            self._environment.checked.clear()
        if topic == END_TOPIC:
            self.end_markers.add(lane)
        elif "id" not in frame:
            self._environment.checked[body] = number
        self._deliver(number)

    def _deliver(self, number: int) -> None:
        self._environment.results.events["deliveries"] += 1
        self._oracle.expected.deliver(number)

    def _check_control(self, kind: str, frame: dict[str, Any], id: str) -> None:
        data = frame.get("data") or {}
        match kind:
            case "connection_established":
                assert self._attempt is not None
                self._oracle.connected(self._attempt, id.partition("~")[0], data)
                self.connection_id = data["connectionId"]
                self.connected_at = self.received_at
                if self.acknowledger is not None:
                    self.acknowledger.start(data.get("window"))
            case "gap":
                self._oracle.expected.report_gap(data["priority"], data["topics"], data["count"])
            case "closing" | "error":
                self._check_end(kind, frame)
            case "subscribed" | "unsubscribed":
                for topic in data["topics"]:
                    if topic in self._oracle.unanswered:
                        self._oracle.confirm_change(topic, in_order=True)
            case "heartbeat":
                pass
            case _:
                self._violation("spurious", f"a frame {frame}")

    def _check_end(self, kind: str, frame: dict[str, Any]) -> None:
        """Keep the reason of the frame that ends the connection."""
        if kind == "closing":
            self.closing = frame["data"]["reason"]
        elif kind == "error":  # a refusal, which has no event id
            self.closing = frame["data"]["code"]
        else:
            return
        self._environment.results.events[f"closing: {self.closing}"] += 1

    def _violation(self, kind: str, detail: str) -> None:
        self._environment.results.violation(kind, f"{self._oracle.name}: {detail}")
