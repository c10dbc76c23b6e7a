"""The login: one user, one password, one signed cookie.

The cookie is what both sides of the application look at: `LiveApp` through its
``JWTAuthenticator``, the pages and the demo endpoints through `Login.user`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, urlsplit

import jwt
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from examples.dashboard import pages
from examples.dashboard.requests import small_body
from examples.dashboard.settings import USER, Settings

COOKIE = "dashboard_token"
ROLE = "platform_admin"
ALGORITHM = "HS256"
SESSION_SECONDS = 8 * 3600
FAILED_LOGIN_DELAY = 0.5  # slows down guessing; nobody notices it who mistyped

Endpoint = Callable[[Request], Awaitable[Response]]


class Login:
    """Issues the session cookie and recognises it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def user(self, connection: HTTPConnection) -> str | None:
        """The user whom the cookie names, or None without a valid one."""
        try:
            claims = jwt.decode(
                connection.cookies.get(COOKIE, ""),
                self._settings.secret,
                algorithms=[ALGORITHM],
                options={"require": ["exp", "sub"]},
            )
        except jwt.InvalidTokenError:
            return None
        return str(claims["sub"]) if ROLE in claims.get("roles", ()) else None

    def page(self, request: Request) -> Response:
        """``GET /login``."""
        if self.user(request):
            return RedirectResponse("/", status_code=303)
        return pages.login()

    async def log_in(self, request: Request) -> Response:
        """``POST /login``: the cookie and the way to the dashboard, or the form again."""
        if not same_origin(request):
            return JSONResponse({"error": "cross-site request"}, status_code=403)
        form = await _form(request)
        if form is None or not self._matches(*form):
            await asyncio.sleep(FAILED_LOGIN_DELAY)
            return pages.login(failed=True)
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(
            COOKIE,
            self._token(),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def log_out(self, request: Request) -> Response:
        """``POST /logout``: back to the form, without the cookie."""
        if not same_origin(request):
            return JSONResponse({"error": "cross-site request"}, status_code=403)
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    def required(self, endpoint: Endpoint) -> Endpoint:
        """Guard an endpoint that changes something: our own page, signed in."""

        async def guarded(request: Request) -> Response:
            if not same_origin(request):
                return JSONResponse({"error": "cross-site request"}, status_code=403)
            if self.user(request) is None:
                return JSONResponse({"error": "log in first"}, status_code=401)
            return await endpoint(request)

        return guarded

    def _matches(self, user: str, password: str) -> bool:
        # Both comparisons always run, so that the time tells nothing about either.
        user_ok = secrets.compare_digest(user.encode(), USER.encode())
        password_ok = secrets.compare_digest(password.encode(), self._settings.password.encode())
        return user_ok and password_ok

    def _token(self) -> str:
        now = int(time.time())
        claims = {"sub": USER, "roles": [ROLE], "iat": now, "exp": now + SESSION_SECONDS}
        return jwt.encode(claims, self._settings.secret, algorithm=ALGORITHM)


def same_origin(request: Request) -> bool:
    """Whether a request comes from our own page, as far as the browser tells.

    The cookie is ``SameSite=Strict``; this holds where a browser is older, and among
    the ports of one host, which count as one site. What sends neither header is no browser.
    """
    origin = request.headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == request.headers.get("host")
    return request.headers.get("sec-fetch-site", "same-origin") == "same-origin"


async def _form(request: Request) -> tuple[str, str] | None:
    """The user and password of a posted form, or None if it is not one."""
    body = await small_body(request)
    try:
        fields = parse_qs(body or "", strict_parsing=True, max_num_fields=4)
    except ValueError:
        return None
    return fields.get("user", [""])[0], fields.get("password", [""])[0]
