"""The inbox of a client: each frame is checked and entered in the account."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from .acknowledging import Acknowledger
from .ledger import LANES
from .oracle import Account, Attempt
from .site import Site, checksum

EVENT_ID = re.compile(
    r"[\w-]{12}~(?:0|[1-9]\d{0,18})(?:(?:\.(?:0|[1-9]\d{0,18})){3})?~[\w-]{22}", re.ASCII
)
CACHED = 4000
LAST_TOPIC = "end"
"""Each client has it; one message in each lane is the last of all."""


class Inbox:
    """What arrives at one client, over all its connections."""

    def __init__(self, site: Site, account: Account) -> None:
        self.site, self.account = site, account
        self.last_event_id: str | None = None
        self.connection_id: str | None = None
        self.good_since: float | None = None
        """Since when (loop time) the client has had a connection on which nothing stalls."""
        self.heard_at = 0.0
        self.closing: str | None = None
        """The reason of a closing frame."""
        self.markers: set[str] = set()
        """The lanes in which the last message has come."""
        self.attempt: Attempt | None = None
        self.resume_to_ask: str | None = None
        """The client wants to resume in its first message, and has not asked yet."""
        self.resume_asked = False
        self.acknowledger: Acknowledger | None = None
        """Of a client that acknowledges."""

    def expect(self, attempt: Attempt, *, resume_by_message: bool) -> None:
        """A new connection is being opened."""
        self.attempt = attempt
        self.connection_id = self.closing = self.good_since = None
        self.resume_to_ask = self.last_event_id if resume_by_message else None
        self.resume_asked = False

    def has_all_markers(self) -> bool:
        return self.markers >= set(LANES)

    def take(self, body: bytes, id: str | None) -> str | None:
        """Take a frame, with its event id if that is not inside; return what to send, if any."""
        self.heard_at = asyncio.get_running_loop().time()
        if id is not None and (number := self.site.read.get(body)) is not None:
            self._deliver(number)
            self._keep(id, len(body))
            return None
        try:
            frame = json.loads(body)
            kind = frame["type"]
        except (ValueError, KeyError, TypeError):
            self._breach("corrupted", repr(body[:200]))
            return None
        if self.resume_to_ask is not None or self.resume_asked:
            # All frames before the second `connection_established` are to be ignored.
            if kind != "connection_established":
                self._end(kind, frame)
                return None
            if self.resume_to_ask is not None:
                wish = {"type": "resume", "id": self.resume_to_ask}
                self.resume_to_ask, self.resume_asked = None, True
                return json.dumps(wish)
            self.resume_asked = False
        if id is None:
            id = str(frame.get("id", ""))
        if kind == "message":
            self._message(frame, body)
        else:
            self._control(kind, frame, id)
        self._keep(id, len(body))
        return None

    def _keep(self, id: str, size: int) -> None:
        """After the effect, as docs/protocol.md says."""
        if EVENT_ID.fullmatch(id) is not None:
            self.last_event_id = id
            if self.acknowledger is not None:
                self.acknowledger.handled(id, size)
        elif self.closing is None:  # a stream that ends at once has the id that was presented
            self._breach("corrupted", f"the event id {id!r}")

    def _message(self, frame: dict[str, Any], body: bytes) -> None:
        topic, lane, key = frame["topic"], frame["priority"], frame.get("key")
        try:
            number, text = frame["data"]
            message = self.site.ledger.messages[number]
        except (ValueError, TypeError, IndexError):
            self._breach("corrupted", repr(body[:200]))
            return
        if message.checksum != checksum(number, topic, lane, key, text):
            self._breach("corrupted", repr(body[:200]))
            return
        if len(self.site.read) > CACHED:
            self.site.read.clear()
        if topic == LAST_TOPIC:
            self.markers.add(lane)
        elif "id" not in frame:
            self.site.read[body] = number
        self._deliver(number)

    def _deliver(self, number: int) -> None:
        self.site.ledger.happened["deliveries"] += 1
        self.account.debts.deliver(number)

    def _control(self, kind: str, frame: dict[str, Any], id: str) -> None:
        data = frame.get("data") or {}
        match kind:
            case "connection_established":
                assert self.attempt is not None
                self.account.begin(self.attempt, id.partition("~")[0], data)
                self.connection_id = data["connectionId"]
                self.good_since = self.heard_at
                if self.acknowledger is not None:
                    self.acknowledger.begin(data.get("window"))
            case "gap":
                self.account.debts.gap(data["priority"], data["topics"], data["count"])
            case "closing" | "error":
                self._end(kind, frame)
            case "subscribed" | "unsubscribed":
                for topic in data["topics"]:
                    if topic in self.account.asked:
                        self.account.carried_out(topic, in_order=True)
            case "heartbeat":
                pass
            case _:
                self._breach("spurious", f"a frame {frame}")

    def _end(self, kind: str, frame: dict[str, Any]) -> None:
        """The server says why it ends the connection: as its last word, or as its only one."""
        if kind == "closing":
            self.closing = frame["data"]["reason"]
        elif kind == "error":  # such a refusal has no id
            self.closing = frame["data"]["code"].replace("_", " ")
        else:
            return
        self.site.ledger.happened[f"closing: {self.closing}"] += 1

    def _breach(self, kind: str, what: str) -> None:
        self.site.ledger.breach(kind, f"{self.account.name}: {what}")
