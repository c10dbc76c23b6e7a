"""Frames: what is known is read exactly, what is not is passed over, what is broken is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.client import Gap, InvalidStream, Message, Priority
from holdfast.client.event_stream import ServerSentEvent
from holdfast.client.frames import ClosingFrame, FirstFrame, UnsubscribedFrame, parse_frame

ID = "e" * 12 + "~1~" + "t" * 22
MESSAGE = {"type": "message", "topic": "t", "data": [1], "priority": "high", "timestamp": 1.5}
HELLO = {
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
    """What is read from this JSON value."""
    return parse_frame(
        ServerSentEvent("message", value if isinstance(value, str) else json.dumps(value), id)
    )


def test_message() -> None:
    """A message has all its members, and its id is the position after it."""
    assert frame(MESSAGE) == Message("t", [1], Priority.HIGH, 1.5, None, ID)
    assert frame(MESSAGE | {"key": "k"}) == Message("t", [1], Priority.HIGH, 1.5, "k", ID)


def test_message_shows_no_token() -> None:
    """The id of a message opens a session, and is not in its repr."""
    assert "tttt" not in repr(frame(MESSAGE))


def test_others() -> None:
    """The first frame, gaps, the last frame and withdrawn topics are read."""
    gap = {"cause": "trimmed", "count": None, "topics": ["a"], "priority": "low"}
    assert frame({"type": "gap", "data": gap}) == Gap("trimmed", None, ("a",), Priority.LOW)
    closing = {"reason": "drain", "reconnect": True}
    assert frame({"type": "closing", "data": closing}) == ClosingFrame("drain", True)
    withdrawn = {"type": "unsubscribed", "data": {"topics": ["a"]}}
    assert frame(withdrawn) == UnsubscribedFrame(("a",))
    hello = frame({"type": "connection_established", "data": HELLO})
    assert isinstance(hello, FirstFrame)
    assert (hello.window, hello.replay, hello.gap) == (16384, 2, Gap("trimmed", 3))
    assert (hello.topics, hello.rejected, hello.heartbeat_interval) == (("a",), ("b",), 30.0)


def test_unknown_is_passed_over() -> None:
    """A newer server may send further types and members."""
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
        *({"type": "connection_established", "data": HELLO | {name: -1}} for name in HELLO),
        {"type": "connection_established", "data": HELLO | {"heartbeatInterval": 0}},
        '{"type": "connection_established", "data": {"heartbeatInterval": 1e999}}',
    ],
)
def test_broken_is_an_error(value: Any) -> None:
    """Nothing that a server may send raises anything but InvalidStream, which quotes nothing."""
    with pytest.raises(InvalidStream) as caught:
        frame(value)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("id", ["a b", "a\x7f", "é", "x" * 600])
def test_id_that_no_header_can_carry_is_an_error(id: str) -> None:
    """It would be presented at the next connection, where it could not be sent."""
    with pytest.raises(InvalidStream):
        frame(MESSAGE, id)


def test_message_without_id_is_an_error() -> None:
    """Without an id the position could not move past it."""
    with pytest.raises(InvalidStream):
        frame(MESSAGE, "")
