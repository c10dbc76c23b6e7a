"""Hostile bytes on raw sockets of a real server: documented answers, and a clean log."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import struct
from typing import TYPE_CHECKING

import pytest

from tests.bad_inputs.entries import in_query
from tests.bad_inputs.inputs import CURSORS, MARK, MEGABYTE, NOT_JSON, NOT_TYPED, TEXTS, mangled
from tests.support import ServerProcess
from tests.support.clients import HOST, open_socket, open_stream, request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import ServerKind

pytestmark = pytest.mark.real_time

PATIENCE = 5.0


@pytest.fixture
def anyio_backend() -> str:
    """Use a real loop, because there are sockets."""
    return "asyncio"


@pytest.fixture(scope="module", params=["uvicorn"])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """Start one server for all tests here; the last test finds it as healthy as the first."""
    kind: ServerKind = request.param
    # The access log would contain every URL; this test checks the log of the library.
    with ServerProcess(kind, "tests.apps.live:app", args=["--no-access-log"]) as made:
        yield made
        said = made.output()
        # uvicorn logs a text frame that is not UTF-8 with a traceback of its own code only.
        rest = re.sub(r"ERROR: +Invalid UTF-8 .*\n(?!INFO)(?:.*\n)*?UnicodeDecodeError.*", "", said)
        known = ("INFO:", "WARNING:  Invalid HTTP request received.")
        assert not [line for line in rest.splitlines() if line and not line.startswith(known)]
        assert MARK not in said
        assert made.running()


async def healthy(server: ServerProcess) -> None:
    """Check that another client gets a stream and a message at once, and no connection is left."""
    async with open_stream(server.port, "/stream?topics=healthy") as stream:
        await stream.event()
        messages = [{"topic": "healthy", "data": 1}]
        await request(server.port, "POST", "/publish", {"messages": messages})
        assert await stream.messages(1) == [1]


async def say(server: ServerProcess, *pieces: bytes, reset: bool = False) -> bytes:
    """Write raw bytes, and read until the server closes or is silent for a moment."""
    reader, writer = await asyncio.open_connection(HOST, server.port)
    said = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if reset:
            writer.transport.abort()
        async with asyncio.timeout(0.15):
            while data := await reader.read(65_536):
                said += data
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return said


def head(line: bytes, *headers: bytes) -> bytes:
    """Return the head of a request."""
    return b"\r\n".join([line, b"Host: x", *headers, b"", b""])


async def test_hostile_id_gets_a_gap_or_400(server: ServerProcess) -> None:
    """Any header or query that a server accepts is 200 with a reported gap, or 400."""
    async with open_stream(server.port) as stream:
        at = (await stream.event()).last_event_id
    statuses: dict[int, int] = {}
    texts = [*mangled(at)[:40], *CURSORS, *TEXTS, "x" * 60_000]
    for number, text in enumerate(text for text in texts if text.strip() and len(text) < 65_000):
        raw = text.encode("utf-8", "surrogatepass")
        name = (b"Last-Event-ID: ", b"X-Reconnect-Token: ")[number % 2]
        path, extra = b"/stream?topics=t", [name + raw]
        if number % 3 == 0 and len(in_query(text)) < 30_000:
            path, extra = b"/reconnect?topics=t&last_event_id=" + in_query(text), []
        reader, writer = await asyncio.open_connection(HOST, server.port)
        try:
            writer.write(head(b"GET " + path + b" HTTP/1.1", *extra))
            async with asyncio.timeout(PATIENCE):
                answer = await reader.readuntil(b"\r\n\r\n")
                status = int(answer.split()[1])
                statuses[status] = statuses.get(status, 0) + 1
                if status == 200:
                    frame = await reader.readuntil(b"\n\n")
                    assert b'"session":"gap"' in frame or b'"session":"fresh"' in frame, ascii(text)
        finally:
            writer.close()
    assert set(statuses) <= {200, 400}, (
        "only the server itself may answer 400, for an invalid header"
    )
    assert statuses[200] > 60, statuses
    await healthy(server)


async def test_malformed_request_gets_4xx(server: ServerProcess) -> None:
    """Broken request lines, smuggled lengths and endless heads get the server's 4xx."""
    for raw in [
        b"\0" * 1000, b"\r\n" * 500, os.urandom(4096), b"GET\r\n\r\n", b"GET /stream\r\n\r\n",
        head(b"GET /stream HTTP/9.9"), head(b"GET /stre\0am HTTP/1.1"), head(b"GET * HTTP/1.1"),
        b"\x16\x03\x01\x02\x00" * 99, head(b"GET http://evil.test/ HTTP/1.1"), b"PRI * HTTP/2\r\n",
        head(b"GET /stream?topics=\xff\xfe HTTP/1.1"), head(b"GET /%00 HTTP/1.1"),
        head(b"POST /subscribe HTTP/1.1", b"Content-Length: -1"),
        head(b"POST /subscribe HTTP/1.1", b"Content-Length: 5", b"Content-Length: 6") + b"hello",
        head(b"POST /subscribe HTTP/1.1", b"Transfer-Encoding: chunked") + b"zz\r\n\r\n",
        head(b"POST /subscribe HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 3")
        + b"0\r\n\r\nGET /" + MARK.encode() + b" HTTP/1.1\r\n\r\n",
        head(b"GET /stream?topics=t HTTP/1.1", b"X: " + b"x" * MEGABYTE),
        head(b"GET /stream?topics=" + b"t" * MEGABYTE + b" HTTP/1.1"),
        head(b"GET /stream?topics=t HTTP/1.1", *[b"X: " + MARK.encode()] * 5000),
    ]:  # fmt: skip
        await say(server, raw)
    await healthy(server)


async def test_hostile_body_gets_its_documented_answer(server: ServerProcess) -> None:
    """Bodies that are not JSON, too long, cut off or abandoned get their documented answer."""
    for path in (b"/subscribe", b"/ack", b"/test-connection"):
        line = b"POST " + path + b" HTTP/1.1"
        for text in [*NOT_JSON[:36], MARK]:
            body = text.encode("utf-8", "surrogatepass")
            said = await request_raw(server, line, body)
            assert said.split()[1] in (b"400", b"404"), text[:40]
            assert MARK.encode() not in said
        assert b" 413 " in await request_raw(server, line, b" " * 65_537)
        chunked = head(line, b"Transfer-Encoding: chunked")
        piece = b"1000\r\n" + b" " * 4096 + b"\r\n"
        assert b" 413 " in await say(server, chunked, *[piece] * 20)
        await say(server, head(line, b"Content-Length: 1000") + b'{"a":', reset=True)
    await healthy(server)


async def request_raw(server: ServerProcess, line: bytes, body: bytes) -> bytes:
    """Send one request with a body. Returns the whole response."""
    reader, writer = await asyncio.open_connection(HOST, server.port)
    try:
        length = b"Content-Length: " + str(len(body)).encode()
        writer.write(head(line, length, b"Connection: close") + body)
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    finally:
        writer.close()


async def test_invalid_websocket_message_is_answered(server: ServerProcess) -> None:
    """Every invalid message on a real WebSocket is answered, and the connection continues."""
    texts = [t for t in [*NOT_JSON, *NOT_TYPED, *TEXTS] if t.isprintable() and len(t) < 60_000]
    for first in range(0, len(texts), 100):  # within the burst that one client may send
        async with open_socket(server.port) as socket:
            await socket.frame()
            for text in texts[first : first + 100]:
                await socket.send(text)
                answer = await socket.frame()
                assert answer["type"] == "error", text
                assert answer["data"]["code"] in ("not_json", "no_type")
            await socket.send({"type": "ping"})
            assert (await socket.frame())["type"] == "pong"
    await healthy(server)


def frame(opcode: int, payload: bytes = b"", *, first: int = 0x80, mask: bool = True) -> bytes:
    """Return a malformed WebSocket frame (RFC 6455, section 5.2)."""
    size = len(payload)
    bit = 0x80 if mask else 0
    if size < 126:
        length = bytes([bit | size])
    elif size < 65_536:
        length = bytes([bit | 126]) + struct.pack("!H", size)
    else:
        length = bytes([bit | 127]) + struct.pack("!Q", size)
    return bytes([first | opcode]) + length + (b"\0\0\0\0" if mask else b"") + payload


@pytest.mark.slow
async def test_malformed_frame_ends_only_its_socket(server: ServerProcess) -> None:
    """Broken frames, bad UTF-8, endless fragments and ping floods end only their own socket."""
    upgrade = head(
        b"GET /websocket?topics=t HTTP/1.1", b"Upgrade: websocket", b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)),
    )  # fmt: skip
    ping = json.dumps({"type": "ping"}).encode()
    for raw in [
        frame(1, b"\xff\xfe"), frame(1, b"\xed\xa0\x80"), frame(1, ping, mask=False),
        frame(3, b"x"), frame(11, b"x"), frame(1, ping, first=0xF0), frame(9, b"x" * 126),
        frame(8, b"\x03"),
        frame(8, b"\x03\xe8\xff"), frame(8, struct.pack("!H", 1005)), frame(0, b"x"),
        frame(1, b"{", first=0) + frame(1, b"}"), b"\x81\xff" + struct.pack("!Q", 2**63),
        b"\x81\xff" + struct.pack("!Q", 2**40) + b"\0" * 4 + b"x" * 1000, b"\x81", os.urandom(999),
        frame(1, b"x" * (17 * MEGABYTE)), frame(2, b"\0" * MEGABYTE), frame(9) * 20_000,
        frame(1, ping) * 2_000, frame(1, b"{", first=0) + frame(0, b" " * 1000, first=0) * 2_000,
        frame(10, b"x") * 5_000,
    ]:  # fmt: skip
        for reset in (False, True):
            await say(server, upgrade, raw, reset=reset)
    await healthy(server)


async def test_no_resource_is_left(server: ServerProcess) -> None:
    """After all other tests, no connection, task or open file of theirs is left."""
    left = {"connections": -1}
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while left["connections"] and asyncio.get_running_loop().time() < deadline:
        left = (await request(server.port, "GET", "/internals")).json()
    assert left["connections"] == 0
    assert left["tasks"] < 20, left
    assert left["descriptors"] < 60, left
