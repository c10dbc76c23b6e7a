"""What is worth an entry in an audit log, as a typed hook, and one that writes to `logging`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class AuditAction(Enum):
    """What happened."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    AUTHENTICATION_REFUSED = "authentication refused"
    ORIGIN_REFUSED = "origin refused"
    TOKEN_REFUSED = "token refused"  # noqa: S105 - the name of an event
    TAKEN_OVER = "taken over"
    SUBSCRIBED = "subscribed"
    UNSUBSCRIBED = "unsubscribed"
    SUBSCRIPTION_REFUSED = "subscription refused"
    ACCESS_REFUSED = "access refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One fact. No field ever holds a token, a credential or a payload."""

    action: AuditAction
    at: float
    user: str | None = None
    connection: str | None = None
    transport: str | None = None
    detail: str = ""


AuditHook = Callable[[AuditEvent], None]
"""Called synchronously, in the event loop: it must not block. What it raises is logged."""

_REFUSALS = frozenset(action for action in AuditAction if action.name.endswith("_REFUSED"))


def logging_audit(logger: logging.Logger | None = None) -> AuditHook:
    """Write each event to `logger` (default `holdfast.audit`); refusals as warnings."""
    target = logger or logging.getLogger("holdfast.audit")

    def write(event: AuditEvent) -> None:
        level = logging.WARNING if event.action in _REFUSALS else logging.INFO
        target.log(
            level,
            "%s user=%r connection=%s transport=%s %s",
            event.action.value,
            event.user,
            event.connection,
            event.transport,
            event.detail,
        )

    return write
