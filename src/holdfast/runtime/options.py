"""The options of a Broadcaster, with their defaults and their checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..brokers.memory import MemoryBroker
from ..brokers.protocol import Broker
from ..core.delivery.buffer import DEFAULT_CAPACITY, DEFAULT_MAX_BYTES
from ..core.log.retention import Retention
from ..core.publishing import MAX_MESSAGE_BYTES
from ..core.registry import ConnectionLimits
from ..core.tokens import TokenLimits
from ..core.validation import check_number
from ..errors import ConfigurationError

_COUNTS = (
    "buffer_capacity",
    "buffer_bytes",
    "max_message_bytes",
    "max_connections",
    "max_connections_per_user",
    "max_topics",
)
_SECONDS_OR_NONE = (
    "token_lifetime",
    "heartbeat_interval",
    "idle_timeout",
    "send_timeout",
    "flush_interval",
    "history_age",
)
_OF_THE_MEMORY_BROKER = (
    "history_limit",
    "history_age",
    "history_bytes",
    "token_lifetime",
    "token_grace",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a Broadcaster, which documents them."""

    buffer_capacity: int = DEFAULT_CAPACITY
    buffer_bytes: int = DEFAULT_MAX_BYTES
    max_message_bytes: int = MAX_MESSAGE_BYTES
    history_limit: int | None = None
    history_age: float | None = None
    history_bytes: int | None = None
    token_lifetime: float | None = None
    token_grace: float | None = None
    heartbeat_interval: float | None = 30.0
    idle_timeout: float | None = 1800.0
    send_timeout: float | None = 60.0
    window_bytes: int | None = 1024 * 1024
    cleanup_interval: float = 300.0
    flush_interval: float | None = None
    max_connections: int = 20_000
    max_connections_per_user: int = 20
    max_topics: int = 200
    drain_at_signal: bool = True

    def __post_init__(self) -> None:
        for name in _COUNTS:
            check_number(name, getattr(self, name), whole=True)
        for name in _SECONDS_OR_NONE:
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        check_number("cleanup_interval", self.cleanup_interval)
        if self.window_bytes is not None:
            check_number("window_bytes", self.window_bytes, whole=True)
        for name in ("history_limit", "history_bytes"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), whole=True, zero=True)
        if self.token_grace is not None:
            check_number("token_grace", self.token_grace, zero=True)
        if not isinstance(self.drain_at_signal, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"drain_at_signal={self.drain_at_signal!r:.40}: it must be True or False"
            )
        if self.max_message_bytes > self.buffer_bytes:
            raise ConfigurationError(
                f"max_message_bytes={self.max_message_bytes} is over buffer_bytes="
                f"{self.buffer_bytes}: such a message could never be delivered"
            )

    def broker(self, given: Broker | None, clock: Callable[[], float]) -> Broker:
        """Return `given`, or a MemoryBroker if it is `None`.

        Raises:
            ConfigurationError: There is a broker, and an option that is for the memory broker.
        """
        if given is None:
            return MemoryBroker(
                retention=self._retention(), tokens=self._token_limits(), clock=clock
            )
        misplaced = [name for name in _OF_THE_MEMORY_BROKER if getattr(self, name) is not None]
        if misplaced:
            raise ConfigurationError(
                f"{', '.join(misplaced)}: pass this to the broker, in retention= or tokens="
            )
        return given

    def _retention(self) -> Retention:
        default = Retention()
        return Retention(
            limit=default.limit if self.history_limit is None else self.history_limit,
            age=default.age if self.history_age is None else self.history_age,
            max_bytes=default.max_bytes if self.history_bytes is None else self.history_bytes,
        )

    def _token_limits(self) -> TokenLimits:
        default = TokenLimits()
        return TokenLimits(
            lifetime=default.lifetime if self.token_lifetime is None else self.token_lifetime,
            grace=default.grace if self.token_grace is None else self.token_grace,
        )

    def connection_limits(self) -> ConnectionLimits:
        """Return the limits for the registry."""
        return ConnectionLimits(
            total=self.max_connections,
            per_user=self.max_connections_per_user,
            topics=self.max_topics,
        )


DEFAULTS = Options()
