"""Listening sockets tuned for streams; what is set here, accepted sockets inherit.

By default about 4 MB per client vanish into kernel buffers before `send` first waits, so that an
urgent message stands behind them; and a peer that vanished without a FIN is noticed after 15
minutes. Hand such a socket to a server that takes one: `uvicorn.Server(config).serve(sockets=[…])`,
`uvicorn --fd`, `hypercorn --bind fd://…`.
"""

from __future__ import annotations

import socket

SEND_BUFFER = 32 * 1024


def listening_socket(
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    send_buffer: int = SEND_BUFFER,
    keepalive: float = 15.0,
    user_timeout: float = 30.0,
    backlog: int = 2048,
) -> socket.socket:
    """Bind and listen; raises `OSError`. Port 0 takes any that is free.

    `send_buffer` (bytes) is `SO_SNDBUF`; `keepalive` (seconds) the silence after which the kernel
    probes the peer; `user_timeout` (seconds) how long sent data may stay unacknowledged before
    the connection is dropped (`TCP_USER_TIMEOUT`, RFC 5482; only where the system has it).
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
