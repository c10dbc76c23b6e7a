"""A TCP proxy that can cut what goes through it."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class Proxy:
    """Forwards connections on a port of its own to ``127.0.0.1:target``.

    ``cut`` resets every connection at once, on both sides, as a lost network does.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._pairs: dict[
            asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter]
        ] = {}
        self.port = 0
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        self.cut()
        if self._pairs:
            await asyncio.wait(list(self._pairs))

    def cut(self) -> int:
        """Reset every connection; return how many those were."""
        pairs = list(self._pairs.values())
        for pair in pairs:
            for writer in pair:
                sock = writer.get_extra_info("socket")
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                writer.transport.abort()
        self.cuts += bool(pairs)
        return len(pairs)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._pairs[task] = (writer, to_upstream)
        try:
            await asyncio.gather(_copy(reader, to_upstream), _copy(upstream, writer))
        finally:
            del self._pairs[task]
            writer.close()
            to_upstream.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
