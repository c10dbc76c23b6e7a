"""holdfast: realtime push that doesn't let go.

Messages with priorities to browsers and services, over Server-Sent Events, WebSocket and long
polling. A client that reconnects has lost nothing, or gets an exact report of its loss.

A server needs only this module. Each extra has a module of its own: `holdfast.client`,
`holdfast.auth.jwt`, `holdfast.brokers.redis`. `holdfast.transports` is for endpoints of your own.
"""

from .asgi import LiveApp
from .auth import Action, Request, User, anonymous, require_role, subscribe_only
from .brokers.memory import MemoryBroker
from .brokers.protocol import Broker
from .core.delivery.buffer import PriorityBuffer
from .core.frames import Frame
from .core.log.retention import Retention
from .core.message import Priority
from .core.registry import ConnectionRegistry
from .core.tokens import TokenLimits, TokenRegistry
from .errors import (
    BroadcasterFailed,
    BrokerUnavailable,
    ConfigurationError,
    HoldfastError,
    InvalidPayload,
    InvalidTopic,
    MessageTooLarge,
    NotRunning,
    OutcomeUnknown,
    PublishError,
    Refused,
    WrongThread,
)
from .reasons import Reason
from .runtime.audit import AuditAction, AuditEvent, logging_audit
from .runtime.broadcaster import Broadcaster
from .runtime.connection import Connection
from .runtime.lifecycle import BroadcasterState
from .runtime.periodic import PeriodicSource
from .runtime.presence import PresenceChange
from .runtime.statistics import ConnectionStatistics, Statistics
from .settings import Settings
from .sockets import listening_socket
from .transports.websocket import InboundLimits

__all__ = [
    "Action",
    "AuditAction",
    "AuditEvent",
    "Broadcaster",
    "BroadcasterFailed",
    "BroadcasterState",
    "Broker",
    "BrokerUnavailable",
    "ConfigurationError",
    "Connection",
    "ConnectionRegistry",
    "ConnectionStatistics",
    "Frame",
    "HoldfastError",
    "InboundLimits",
    "InvalidPayload",
    "InvalidTopic",
    "LiveApp",
    "MemoryBroker",
    "MessageTooLarge",
    "NotRunning",
    "OutcomeUnknown",
    "PeriodicSource",
    "PresenceChange",
    "Priority",
    "PriorityBuffer",
    "PublishError",
    "Reason",
    "Refused",
    "Request",
    "Retention",
    "Settings",
    "Statistics",
    "TokenLimits",
    "TokenRegistry",
    "User",
    "WrongThread",
    "anonymous",
    "listening_socket",
    "logging_audit",
    "require_role",
    "subscribe_only",
]
