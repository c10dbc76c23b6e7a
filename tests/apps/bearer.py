"""`tests.apps.live`, for who has a bearer token: ``<user>:<expires_at>``, until it expires."""

from __future__ import annotations

from holdfast.asgi import LiveApp
from holdfast.auth import Request, User
from tests.apps import live


def authenticate(request: Request) -> User | None:
    """Return the user that the token names, until it expires."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    name, _, expires_at = token.partition(":")
    return User(id=name, expires_at=float(expires_at)) if scheme == "Bearer" and name else None


live.live = LiveApp(live.broadcaster, authenticate=authenticate)
app = live.app
