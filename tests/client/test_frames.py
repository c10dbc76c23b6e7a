"""Frames: known members are parsed, unknown ones are ignored, wrong ones are an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.client import Gap, InvalidStream, Message, Priority
from holdfast.client.event_stream import ServerSentEvent
from holdfast.client.frames import ClosingFrame, FirstFrame, UnsubscribedFrame, parse_frame

ID = "e" * 12 + "~1~" + "t" * 22
MESSAGE = {"type": "message", "topic": "t", "data": [1], "priority": "high", "timestamp": 1.5}
FIRST = {
    "connectionId": "c",
    "reconnectToken": "t",
    "session": "gap",
    "topics": ["a"],
    "rejected": ["b"],
    "heartbeatInterval": 30,
    "window": 16384,
    "replay": 2,
    "gap": {"cause": "trimmed", "count": 3},
}


def frame(value: Any, id: str = ID) -> object:
    """Return the frame that is parsed from this JSON value."""
    return parse_frame(
        ServerSentEvent("message", value if isinstance(value, str) else json.dumps(value), id)
    )


def test_message() -> None:
    """A message has all its members, and its event id is the position after it."""
    assert frame(MESSAGE) == Message("t", [1], Priority.HIGH, 1.5, None, ID)
    assert frame(MESSAGE | {"key": "k"}) == Message("t", [1], Priority.HIGH, 1.5, "k", ID)


def test_message_shows_no_token() -> None:
    """The event id of a message opens a session, so the repr does not contain it."""
    assert "tttt" not in repr(frame(MESSAGE))


def test_other_frames() -> None:
    """First frames, gaps, closing frames and withdrawn topics are parsed."""
    gap = {"cause": "trimmed", "count": None, "topics": ["a"], "priority": "low"}
    assert frame({"type": "gap", "data": gap}) == Gap("trimmed", None, ("a",), Priority.LOW)
    closing = {"reason": "drain", "reconnect": True}
    assert frame({"type": "closing", "data": closing}) == ClosingFrame("drain", True)
    unsubscribed = {"type": "unsubscribed", "data": {"topics": ["a"]}}
    assert frame(unsubscribed) == UnsubscribedFrame(("a",))
    first = frame({"type": "connection_established", "data": FIRST})
    assert isinstance(first, FirstFrame)
    assert (first.window, first.replay, first.gap) == (16384, 2, Gap("trimmed", 3))
    assert (first.topics, first.rejected, first.heartbeat_interval) == (("a",), ("b",), 30.0)


def test_unknown_types_and_members_are_ignored() -> None:
    """A newer server can send further types and members."""
    assert frame({"type": "heartbeat"}) is None
    assert frame({"type": "weather", "data": 5}) is None
    assert isinstance(frame(MESSAGE | {"colour": "red"}), Message)


@pytest.mark.parametrize(
    "value",
    [
        *("", "{", "[]", "null", "5", "{}", '{"type": 5}', "[" * 100_000, "9" * 10_000),
        *({k: v for k, v in MESSAGE.items() if k != name} for name in MESSAGE),
        *(MESSAGE | {name: {}} for name in ("type", "topic", "priority", "timestamp", "key")),
        MESSAGE | {"priority": "extreme"},
        '{"type": "message", "topic": "t", "data": NaN, "priority": "low", "timestamp": 1}',
        {"type": "gap"},
        {"type": "gap", "data": {"cause": "trimmed", "count": -1}},
        {"type": "gap", "data": {"cause": "trimmed", "count": 1, "topics": [1]}},
        {"type": "closing", "data": {}},
        *({"type": "connection_established", "data": FIRST | {name: -1}} for name in FIRST),
        {"type": "connection_established", "data": FIRST | {"heartbeatInterval": 0}},
        '{"type": "connection_established", "data": {"heartbeatInterval": 1e999}}',
    ],
)
def test_broken_frame_is_an_error(value: Any) -> None:
    """A broken frame raises InvalidStream, whose text quotes nothing of the frame."""
    with pytest.raises(InvalidStream) as caught:
        frame(value)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("id", ["a b", "a\x7f", "é", "x" * 600])
def test_id_that_no_header_can_carry_is_an_error(id: str) -> None:
    """The client could not send such an id when it reconnects."""
    with pytest.raises(InvalidStream):
        frame(MESSAGE, id)


def test_message_without_id_is_an_error() -> None:
    """The position could not move past a message without an id."""
    with pytest.raises(InvalidStream):
        frame(MESSAGE, "")
