"""The types of the hooks, and the hooks that need no other package."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from enum import Enum

from ..core.validation import check_name, check_number, reject
from .request import Request


class Action(Enum):
    """The right that `authorize` decides on."""

    SUBSCRIBE = "subscribe"
    """Receive the messages of one topic."""
    SUBSCRIBE_PATTERN = "subscribe pattern"
    """Receive the messages of all present and future topics that a pattern covers."""
    READ_STATISTICS = "read statistics"
    """Read the statistics, with all connections and users; the topic is `None`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """The user of a request.

    Args:
        id: The id of the user; `None` for an unidentified client. Unidentified clients have no
            limit per user, and no topic `$user`.
        roles: The names of the user's roles, for `authorize`.
        expires_at: The time at which the credentials expire and the connection is closed, in
            seconds since the Unix epoch; `None` for no limit.

    Raises:
        ConfigurationError: `expires_at` is not a number over 0.
        TypeError: An argument has the wrong type.
    """

    id: str | None
    roles: frozenset[str] = field(default_factory=frozenset[str])
    expires_at: float | None = None

    def __post_init__(self) -> None:
        if self.id is not None:
            check_name("id", self.id, "a str that is not empty, or None for an unidentified client")
        roles = self.roles
        if isinstance(roles, str) or not isinstance(roles, Collection):  # pyright: ignore[reportUnnecessaryIsInstance]
            reject("roles", roles, "a set of names, such as frozenset({'admin'})")
        if not isinstance(roles, frozenset):  # pyright: ignore[reportUnnecessaryIsInstance]
            object.__setattr__(self, "roles", frozenset(roles))
        if self.expires_at is not None:
            check_number("expires_at", self.expires_at)


Authenticate = Callable[[Request], User | Awaitable[User | None] | None]
"""The type of `authenticate`; an exception means "try again later"."""

Authorize = (
    Callable[[User, Action, str | None], bool]
    | Callable[[User, Action, str | None], Awaitable[bool]]
)
"""The type of `authorize`; an exception means "try again later"."""

_UNIDENTIFIED = User(id=None)


def anonymous(request: Request) -> User:
    """Accept every request as an unidentified user (an `authenticate` hook for public data).

    Args:
        request: The request, which is ignored.
    """
    return _UNIDENTIFIED


def subscribe_only(user: User, action: Action, topic: str | None) -> bool:
    """Allow all topics, but no patterns and no statistics (the `authorize` default of `LiveApp`).

    Args:
        user: The user, who is ignored.
        action: The right.
        topic: The topic, which is ignored.
    """
    return action is Action.SUBSCRIBE


def require_role(role: str) -> Callable[[User, Action, str | None], bool]:
    """Return an `authorize` hook: users with `role` may do everything, and others nothing.

    Args:
        role: The name of the role.

    Raises:
        TypeError: `role` is not a str, or is empty.
    """
    check_name("role", role, "the name of a role, a str that is not empty")

    def authorize(user: User, action: Action, topic: str | None) -> bool:
        return role in user.roles

    return authorize
