"""Listening sockets, and the options that accepted sockets inherit."""

from __future__ import annotations

import socket

import pytest

from holdfast.sockets import SEND_BUFFER, listening_socket


def accept(listener: socket.socket) -> socket.socket:
    """Return the server's side of a new connection."""
    with socket.create_connection(listener.getsockname()[:2], timeout=5.0):
        listener.settimeout(5.0)
        server, _ = listener.accept()
        return server


def test_accepted_sockets_inherit_the_options() -> None:
    """An accepted socket has the send buffer, the keepalive and the user timeout."""
    with listening_socket(port=0, keepalive=12.0, user_timeout=20.0) as listener:
        assert not listener.getblocking()
        with accept(listener) as server:
            assert server.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER
            assert server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in (
                ("TCP_KEEPIDLE", 12), ("TCP_KEEPINTVL", 4), ("TCP_KEEPCNT", 3),
                ("TCP_USER_TIMEOUT", 20_000),
            ):  # fmt: skip
                if hasattr(socket, name):
                    option = getattr(socket, name)
                    assert server.getsockopt(socket.IPPROTO_TCP, option) == value, name


def test_short_keepalive_is_one_second() -> None:
    """A keepalive below one second is one second, the shortest value of the kernel."""
    with listening_socket(port=0, keepalive=0.2) as listener:
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 1
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 1


def test_kernel_buffers_less_than_300_kb() -> None:
    """The kernel accepts less than 300 KB before a send blocks."""
    with listening_socket(port=0) as listener:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with client:
            client.connect(listener.getsockname())
            listener.settimeout(5.0)
            server, _ = listener.accept()
            with server:
                server.setblocking(False)
                sent = 0
                try:
                    while sent < 2**22:
                        sent += server.send(b"x" * 4096)
                except BlockingIOError:
                    pass
                assert sent < 300_000


def test_port_in_use_raises() -> None:
    """A port in use raises an OSError, and no socket stays open (a warning is an error here)."""
    with listening_socket(port=0) as listener, pytest.raises(OSError, match="in use"):
        listening_socket(port=listener.getsockname()[1])


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6() -> None:
    """An IPv6 address is supported."""
    try:
        listener = listening_socket("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with listener, accept(listener):
        assert listener.family is socket.AF_INET6
