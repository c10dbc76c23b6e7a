"""The places at which an operation calls something foreign, each of which may fail."""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import Any

LOST_ANSWERS = ("redeem after", "issue after", "detach before", "detach after")
"""Where the store itself fails, nobody can tell it afterwards that a connection is gone."""

interrupted: ContextVar[bool] = ContextVar("interrupted", default=False)
"""Set in the operation that is to be interrupted, and so in every task that it starts."""


class Points:
    """The places at which something foreign is called: a broker, a hook, a server's `send`.

    Those that the interrupted operation reaches, or a task that it started, are counted, and the
    one with the number ``fail_at`` raises.
    """

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.fail_at: int | None = None
        self.error: Exception | None = None

    @property
    def failed(self) -> str | None:
        """The place that raised."""
        reached = self.fail_at is not None and self.fail_at < len(self.passed)
        return self.passed[self.fail_at or 0] if reached else None

    def reach(self, name: str) -> None:
        """Something foreign is called."""
        if interrupted.get():
            self.passed.append(name)
            if self.error is not None and len(self.passed) - 1 == self.fail_at:
                raise self.error


class Failing:
    """A broker or its tokens, each call of which is a point before it happens and one after."""

    def __init__(self, inner: Any, points: Points) -> None:
        self._inner = inner
        self._points = points

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name == "tokens":
            return Failing(found, self._points)
        if name in ("follow", "sweep", "start", "close") or not inspect.iscoroutinefunction(found):
            return found  # the Broadcaster's own tasks: it fails with them

        async def call(*arguments: Any) -> Any:
            self._points.reach(f"{name} before")
            answer = await found(*arguments)
            self._points.reach(f"{name} after")
            return answer

        return call
