"""A decoder of event streams, written from WHATWG HTML, section 9.2.6, never from our encoder."""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from typing import Any

_LINE_END = re.compile("\r\n|\r|\n")


@dataclass(frozen=True)
class Event:
    """One dispatched event, and the names of its fields in order."""

    type: str
    data: str
    last_event_id: str
    fields: tuple[str, ...]

    def json(self) -> Any:
        """Return the data as JSON."""
        return json.loads(self.data)


class EventStreamDecoder:
    """Decode bytes as they arrive.

    `last_event_id` and `retry` (milliseconds) are those of the specification's event source. An
    event that is cut off before its blank line is never dispatched.
    """

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry: int | None = None
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False
        self._line = ""
        self._after_cr = False
        self._id = ""
        self._clear()

    def _clear(self) -> None:
        self._data: list[str] = []
        self._type = ""
        self._fields: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that `chunk` completes."""
        text = self._decode.decode(chunk)
        if text and not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if text and self._after_cr:
            text = text.removeprefix("\n")
            self._after_cr = False
        if not text:
            return []
        self._after_cr = text.endswith("\r")
        lines = _LINE_END.split(self._line + text)
        self._line = lines.pop()
        events: list[Event] = []
        for line in lines:
            if line:
                self._field(line)
            elif (event := self._dispatch()) is not None:
                events.append(event)
        return events

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        if not name:
            return
        value = value.removeprefix(" ")
        self._fields.append(name)
        match name:
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value and all(char in "0123456789" for char in value):
                self.retry = int(value)

    def _dispatch(self) -> Event | None:
        self.last_event_id = self._id
        data, kind, fields = self._data, self._type, tuple(self._fields)
        self._clear()
        # One empty data line dispatches an event with empty data; only an event without any is
        # dropped.
        if not data:
            return None
        return Event(kind or "message", "\n".join(data), self.last_event_id, fields)
