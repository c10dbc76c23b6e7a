"""holdfast: realtime push that doesn't let go.

Prioritised messages to browsers and services over Server-Sent Events, with WebSocket as the
fallback. A client that drops off comes back and has lost nothing, or is told exactly what.

The endpoints are in `holdfast.asgi`, the hooks in `holdfast.auth`.
"""

from .brokers.memory import MemoryBroker
from .core.connection import CloseReason, Connection
from .core.cursor import Cursor, EventId
from .core.delivery.buffer import PriorityBuffer
from .core.log.history import History
from .core.log.retention import Retention
from .core.message import Gap, Message, Priority
from .core.registry import ConnectionRegistry
from .core.tokens import TokenLimits, TokenRegistry
from .errors import (
    BroadcasterFailed,
    ConfigurationError,
    HoldfastError,
    InvalidPayload,
    InvalidTopic,
    MessageTooLarge,
    NotRunning,
    PublishError,
    Refused,
    WrongThread,
)
from .runtime.audit import AuditAction, AuditEvent, logging_audit
from .runtime.broadcaster import Broadcaster
from .runtime.statistics import Statistics

__all__ = [
    "AuditAction",
    "AuditEvent",
    "Broadcaster",
    "BroadcasterFailed",
    "CloseReason",
    "ConfigurationError",
    "Connection",
    "ConnectionRegistry",
    "Cursor",
    "EventId",
    "Gap",
    "History",
    "HoldfastError",
    "InvalidPayload",
    "InvalidTopic",
    "MemoryBroker",
    "Message",
    "MessageTooLarge",
    "NotRunning",
    "Priority",
    "PriorityBuffer",
    "PublishError",
    "Refused",
    "Retention",
    "Statistics",
    "TokenLimits",
    "TokenRegistry",
    "WrongThread",
    "logging_audit",
]
