"""Start the dashboard: ``python -m examples.dashboard``."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

import uvicorn

from examples.dashboard.app import create_app
from examples.dashboard.settings import USER, Settings
from holdfast import listening_socket


def main() -> int:
    """Serve until a signal; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.dashboard", description="A live dashboard of this host."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to bind (%(default)s)")
    options = parser.parse_args()
    try:
        settings = Settings.from_env()
        app = create_app(settings)
        # The small send buffer keeps a low-priority flood from filling the kernel's buffers.
        sock = listening_socket(options.host, options.port)
    except (OSError, ValueError) as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 1
    host, port = sock.getsockname()[:2]
    hint = "  (set DASHBOARD_PASSWORD to choose it)" if settings.password_generated else ""
    password = settings.password if settings.password_generated else "as set in DASHBOARD_PASSWORD"
    print(f"dashboard  http://{f'[{host}]' if ':' in host else host}:{port}")
    print(f"user       {USER}")
    print(f"password   {password}{hint}", flush=True)
    config = uvicorn.Config(app, log_level="warning")
    with suppress(KeyboardInterrupt):  # uvicorn has stopped, and raises the signal again
        uvicorn.Server(config).run(sockets=[sock])
    return 0


if __name__ == "__main__":
    sys.exit(main())
