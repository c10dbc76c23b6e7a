"""Settings: options from the environment variables of existing deployments.

These variables are in milliseconds. All other options of holdfast are in seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from .errors import ConfigurationError

_NUMBER = re.compile("[0-9]{1,12}", re.ASCII)
_BOOLEANS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}

_VARIABLES = frozenset(
    {
        "REAL_TIME_ENABLED",
        "REAL_TIME_UPDATE_INTERVAL",
        "REAL_TIME_HEARTBEAT_INTERVAL",
        "REAL_TIME_CLEANUP_INTERVAL",
        "REAL_TIME_BUFFER_FLUSH_INTERVAL",
        "WEBSOCKET_ENABLED",
        "WEBSOCKET_PATH",
        "WEBSOCKET_PING_INTERVAL",
    }
)


class BroadcasterSettings(TypedDict):
    """Keyword arguments for `Broadcaster`."""

    heartbeat_interval: float
    cleanup_interval: float
    flush_interval: float | None


class AppSettings(TypedDict):
    """Keyword arguments for `LiveApp`."""

    enabled: bool
    websocket_path: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Options for `Broadcaster` and `LiveApp`, usually from the environment.

        settings = Settings.from_env()
        broadcaster = Broadcaster(**settings.for_broadcaster())
        app = LiveApp(broadcaster, authenticate=…, **settings.for_app())

    Args:
        enabled: False tells clients not to come back (`REAL_TIME_ENABLED`).
        update_interval: Seconds between two calls of a periodic source, for the application to
            pass to `Broadcaster.periodic` (`REAL_TIME_UPDATE_INTERVAL`).
        heartbeat_interval: Seconds that a connection may be silent
            (`REAL_TIME_HEARTBEAT_INTERVAL`). The shorter of this and `websocket_ping_interval`
            counts for all transports.
        cleanup_interval: Seconds between two sweeps of the broker
            (`REAL_TIME_CLEANUP_INTERVAL`).
        flush_interval: Seconds between two deliveries, at least; `None` for each turn of the
            event loop (`REAL_TIME_BUFFER_FLUSH_INTERVAL`, where 0 is `None`).
        websocket_enabled: False means that `LiveApp` has no WebSocket (`WEBSOCKET_ENABLED`).
        websocket_path: The path of the WebSocket endpoint (`WEBSOCKET_PATH`).
        websocket_ping_interval: Seconds, see `heartbeat_interval` (`WEBSOCKET_PING_INTERVAL`).
    """

    enabled: bool = True
    update_interval: float = 30.0
    heartbeat_interval: float = 30.0
    cleanup_interval: float = 300.0
    flush_interval: float | None = None
    websocket_enabled: bool = True
    websocket_path: str = "/websocket"
    websocket_ping_interval: float = 30.0

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the variables; a variable that is not set has the default of its field.

        Args:
            environment: The variables by name; `os.environ` by default.

        Raises:
            ConfigurationError: A value is not valid, or a variable that begins with `REAL_TIME_`
                is not one of those above. The error names the variable.
        """
        env = os.environ if environment is None else environment
        for name in env:
            if name.startswith("REAL_TIME_") and name not in _VARIABLES:
                raise ConfigurationError(f"{name}: there is no such variable; is it misspelt?")
        flush = _seconds(env, "REAL_TIME_BUFFER_FLUSH_INTERVAL", 0.0, zero=True)
        return cls(
            enabled=_boolean(env, "REAL_TIME_ENABLED", True),
            update_interval=_seconds(env, "REAL_TIME_UPDATE_INTERVAL", 30.0),
            heartbeat_interval=_seconds(env, "REAL_TIME_HEARTBEAT_INTERVAL", 30.0),
            cleanup_interval=_seconds(env, "REAL_TIME_CLEANUP_INTERVAL", 300.0),
            flush_interval=flush or None,
            websocket_enabled=_boolean(env, "WEBSOCKET_ENABLED", True),
            websocket_path=_path(env, "WEBSOCKET_PATH", "/websocket"),
            websocket_ping_interval=_seconds(env, "WEBSOCKET_PING_INTERVAL", 30.0),
        )

    def for_broadcaster(self) -> BroadcasterSettings:
        """Return keyword arguments for `Broadcaster`."""
        return {
            "heartbeat_interval": min(self.heartbeat_interval, self.websocket_ping_interval),
            "cleanup_interval": self.cleanup_interval,
            "flush_interval": self.flush_interval,
        }

    def for_app(self) -> AppSettings:
        """Return keyword arguments for `LiveApp`."""
        path = self.websocket_path if self.websocket_enabled else None
        return {"enabled": self.enabled, "websocket_path": path}


def _seconds(env: Mapping[str, str], name: str, default: float, *, zero: bool = False) -> float:
    text = env.get(name)
    if text is None:
        return default
    if _NUMBER.fullmatch(text) is None or (int(text) == 0 and not zero):
        least = "0 (off)" if zero else "1"
        raise ConfigurationError(
            f"{name}={text!r}: it must be a whole number of milliseconds, {least} or more, "
            "in decimal digits"
        )
    return int(text) / 1000


def _boolean(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name)
    if text is None:
        return default
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise ConfigurationError(f"{name}={text!r}: it must be true or false")
    return value


def _path(env: Mapping[str, str], name: str, default: str) -> str:
    text = env.get(name, default)
    if re.fullmatch(r"/[!-~]*", text) is None or "?" in text or "#" in text:
        raise ConfigurationError(f"{name}={text!r}: it must be a path that begins with /")
    return text
