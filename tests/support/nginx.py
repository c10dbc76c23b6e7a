"""A real nginx in front of a real server, with common configurations."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.processes import HOST, Process, free_port
from tests.support.requirements import require

if TYPE_CHECKING:
    from types import TracebackType

# Debian installs it where only root looks.
EXECUTABLES = ["nginx", "/usr/sbin/nginx"]

HOST_HEADER = ("proxy_set_header Host $http_host;",)
"""The origin check needs the client's Host; by default, nginx sends the upstream's address."""

WEBSOCKET = (
    "proxy_http_version 1.1;",
    "proxy_set_header Upgrade $http_upgrade;",
    "proxy_set_header Connection $connection_upgrade;",
)
"""A WebSocket needs these: https://nginx.org/en/docs/http/websocket.html."""

BUFFERED = ("proxy_buffering on;", "proxy_ignore_headers X-Accel-Buffering;")
"""Guides warn of these. A current nginx passes on its buffer when the server pauses."""

HELD_BACK = (*BUFFERED, "gzip on;", "gzip_types text/event-stream;")
"""gzip delays a stream: it collects about 28 KB, the response's headers among them."""

LOOKS_CONNECTED = (*HELD_BACK, "postpone_output 0;")
"""The same, but the headers are sent at once, and a reader believes that the stream works."""

_CONFIGURATION = """\
daemon off;
worker_processes 1;
error_log stderr;
pid {folder}/pid;
{user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
    server {{
        listen {host}:{port};
        location / {{
            proxy_pass http://{host}:{upstream};
            {directives}
        }}
    }}
}}
"""


class Nginx(Process):
    """nginx in front of the server on port `upstream`, during a `with` block.

    Without `directives` it is a plain `proxy_pass`: HTTP/1.0 to the server, no upgrade, the
    server's own address as Host. `read_timeout` is `proxy_read_timeout`, in whole seconds.
    """

    def __init__(
        self,
        upstream: int,
        directives: tuple[str, ...] = (),
        *,
        read_timeout: int | None = None,
    ) -> None:
        self.upstream = upstream
        self.directives = directives
        if read_timeout is not None:
            self.directives += (f"proxy_read_timeout {read_timeout}s;",)
        super().__init__("nginx", [], free_port())

    def __enter__(self) -> Self:
        executable = require(executable=EXECUTABLES, reason="a real nginx stands in front")
        self._folder = tempfile.TemporaryDirectory(prefix="nginx-")
        configuration = Path(self._folder.name, "nginx.conf")
        configuration.write_text(
            _CONFIGURATION.format(
                folder=self._folder.name,
                # Workers of a root nginx would run as a user without access to our folder.
                user="user root;" if os.geteuid() == 0 else "",
                host=HOST,
                port=self.port,
                upstream=self.upstream,
                directives="\n            ".join(self.directives),
            )
        )
        self._command = [
            *(executable, "-e", "stderr"),
            *("-p", self._folder.name, "-c", str(configuration)),
        ]
        try:
            return super().__enter__()
        except BaseException:
            self._folder.cleanup()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._folder.cleanup()
