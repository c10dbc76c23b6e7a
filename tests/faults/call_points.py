"""The points at which an operation calls external code. Each of these calls may fail."""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import Any

LOST_ANSWERS = ("redeem after", "issue after", "detach before", "detach after")
"""The calls after which the token store itself cannot learn that a connection is gone."""

interrupted: ContextVar[bool] = ContextVar("interrupted", default=False)
"""True in the operation that is interrupted, and in every task that it starts."""


class CallPoints:
    """The calls of external code: of a broker, of a hook, of a server's `send`.

    The calls of the interrupted operation and of its tasks are counted. The call with the number
    `fail_at` raises.
    """

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.fail_at: int | None = None
        self.error: Exception | None = None

    @property
    def failed(self) -> str | None:
        """Return the name of the call that raised, or None."""
        reached = self.fail_at is not None and self.fail_at < len(self.passed)
        return self.passed[self.fail_at or 0] if reached else None

    def reach(self, name: str) -> None:
        """Record a call of external code."""
        if interrupted.get():
            self.passed.append(name)
            if self.error is not None and len(self.passed) - 1 == self.fail_at:
                raise self.error


class FailingCalls:
    """A broker or its token store. Each call has one point before it and one after it."""

    def __init__(self, inner: Any, points: CallPoints) -> None:
        self._inner = inner
        self._points = points

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name == "tokens":
            return FailingCalls(found, self._points)
        if name in ("follow", "sweep", "start", "close") or not inspect.iscoroutinefunction(found):
            return found  # the Broadcaster's own tasks, which fail together with it

        async def call(*arguments: Any) -> Any:
            self._points.reach(f"{name} before")
            answer = await found(*arguments)
            self._points.reach(f"{name} after")
            return answer

        return call
