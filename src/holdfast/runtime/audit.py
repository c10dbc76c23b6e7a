"""Audit events: security-relevant events for an application's hook, and a hook for `logging`."""

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
    """One security-relevant event, without tokens, credentials and payloads.

    Attributes:
        action: The kind of the event.
        at: Seconds since the Unix epoch.
        user: The identified user, `None` for an unidentified client.
        connection: The id of the connection, `None` if there is none yet.
        transport: "sse", "websocket", "poll", "http" or the application's own word.
        detail: A reason, a topic, an origin or an address.
    """

    action: AuditAction
    at: float
    user: str | None = None
    connection: str | None = None
    transport: str | None = None
    detail: str = ""


AuditHook = Callable[[AuditEvent], None]
"""A plain function that is called in the event loop and must not block. Exceptions are logged."""

_REFUSALS = frozenset(action for action in AuditAction if action.name.endswith("_REFUSED"))


class AuditTrail:
    """Calls the audit hook, if there is one.

    Args:
        hook: The application's hook.
        time: Returns seconds since the Unix epoch.
    """

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
        """Call the hook with one event, whose fields are the arguments."""
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
    """Return an audit hook that logs each event: refusals as WARNING, the others as INFO.

    Args:
        logger: The logger; `holdfast.audit` by default.
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
