"""The client's view of a WebSocket: the answer to each message (docs/protocol.md, section 9)."""

from __future__ import annotations

import json
from typing import Any

from tests.fuzz import reference
from tests.fuzz.json_text import is_json

MAX_TOPICS = 200


class Model:
    """The state of the client: its topics, and whether it has sent a message."""

    def __init__(self, hello: dict[str, Any]) -> None:
        self.topics = list(hello["data"]["topics"])
        self.id = str(hello["id"])
        self._silent = True

    def answer_to(self, text: str) -> tuple[str, Any] | None:
        """Return the type of the answer and its data (for an error: its code)."""
        first, self._silent = self._silent, False
        value = json.loads(text) if is_json(text) else None
        if not is_json(text):
            return "error", "not_json"
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            return "error", "no_type"
        match value["type"]:
            case "ping":
                return "pong", None
            case "subscribe" | "unsubscribe" as kind:
                return self._change(kind, value)
            case "ack" | "resume" as kind:
                return self._id(kind, value.get("id"), first)
        return "error", "unknown_type"

    def _id(self, kind: str, id: Any, first: bool) -> tuple[str, Any] | None:
        if kind == "resume" and not first:
            return "error", "too_late"
        if not isinstance(id, str):
            return "error", "invalid_message"
        return None if kind == "ack" else ("connection_established", "gap" if id else "fresh")

    def _change(self, kind: str, value: dict[str, Any]) -> tuple[str, Any]:
        listed = value["topics"] if "topics" in value else value.get("metrics")
        names = [listed] if isinstance(listed, str) else listed
        if not isinstance(names, list) or not names:
            return "error", "invalid_message"
        if not all(isinstance(name, str) for name in names):
            return "error", "invalid_message"
        unique = list(dict.fromkeys(names))
        if len(unique) > MAX_TOPICS:
            return "error", "too_many_topics"
        if not all(map(reference.is_expression, unique)):
            return "error", "invalid_topic"
        if kind == "unsubscribe":
            held = [name for name in unique if name in self.topics]
            self.topics = [name for name in self.topics if name not in held]
            return "unsubscribed", {"topics": held}
        rejected = [name for name in unique if name.startswith("secret")]
        allowed = [name for name in unique if name not in rejected]
        if len({*self.topics, *allowed}) > MAX_TOPICS:
            return "error", "too_many_topics"
        self.topics += [name for name in allowed if name not in self.topics]
        return "subscribed", {"topics": allowed, "rejected": rejected}

    def check(self, frame: dict[str, Any], wanted: tuple[str, Any], line: str) -> None:
        """Check that the frame is exactly the expected answer."""
        kind, data = wanted
        assert frame["type"] == kind, (ascii(line), frame, wanted)
        assert reference.event_id(frame["id"]) is not None
        if kind == "error":
            assert set(frame) == {"type", "data", "timestamp", "id"}
            assert set(frame["data"]) == {"code", "detail"}
            assert frame["data"]["code"] == data, (ascii(line), frame)
            assert frame["data"]["detail"].isascii()
        elif kind == "connection_established":
            assert frame["data"]["session"] == data
            self.topics = list(frame["data"]["topics"])
        else:
            assert frame.get("data") == data, (ascii(line), frame, wanted)
