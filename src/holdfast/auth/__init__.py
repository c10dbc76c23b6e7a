"""Hooks that identify users and check their rights; an application passes them to `LiveApp`.

`authenticate(request)` returns the `User`, or `None` to refuse the request.
`authorize(user, action, topic)` returns True if the user has that right at this moment. Both may be
plain functions, which must not block, or coroutine functions. `authenticate` has no default;
`anonymous` is for public data.

hooks    User, Action, and hooks that need no other package
request  Request: the request that `authenticate` gets
jwt      JWTAuthenticator: JSON Web Tokens (extra `jwt`)
"""

from .hooks import Action, Authenticate, Authorize, User, anonymous, require_role, subscribe_only
from .request import Request

__all__ = [
    "Action",
    "Authenticate",
    "Authorize",
    "Request",
    "User",
    "anonymous",
    "require_role",
    "subscribe_only",
]
