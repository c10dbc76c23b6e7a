"""Shared parts of the tests: server processes, free ports, and requirements."""

from tests.support.processes import (
    SERVERS,
    ServerKind,
    ServerProcess,
    free_port,
    wait_listening,
)
from tests.support.requirements import needs, require

__all__ = [
    "SERVERS",
    "ServerKind",
    "ServerProcess",
    "free_port",
    "needs",
    "require",
    "wait_listening",
]
