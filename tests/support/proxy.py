"""A TCP proxy that cuts, slows down, stalls or discards the data of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from tests.support.sockets import reset_on_close

HOST = "127.0.0.1"

CutKind = Literal["fin", "rst"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The fault of one connection; by default there is none.

    `cut_after` cuts both sides after as many bytes to the client (0: at once), by `how`. `rate`
    limits the bytes per second to the client.
    """

    cut_after: int | None = None
    how: CutKind = "rst"
    rate: float | None = None


class Link:
    """One connection through the proxy."""

    def __init__(
        self,
        fault: Fault,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.fault = fault
        self.to_client = 0
        """Bytes sent to the client."""
        self.is_cut = False
        self._from_client, self._client = reader, writer
        self._server: asyncio.StreamWriter | None = None
        self._discards = False
        self._open = asyncio.Event()
        self._open.set()

    @property
    def server_port(self) -> int | None:
        """Return the port from which the server sees this connection."""
        sockname = self._server and self._server.get_extra_info("sockname")
        return sockname[1] if sockname else None

    def cut(self, how: CutKind = "rst") -> None:
        """End both sides at once: by RST, as a lost network does, or by FIN."""
        self.is_cut = True
        for writer in filter(None, (self._client, self._server)):
            if how == "rst":
                reset_on_close(writer.get_extra_info("socket"))
                writer.transport.abort()
            else:
                writer.close()

    def discard(self) -> None:
        """Make the connection half-open: discard all data, and hide the end of either side."""
        self._discards = True

    def stall(self) -> None:
        """Take nothing more from the server, so that its output fills the server's buffers."""
        self._open.clear()

    def resume(self) -> None:
        """Continue after `stall`."""
        self._open.set()

    async def run(self, target: int) -> None:
        """Copy in both directions until both sides have ended."""
        # A slow link has no large buffer of its own.
        limit = 65536 if self.fault.rate is None else 2048
        from_server, self._server = await asyncio.open_connection(HOST, target, limit=limit)
        if self.fault.cut_after == 0:
            self.cut(self.fault.how)
        await asyncio.gather(self._up(self._server), self._down(from_server))
        if self._discards and not self.is_cut:
            await asyncio.Event().wait()  # until the proxy ends: neither side notices

    async def _up(self, server: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await self._from_client.read(65536):
                if not self._discards:
                    server.write(data)
                    await server.drain()
            if not self._discards:
                server.write_eof()

    async def _down(self, server: asyncio.StreamReader) -> None:
        rate, cut_after = self.fault.rate, self.fault.cut_after
        piece = 65536 if rate is None else max(1, min(65536, int(rate / 50)))
        with suppress(OSError):
            while data := await server.read(piece):
                await self._open.wait()
                if rate is not None:
                    await asyncio.sleep(len(data) / rate)
                if self._discards:
                    continue
                if cut_after is not None:
                    data = data[: cut_after - self.to_client]
                self.to_client += len(data)
                self._client.write(data)
                if self.to_client == cut_after:
                    self.cut(self.fault.how)
                    return
                await self._client.drain()
            if not self._discards:
                self._client.write_eof()


class Proxy:
    """Forward connections on a port of its own to `127.0.0.1:target`.

    `fault(n)` returns the fault of the n-th connection (from 0). `links` are the open connections.
    `target` and `fault` may be changed at any time, for new connections.
    """

    def __init__(self, target: int, fault: Callable[[int], Fault] = lambda _: Fault()) -> None:
        self.target = target
        self.fault = fault
        self.port = 0
        self.opened = 0
        self.cuts = 0
        self.links: dict[Link, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0, backlog=4096)
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
        tasks = list(self.links.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def cut(self, how: CutKind = "rst") -> int:
        """Cut every connection. Returns their number."""
        links = [link for link in self.links if not link.is_cut]
        for link in links:
            link.cut(how)
        self.cuts += bool(links)
        return len(links)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = Link(self.fault(self.opened), reader, writer)
        self.opened += 1
        self.links[link] = task
        try:
            await link.run(self.target)
        except (OSError, asyncio.CancelledError):
            pass  # no server listens on the target, or `__aexit__` waits for the end of this task
        finally:
            del self.links[link]
            if not link.is_cut:
                link.cut("fin")
