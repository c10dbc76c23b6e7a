"""The types of the hooks, and those that need no further package."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

from .request import Request


class Action(Enum):
    """What `authorize` is asked about."""

    SUBSCRIBE = "subscribe"
    """See one topic."""
    SUBSCRIBE_PATTERN = "subscribe pattern"
    """See all topics that a pattern covers, those of the future too."""
    READ_STATISTICS = "read statistics"
    """See who is connected; there is no topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who a client is.

    `id` is `None` for somebody unidentified: such clients share no limits and no personal topic.
    `expires_at` (Unix time, seconds) is when the credentials end, and the stream with them.
    """

    id: str | None
    roles: frozenset[str] = field(default_factory=frozenset[str])
    expires_at: float | None = None


Authenticate = Callable[[Request], User | Awaitable[User | None] | None]
Authorize = (
    Callable[[User, Action, str | None], bool]
    | Callable[[User, Action, str | None], Awaitable[bool]]
)

_ANYBODY = User(id=None)


def anonymous(request: Request) -> User:
    """Let everybody in, unidentified. For what is public anyway."""
    return _ANYBODY


def subscribe_only(user: User, action: Action, topic: str | None) -> bool:
    """Any topic, but no patterns and no statistics; the default of `LiveApp`."""
    return action is Action.SUBSCRIBE


def require_role(role: str) -> Callable[[User, Action, str | None], bool]:
    """Everything for users with `role`, nothing for others."""

    def authorize(user: User, action: Action, topic: str | None) -> bool:
        return role in user.roles

    return authorize
