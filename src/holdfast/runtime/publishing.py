"""What `publish` takes, checked and encoded before anything is queued."""

from __future__ import annotations

from typing import TypedDict

from ..brokers.protocol import Draft
from ..core.message import Priority, UserId
from ..core.topics import USER_TOPIC, check_topic
from ..core.validation import is_number
from ..errors import MessageTooLarge, PublishError
from . import frames

MAX_KEY_BYTES = 200


class PublishOptions(TypedDict, total=False):
    """The keyword arguments of `Broadcaster.publish`, which describes them."""

    priority: Priority
    key: str | None
    ttl: float | None
    idempotency_key: str | None


def make_draft(
    topic: str,
    data: object,
    *,
    priority: Priority = Priority.NORMAL,
    key: str | None = None,
    ttl: float | None = None,
    to_user: str | None = None,
    idempotency_key: str | None = None,
    now: float,
    max_bytes: int,
) -> Draft:
    """A message ready for the broker; raises `PublishError`.

    The data is encoded here, once: what happens to the object afterwards is of no consequence.
    """
    if not (topic == USER_TOPIC and to_user is not None):
        check_topic(topic)
    if not isinstance(priority, Priority):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PublishError(f"priority={priority!r}: it must be a member of Priority")
    if key is not None or to_user is not None or idempotency_key is not None:
        _check_text("key", key)
        _check_text("to_user", to_user)
        _check_text("idempotency_key", idempotency_key)
    if to_user == "":
        raise PublishError("to_user='': it must name a user")
    body = frames.message(topic, data, priority, now, key)
    if len(body) > max_bytes:
        raise MessageTooLarge(len(body), max_bytes)
    return Draft(
        topic=topic,
        priority=priority,
        body=body,
        timestamp=now,
        key=key,
        expires_at=None if ttl is None else now + _checked_ttl(ttl),
        to_user=None if to_user is None else UserId(to_user),
        idempotency_key=idempotency_key,
    )


def _checked_ttl(ttl: float) -> float:
    if not is_number(ttl) or not ttl > 0:
        raise PublishError(f"ttl={ttl!r:.40}: seconds, finite and over 0; None means no ttl")
    return float(ttl)


def _check_text(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise PublishError(f"{name}={value!r}: it must be a str or None")
    if len(value.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise PublishError(f"{name} is longer than {MAX_KEY_BYTES} bytes")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise PublishError(f"{name} has a lone surrogate, which has no UTF-8 form")
