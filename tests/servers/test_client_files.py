"""The browser client on real servers: each sends it compressed, as LiveApp made it."""

from __future__ import annotations

import gzip
from importlib.resources import files

from tests.support.clients import request


async def test_the_client_is_sent_compressed(port: int) -> None:
    """GET, HEAD and the conditional GET agree over a socket, and the file is whole."""
    path, accept = "/client.js", {"Accept-Encoding": "gzip, deflate, br"}
    get = await request(port, "GET", path, headers=accept)
    assert get.status == 200
    assert get.headers["content-encoding"] == "gzip"
    assert get.headers["content-length"] == str(len(get.body))
    assert gzip.decompress(get.body) == (files("holdfast") / "browser" / path[1:]).read_bytes()
    head = await request(port, "HEAD", path, headers=accept)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["etag"] == get.headers["etag"]
    known = {**accept, "If-None-Match": get.headers["etag"]}
    again = await request(port, "GET", path, headers=known)
    assert (again.status, again.body) == (304, b"")
    plain = await request(port, "GET", path)
    assert plain.body == gzip.decompress(get.body)
    assert "content-encoding" not in plain.headers
