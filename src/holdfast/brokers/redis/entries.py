"""Messages as stream entries, there and back."""

from __future__ import annotations

from typing import Any

from ...core.cursor import Epoch
from ...core.message import Message, Offset, Priority, UserId
from ...core.topics import USER_TOPIC, check_topic
from ...errors import InvalidTopic
from ..protocol import Draft
from .keys import address, owner, parse_address
from .script import Operation

_LANES = {str(int(lane)).encode(): lane for lane in Priority}


def publish(draft: Draft) -> Operation:
    """The operation that appends a message."""
    return Operation(
        "publish",
        (
            address(draft.topic, draft.to_user),
            int(draft.priority),
            repr(draft.timestamp),
            draft.body,
            draft.topic,
            _optional(draft.key),
            "" if draft.expires_at is None else repr(draft.expires_at),
            owner(draft.to_user),
            _optional(draft.idempotency_key),
        ),
    )


def _optional(value: str | None) -> str:
    return "-" if value is None else f"+{value}"


def pairs(raw: Any) -> dict[bytes, bytes]:
    """The fields of an entry, which Redis gives as a flat list."""
    if hasattr(raw, "items"):  # redis-py has parsed it
        return dict(raw.items())
    return dict(zip(raw[::2], raw[1::2], strict=False))


def offset_of(id: bytes) -> Offset:
    """The offset in an entry's id."""
    return Offset(int(id.partition(b"-")[0]))


def from_feed(id: bytes, fields: dict[bytes, bytes]) -> tuple[Epoch, Message] | None:
    """A message of the feed, with its epoch; `None` for an entry that is not ours."""
    try:
        topic, user = parse_address(f"{fields[b'u'].decode()}:{fields[b't'].decode()}")
        message = _message(id, fields, topic, _LANES[fields[b"p"]], user)
        return Epoch(fields[b"e"].decode()), message
    except (KeyError, ValueError, InvalidTopic):
        return None


def from_log(
    id: bytes, fields: dict[bytes, bytes], topic: str, lane: Priority, user: UserId | None
) -> Message | None:
    """A message of one log; `None` for an entry that is not ours."""
    try:
        return _message(id, fields, topic, lane, user)
    except (KeyError, ValueError, InvalidTopic):
        return None


def _message(
    id: bytes, fields: dict[bytes, bytes], topic: str, lane: Priority, user: UserId | None
) -> Message:
    if not (topic == USER_TOPIC and user is not None):
        check_topic(topic)
    body, key, expires = fields[b"b"], fields.get(b"k"), fields.get(b"x")
    if not body or b"\n" in body or b"\r" in body or b"\0" in body:
        raise ValueError("a frame is one line")
    return Message(
        offset=offset_of(id),
        topic=topic,
        priority=lane,
        body=body,
        timestamp=float(fields[b"s"]),
        key=None if key is None else key.decode(),
        expires_at=None if expires is None else float(expires),
        to_user=user,
    )
