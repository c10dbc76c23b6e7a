"""The two HTML pages, with headers that isolate them from other sites."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import HTMLResponse

STATIC = Path(__file__).parent / "static"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def dashboard() -> HTMLResponse:
    """Return the dashboard page; its data comes over the stream."""
    return HTMLResponse((STATIC / "index.html").read_text("utf-8"), headers=_HEADERS)


def login(*, failed: bool = False) -> HTMLResponse:
    """Return the login form; after a failed attempt with status 401 and an error line."""
    html = (STATIC / "login.html").read_text("utf-8")
    message = "That user and password do not match." if failed else ""
    return HTMLResponse(
        html.replace("{{ message }}", message),
        status_code=401 if failed else 200,
        headers=_HEADERS,
    )
