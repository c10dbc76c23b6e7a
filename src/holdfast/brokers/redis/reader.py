"""Reader: follows the hub's feed, one per process, whatever it is that clients listen to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from ...core.cursor import Epoch, Head
from ...core.log.retention import Retention
from ...core.message import OFFSET_ZERO, Offset
from ...errors import BrokerUnavailable, OutcomeUnknown
from ..feed import Feed
from . import entries
from .bounded import stop, within
from .line import UNREACHABLE, Client, Line, connection_settings
from .replica import Replica
from .script import HEAD, End, Operation

_logger = logging.getLogger("holdfast")

BLOCK = 1.0
"""Seconds for which the server may keep a read open. A probe follows a read without result."""

ENTRIES = 256
"""Read at once, at the most; a message has 64 KiB at most by default, so 16 MiB."""

PATIENCE = 2.0
"""Seconds beyond `BLOCK` after which a line is deaf; a busy process may be late by one."""

PAUSE = 0.2
"""Seconds between attempts to read a feed that cannot be read."""

STRANGE_PAUSE = 0.1
"""Seconds between looks at a feed in which somebody else has written."""


class Reader:
    """Brings what is published into a `Replica` and a `Feed`.

    A reader that is connected and hears nothing is noticed: after every silent second it asks how
    far the log has come, by another line, and reads what it has not heard of by that line.
    """

    def __init__(
        self,
        client: Client,
        line: Line,
        prefix: str,
        retention: Retention,
        on_unconfigured: Callable[[], None],
    ) -> None:
        self.feed = Feed()
        self.end: End | None = None
        """The end of the log as far as this process knows, never behind the replica."""
        self.replica = Replica(retention, OFFSET_ZERO)
        self.skipped = 0
        """Entries that are none of ours; they count as lost."""
        self._client = client
        self._line = line
        self._prefix = prefix
        self._retention = retention
        self._on_unconfigured = on_unconfigured
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read what the feed still has, and follow it from there on."""
        self.end, self._line.on_end = None, self.note
        await self._line.call(HEAD)
        # With the oldest that is there: most who come back need nothing older.
        oldest = await self._line.call(Operation("read_feed", (0, 1)))
        end = self._known()
        first = entries.offset_of(oldest[0][0]) if oldest else Offset(end.head + 1)
        self._begin_at(Offset(first - 1), end)
        self._task = asyncio.create_task(self._run(), name="holdfast redis reader")
        await self.reach(self.head)

    async def stop(self) -> None:
        """Follow no longer; who waits gets `NotRunning`."""
        task, self._task = self._task, None
        self._line.on_end = lambda _: None
        self.feed.close()
        if task is not None:
            await stop(task)

    def note(self, end: End) -> None:
        """The server has said where the log ends: it may be another log than before."""
        before, self.end = self.end, end
        if not end.is_configured:
            self._on_unconfigured()
        if before is None or (before.epoch, before.space) == (end.epoch, end.space):
            return
        common = end.forks.get(before.epoch) if before.space == end.space else None
        if common is None:
            self.replica = Replica(self._retention, OFFSET_ZERO)
        elif common < self.replica.head:
            self.replica = Replica(self._retention, common)
        self.feed.begin(Head(end.epoch, self.replica.head, end.forks))

    def is_of(self, epoch: Epoch) -> bool:
        """Whether the log is still that of `epoch`."""
        return self.end is not None and self.end.epoch == epoch

    @property
    def head(self) -> Offset:
        """How far the log has come for certain."""
        return self._known().head

    def is_behind(self, offset: Offset) -> bool:
        """Whether something up to `offset` is known to be there, and is not here yet."""
        return self.replica.head < min(offset, self.head)

    async def reach(self, offset: Offset) -> None:
        """Wait until what is known to be there up to `offset` is here; not while Redis is away.

        The end of a log to which much is published is always a little ahead: ask for `head`.
        """
        try:
            async with asyncio.timeout(BLOCK):
                while self.is_behind(offset) and self._line.is_up:
                    self.feed.open_head()
                    await self.feed.wait()
        except TimeoutError:
            pass

    # ------------------------------------------------------------------------------------------

    def _known(self) -> End:
        assert self.end is not None
        return self.end

    def _begin_at(self, base: Offset, end: End) -> None:
        self.replica = Replica(self._retention, base)
        self.feed.begin(Head(end.epoch, base, end.forks))

    async def _run(self) -> None:
        try:
            is_heard = True
            while True:
                try:
                    await self._read()
                    is_heard = True
                except (*UNREACHABLE, BrokerUnavailable, OutcomeUnknown) as error:
                    if is_heard:
                        _logger.warning("the feed cannot be read, trying again: %r", error)
                    is_heard = False
                    await self._reconnect()
        except Exception as error:
            _logger.exception("the reader of the feed died")
            self.feed.close(error)

    async def _read(self) -> None:
        replica, end = self.replica, self._known()
        before = replica.head
        feed = f"{self._prefix}:{end.space}:feed"
        block = max(1, int(min(BLOCK, self._socket_timeout() / 2) * 1000))  # 0 is for ever
        reading = self._client.execute_command(
            "XREAD", "COUNT", ENTRIES, "BLOCK", block, "STREAMS", feed, f"{replica.head}-0"
        )
        answer = await within(BLOCK + PATIENCE, reading)
        found = _entries(answer)
        if found and self._known() is not end and self._known().epoch != end.epoch:
            return  # it was read of a log that is gone by now
        if not found or not self._ingest(found):
            await self._probe()
            if found and self.replica is replica and replica.head == before:
                await asyncio.sleep(STRANGE_PAUSE)  # not ours, and it stays in the way

    async def _probe(self) -> None:
        """Ask where the log ends; read what has not been heard of."""
        await self._line.call(HEAD)
        replica, end = self.replica, self._known()
        if end.head <= replica.head:
            return
        found = await self._line.call(Operation("read_feed", (replica.head, ENTRIES)))
        if self.replica is replica and self._known().epoch == end.epoch:
            pairs = [(id, entries.pairs(fields)) for id, fields in found]
            if not self._ingest(pairs):
                self._skip_to(end.head)

    async def _reconnect(self) -> None:
        await asyncio.sleep(PAUSE)
        with contextlib.suppress(BrokerUnavailable, OutcomeUnknown):
            is_more = True
            while is_more:
                before = self.replica.head
                await self._probe()
                is_more = self.replica.head > before

    def _ingest(self, found: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> bool:
        """Take entries of the feed, in order; whether that brought the replica on."""
        before, end = self.replica.head, self._known()
        for id, fields in found:
            try:
                offset = entries.offset_of(id)
            except ValueError:
                continue
            if offset <= self.replica.head:
                continue
            read = entries.from_feed(id, fields)
            if read is not None and read[0] != end.epoch and offset > end.forks.get(read[0], -1):
                break  # of a log that we have not heard of: ask
            if offset > end.head and (read is None or offset != self.replica.head + 1):
                break  # somebody else's, or a hole: only the end of the log tells
            if read is None:
                self.skipped += 1
                self._skip_to(offset)
                continue
            if offset != self.replica.head + 1:
                self._skip_to(Offset(offset - 1))
            message = read[1]
            # As it was then: what is superseded later in the feed must not have grown old before.
            self.replica.append(message, min(message.timestamp, self._line.now()))
            self.feed.append(message)
        return self.replica.head > before

    def _skip_to(self, offset: Offset) -> None:
        """There is a hole in the feed: who wants to know what was there asks for its log."""
        self.replica = Replica(self._retention, offset)
        self.feed.skip_to(offset)

    def _socket_timeout(self) -> float:
        timeout = connection_settings(self._client).get("socket_timeout")
        return float(timeout) if timeout else 2 * BLOCK


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of one stream, whichever protocol (RESP2 or 3) and parser the client has."""
    if not answer:
        return []
    if hasattr(answer, "values"):
        (found,) = answer.values()
        found = found[0] if found and isinstance(found[0], list) else found
    else:
        found = answer[0][1]
    return [(id, entries.pairs(fields)) for id, fields in found]
