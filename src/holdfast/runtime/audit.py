"""Audit events: security-relevant facts for an application's hook, and a hook for `logging`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

_logger = logging.getLogger("holdfast")


class AuditAction(Enum):
    """The kind of an audit event."""

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
    """One fact. No field ever contains a token, a credential or a payload.

    `at` is in seconds since the Unix epoch.
    """

    action: AuditAction
    at: float
    user: str | None = None
    connection: str | None = None
    transport: str | None = None
    detail: str = ""


AuditHook = Callable[[AuditEvent], None]
"""Called synchronously in the event loop, so it must not block. Its exceptions are logged."""

_REFUSALS = frozenset(action for action in AuditAction if action.name.endswith("_REFUSED"))


class AuditTrail:
    """Calls the audit hook, if there is one. `time` returns seconds since the Unix epoch."""

    def __init__(self, hook: AuditHook | None, time: Callable[[], float]) -> None:
        self.is_on = hook is not None
        self._hook = hook
        self._time = time

    def record(
        self,
        action: AuditAction,
        user: str | None = None,
        connection: str | None = None,
        transport: str | None = None,
        detail: str = "",
    ) -> None:
        """Call the hook with one event."""
        if self._hook is None:
            return
        event = AuditEvent(
            action=action,
            at=self._time(),
            user=user,
            connection=connection,
            transport=transport,
            detail=detail,
        )
        try:
            self._hook(event)
        except Exception:
            _logger.exception("the audit hook failed on %s", action.value)


def logging_audit(logger: logging.Logger | None = None) -> AuditHook:
    """Return a hook that writes each event to `logger` (default `holdfast.audit`).

    Refusals are warnings, other events are of level INFO.
    """
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
