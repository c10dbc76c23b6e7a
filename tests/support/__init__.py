"""Shared parts of the tests: server processes, free ports, and checks of the machine."""

from tests.support.needs import needs, require
from tests.support.processes import (
    SERVERS,
    ServerKind,
    ServerProcess,
    free_port,
    wait_listening,
)

__all__ = [
    "SERVERS",
    "ServerKind",
    "ServerProcess",
    "free_port",
    "needs",
    "require",
    "wait_listening",
]
