"""The types of the hooks, and those that need no further package."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from enum import Enum

from ..core.validation import check_name, check_number, reject
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

    def __post_init__(self) -> None:
        if self.id is not None:
            check_name("id", self.id, "a str that is not empty, or None for an unidentified client")
        if isinstance(self.roles, str) or not isinstance(self.roles, Collection):
            reject("roles", self.roles, "a set of names, such as frozenset({'admin'})")
        if not isinstance(self.roles, frozenset):
            object.__setattr__(self, "roles", frozenset(self.roles))
        if self.expires_at is not None:
            check_number("expires_at", self.expires_at)


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
    check_name("role", role, "the name of a role, a str that is not empty")

    def authorize(user: User, action: Action, topic: str | None) -> bool:
        return role in user.roles

    return authorize
