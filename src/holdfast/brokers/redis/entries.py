"""Stream entries: how a message is stored, encoding and decoding side by side.

The names of the fields are one letter long, because every message has them. lua/entry.lua names the
fields that the script reads; it stores any other field as it came. In the feed, the script adds
the address (`a`), the lane (`p`) and the epoch (`e`).
"""

from __future__ import annotations

from typing import Any

from ...core.cursor import Epoch
from ...core.message import Draft, Message, Offset, Priority, UserId
from ...core.topics import USER_TOPIC, check_topic
from ...errors import InvalidTopic
from .keys import format_address, parse_address
from .script import Argument, Operation

_LANES = {str(int(lane)).encode(): lane for lane in Priority}


def publish_operation(draft: Draft) -> Operation:
    """Return the operation that appends a message (lua/operations/publish.lua)."""
    key = draft.idempotency_key
    return Operation(
        "publish",
        (
            format_address(draft.topic, draft.to_user),
            int(draft.priority),
            "-" if key is None else f"+{key}",
            *_encode(draft),
        ),
    )


def _encode(draft: Draft) -> list[Argument]:
    fields: list[Argument] = ["b", draft.body, "s", repr(draft.timestamp)]
    if draft.key is not None:
        fields += ("k", draft.key)
    if draft.expires_at is not None:
        fields += ("x", repr(draft.expires_at))
    return fields


def _decode(
    id: bytes, fields: dict[bytes, bytes], topic: str, lane: Priority, user: UserId | None
) -> Message:
    key, expires_at = fields.get(b"k"), fields.get(b"x")
    return Message(
        offset=offset_of(id),
        topic=topic,
        priority=lane,
        to_user=user,
        body=_check_body(fields[b"b"]),
        timestamp=float(fields[b"s"]),
        key=None if key is None else key.decode(),
        expires_at=None if expires_at is None else float(expires_at),
    )


def decode_feed_entry(id: bytes, fields: dict[bytes, bytes]) -> tuple[Epoch, Message] | None:
    """Decode an entry of the feed; `None` if another program wrote it.

    Returns:
        The epoch in which the message was published, and the message.
    """
    try:
        topic, user = parse_address(fields[b"a"].decode())
        _check_target(topic, user)
        return Epoch(fields[b"e"].decode()), _decode(id, fields, topic, _LANES[fields[b"p"]], user)
    except (KeyError, ValueError, InvalidTopic):
        return None


def decode_log_entry(
    id: bytes, fields: dict[bytes, bytes], topic: str, lane: Priority, user: UserId | None
) -> Message | None:
    """Decode an entry of a topic log; `None` if another program wrote it."""
    try:
        _check_target(topic, user)
        return _decode(id, fields, topic, lane, user)
    except (KeyError, ValueError, InvalidTopic):
        return None


def named_fields(raw: Any) -> dict[bytes, bytes]:
    """Return the fields of an entry, which Redis sends as a flat list, by name."""
    if hasattr(raw, "items"):  # redis-py has parsed it
        return dict(raw.items())
    return dict(zip(raw[::2], raw[1::2], strict=False))


def offset_of(id: bytes) -> Offset:
    """Return the offset in an entry's id, `<offset>-0`."""
    return Offset(int(id.partition(b"-")[0]))


def _check_target(topic: str, user: UserId | None) -> None:
    if not (topic == USER_TOPIC and user is not None):
        check_topic(topic)


def _check_body(body: bytes) -> bytes:
    """Return a body that is one line; another program may have written another one."""
    if not body or b"\n" in body or b"\r" in body or b"\0" in body:
        raise ValueError("a frame is one line")
    return body
