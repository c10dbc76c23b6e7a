"""The login: one user, one password, one signed cookie.

Both sides of the application check the cookie: `LiveApp` through its ``JWTAuthenticator``, the
pages and the demo endpoints through `Login.user`.
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
FAILED_LOGIN_DELAY = 0.5  # seconds; slows down guessing

Endpoint = Callable[[Request], Awaitable[Response]]


class Login:
    """Issues the session cookie and verifies it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def user(self, connection: HTTPConnection) -> str | None:
        """Return the user that the cookie names, or None without a valid cookie."""
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
        """``GET /login``: the form, or the dashboard for a user who is logged in."""
        if self.user(request):
            return RedirectResponse("/", status_code=303)
        return pages.login()

    async def log_in(self, request: Request) -> Response:
        """``POST /login``: set the cookie and redirect to the dashboard, or show the form again."""
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
        """``POST /logout``: delete the cookie and redirect to the form."""
        if not same_origin(request):
            return JSONResponse({"error": "cross-site request"}, status_code=403)
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    def required(self, endpoint: Endpoint) -> Endpoint:
        """Allow an endpoint only to a logged-in user on our own page."""

        async def guarded(request: Request) -> Response:
            if not same_origin(request):
                return JSONResponse({"error": "cross-site request"}, status_code=403)
            if self.user(request) is None:
                return JSONResponse({"error": "log in first"}, status_code=401)
            return await endpoint(request)

        return guarded

    def _matches(self, user: str, password: str) -> bool:
        # Both comparisons always run, so that the duration reveals nothing about either.
        user_ok = secrets.compare_digest(user.encode(), USER.encode())
        password_ok = secrets.compare_digest(password.encode(), self._settings.password.encode())
        return user_ok and password_ok

    def _token(self) -> str:
        now = int(time.time())
        claims = {"sub": USER, "roles": [ROLE], "iat": now, "exp": now + SESSION_SECONDS}
        return jwt.encode(claims, self._settings.secret, algorithm=ALGORITHM)


def same_origin(request: Request) -> bool:
    """Return whether a request comes from our own page, as far as the browser reports it.

    The cookie is ``SameSite=Strict``. This check covers older browsers, and pages on other ports of
    the host, which count as the same site. A request with neither header is not from a browser.
    """
    origin = request.headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == request.headers.get("host")
    return request.headers.get("sec-fetch-site", "same-origin") == "same-origin"


async def _form(request: Request) -> tuple[str, str] | None:
    """Return the user and password of a posted form, or None if the body is not a form."""
    body = await small_body(request)
    try:
        fields = parse_qs(body or "", strict_parsing=True, max_num_fields=4)
    except ValueError:
        return None
    return fields.get("user", [""])[0], fields.get("password", [""])[0]
