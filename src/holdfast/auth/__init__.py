"""Who a client is, and what it may do: the hooks that an application gives to `LiveApp`.

`authenticate(request)` says who it is, or `None` to refuse; `authorize(user, action, topic)` says
what that user may do, by the rights of now. Both may be plain or coroutine functions; a plain one
must not block. There is no default for `authenticate`: `anonymous` is for what is public.
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
