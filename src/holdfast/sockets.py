"""Listening sockets with options for streams, which accepted sockets inherit.

By default, the kernel buffers about 4 MB per client before `send` first waits, and an urgent
message has to wait behind them. And Linux notices only after 15 minutes that a client has vanished
without a FIN.
"""

from __future__ import annotations

import socket

SEND_BUFFER = 32 * 1024
"""Bytes of the kernel's send buffer for one client."""


def listening_socket(
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    send_buffer: int = SEND_BUFFER,
    keepalive: float = 15.0,
    user_timeout: float = 30.0,
    backlog: int = 2048,
) -> socket.socket:
    """Return a socket that listens, to pass to an ASGI server.

    uvicorn takes it as `uvicorn.Server(config).serve(sockets=[…])` or `uvicorn --fd`, hypercorn as
    `hypercorn --bind fd://…`.

    Args:
        host: The address to bind to. An address with a colon is IPv6.
        port: The port to bind to; 0 takes any free port.
        send_buffer: Bytes of the kernel's send buffer for one client (`SO_SNDBUF`).
        keepalive: Seconds of silence after which the kernel probes the peer (`TCP_KEEPIDLE`).
        user_timeout: Seconds that sent data may stay unacknowledged before the kernel drops the
            connection (`TCP_USER_TIMEOUT`, RFC 5482; only on systems that have it).
        backlog: Connections that wait to be accepted, at most.

    Raises:
        OSError: The address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tuned = {
            "TCP_KEEPIDLE": max(1, int(keepalive)),
            "TCP_KEEPINTVL": max(1, int(keepalive / 3)),
            "TCP_KEEPCNT": 3,
            "TCP_USER_TIMEOUT": int(user_timeout * 1000),
        }
        for name, value in tuned.items():
            if hasattr(socket, name):
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        listener.bind((host, port))
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
