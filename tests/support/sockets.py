"""Options of client sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

LINGER_0_S = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: `close` sends RST."""


def reset_on_close(sock: Any) -> None:
    """Let the next `close` send a RST, as a crashed client does."""
    with contextlib.suppress(OSError):  # the peer has already reset it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0_S)
