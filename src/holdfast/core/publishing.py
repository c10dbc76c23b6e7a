"""The arguments of `publish`, checked and encoded before anything is queued."""

from __future__ import annotations

from typing import TypedDict

from typing_extensions import Unpack

from ..errors import MessageTooLarge, PublishError
from . import frames
from .message import Draft, Priority, UserId
from .topics import USER_TOPIC, check_topic
from .validation import check_keywords, is_number

MAX_MESSAGE_BYTES = 1024 * 1024
"""Bytes of one encoded frame: daphne's limit for WebSocket, the smallest of the ASGI servers."""

MAX_KEY_BYTES = 200
"""Bytes of `key`, `to_user` and `idempotency_key`, each in UTF-8."""


class PublishOptions(TypedDict, total=False):
    """The options of every `publish`; `Broadcaster.publish` documents them."""

    priority: Priority
    key: str | None
    ttl: float | None
    to_user: str | None
    idempotency_key: str | None


_KNOWN = frozenset(PublishOptions.__annotations__)


def make_draft(
    topic: str, data: object, *, now: float, max_bytes: int, **options: Unpack[PublishOptions]
) -> Draft:
    """Return a message for the broker, checked and encoded.

    Args:
        topic: The name of a topic, not a pattern; `$user` only with `to_user`.
        data: Anything that `json.dumps` accepts.
        now: Seconds since the Unix epoch.
        max_bytes: Bytes of the encoded frame, at most.
        options: See `Broadcaster.publish`.

    Raises:
        PublishError: An argument cannot be published.
        TypeError: An option does not exist.
    """
    priority, key, ttl, to_user, idempotency_key = Priority.NORMAL, None, None, None, None
    if options:
        if not options.keys() <= _KNOWN:
            check_keywords("publish", options, _KNOWN)
        priority, ttl = options.get("priority", priority), options.get("ttl")
        key, to_user = options.get("key"), options.get("to_user")
        idempotency_key = options.get("idempotency_key")
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
