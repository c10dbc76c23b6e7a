"""FeedReader: follows the feed of the namespace, one per process."""

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
from .replica import Replica
from .script import HEAD, LogState, Operation
from .script_client import UNREACHABLE, Client, ScriptClient, connection_settings
from .timeouts import cancel_and_wait, run_with_timeout

_logger = logging.getLogger("holdfast")

BLOCK = 1.0
"""Seconds for which the server may keep a read open. A probe follows a read without entries."""

ENTRIES_PER_READ = 256
"""At most; a message has at most 64 KiB by default, and 256 of them 16 MiB."""

READ_GRACE = 2.0
"""Seconds beyond `BLOCK` until a read has failed; a busy process may be one second late."""

RETRY_DELAY = 0.2
"""Seconds between attempts to read a feed that cannot be read."""

FOREIGN_ENTRY_DELAY = 0.1
"""Seconds between reads of a feed at whose end another program has written."""


class FeedReader:
    """Copies the feed into a `Replica` and a `Feed`.

    A silent connection is noticed: after each second without entries, the reader asks for the head
    of the log over another connection, and reads the entries that it lacks over that one.

    Args:
        client: An asyncio client of redis-py.
        scripts: Runs operations of the script.
        prefix: The prefix of all keys (`keys.prefix`).
        retention: The bounds of the replica.
        configure: Called when the namespace has lost its limits; it submits them again.
    """

    def __init__(
        self,
        client: Client,
        scripts: ScriptClient,
        prefix: str,
        retention: Retention,
        configure: Callable[[], None],
    ) -> None:
        self.feed = Feed()
        self.replica = Replica(retention, OFFSET_ZERO)
        self.foreign_entries = 0
        """The number of entries in the feed that another program wrote; they count as lost."""
        self._client = client
        self._scripts = scripts
        self._prefix = prefix
        self._retention = retention
        self._configure = configure
        self._log_state: LogState | None = None
        self._is_following = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read what the feed holds, and follow it from there on.

        Raises:
            BrokerUnavailable: Redis does not reply.
            OutcomeUnknown: Redis stopped replying.
            WrongThread: The client belongs to another event loop.
        """
        self._log_state, self._is_following = None, True
        await self._scripts.call(HEAD)
        # Most clients that return need nothing older than the oldest entry of the feed.
        oldest = await self._scripts.call(Operation("read_feed", (0, 1)))
        state = self._known_state()
        first = entries.offset_of(oldest[0][0]) if oldest else Offset(state.head + 1)
        base = Offset(first - 1)
        self.replica = Replica(self._retention, base)
        self.feed.restart(Head(state.epoch, base, state.forks))
        self._task = asyncio.create_task(self._run(), name="holdfast redis feed")
        await self.wait_for(self.head)

    async def stop(self) -> None:
        """Stop following. Tasks that wait for the feed get `NotRunning`."""
        task, self._task = self._task, None
        self._is_following = False
        self.feed.close()
        if task is not None:
            await cancel_and_wait(task)

    def update_log_state(self, state: LogState) -> None:
        """Take the state of the log from a reply; the log may be another one than before."""
        if not self._is_following:
            return
        before, self._log_state = self._log_state, state
        if not state.is_configured:
            self._configure()
        if before is None or (before.epoch, before.log_id) == (state.epoch, state.log_id):
            return
        common = state.forks.get(before.epoch) if before.log_id == state.log_id else None
        if common is None:
            self.replica = Replica(self._retention, OFFSET_ZERO)
        elif common < self.replica.head:
            self.replica = Replica(self._retention, common)
        self.feed.restart(Head(state.epoch, self.replica.head, state.forks))

    def is_in_epoch(self, epoch: Epoch) -> bool:
        """Return True if `epoch` is the current epoch of the log."""
        return self._log_state is not None and self._log_state.epoch == epoch

    @property
    def head(self) -> Offset:
        """The head of the log, as the last reply had it; never behind the replica."""
        return self._known_state().head

    def lacks(self, offset: Offset) -> bool:
        """Return True if the replica is behind `offset`, or behind the head where that is less."""
        return self.replica.head < min(offset, self.head)

    async def wait_for(self, offset: Offset) -> None:
        """Wait until the replica has `offset`, for at most `BLOCK` seconds, while Redis replies.

        The head of a busy log is always ahead of the replica: pass a head that was read before.
        """
        try:
            async with asyncio.timeout(BLOCK):
                while self.lacks(offset) and self._scripts.is_available:
                    self.feed.current_head()
                    await self.feed.wait()
        except TimeoutError:
            pass

    # ------------------------------------------------------------------------------------------

    def _known_state(self) -> LogState:
        assert self._log_state is not None
        return self._log_state

    async def _run(self) -> None:
        try:
            is_readable = True
            while True:
                try:
                    await self._read()
                    is_readable = True
                except (*UNREACHABLE, BrokerUnavailable, OutcomeUnknown) as error:
                    if is_readable:
                        _logger.warning("the feed cannot be read, trying again: %r", error)
                    is_readable = False
                    await self._catch_up()
        except Exception as error:
            _logger.exception("the reader of the feed failed")
            self.feed.close(error)

    async def _read(self) -> None:
        """Read the feed once, and probe if that adds nothing to the replica."""
        replica, state = self.replica, self._known_state()
        before = replica.head
        feed = f"{self._prefix}:{state.log_id}:feed"
        block = max(1, int(min(BLOCK, self._socket_timeout() / 2) * 1000))  # 0 has no end
        reading = self._client.execute_command(
            "XREAD", "COUNT", ENTRIES_PER_READ, "BLOCK", block, "STREAMS", feed, f"{before}-0"
        )
        found = _entries(await run_with_timeout(BLOCK + READ_GRACE, reading))
        if found and self._known_state().epoch != state.epoch:
            return  # the entries are of a log that is gone
        if not found or not self._ingest(found):
            await self._probe()
            if found and self.replica is replica and replica.head == before:
                # Another program's entry is at the end of the feed: XREAD returns it at once.
                await asyncio.sleep(FOREIGN_ENTRY_DELAY)

    async def _probe(self) -> None:
        """Ask for the head of the log, and read the entries that the replica lacks."""
        await self._scripts.call(HEAD)
        replica, state = self.replica, self._known_state()
        if state.head <= replica.head:
            return
        found = await self._scripts.call(Operation("read_feed", (replica.head, ENTRIES_PER_READ)))
        if self.replica is replica and self._known_state().epoch == state.epoch:
            pairs = [(id, entries.named_fields(fields)) for id, fields in found]
            if not self._ingest(pairs):
                self._skip_to(state.head)

    async def _catch_up(self) -> None:
        """Pause, then read by probes until they add nothing."""
        await asyncio.sleep(RETRY_DELAY)
        with contextlib.suppress(BrokerUnavailable, OutcomeUnknown):
            has_grown = True
            while has_grown:
                before = self.replica.head
                await self._probe()
                has_grown = self.replica.head > before

    def _ingest(self, found: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> bool:
        """Append entries of the feed in order. Returns True if the replica has grown."""
        before, state = self.replica.head, self._known_state()
        for id, fields in found:
            try:
                offset = entries.offset_of(id)
            except ValueError:
                continue
            if offset <= self.replica.head:
                continue
            decoded = entries.decode_feed_entry(id, fields)
            is_next = offset == self.replica.head + 1
            if decoded is not None:
                epoch, _ = decoded
                if epoch != state.epoch and offset > state.forks.get(epoch, -1):
                    break  # the epoch is newer than the last reply: a probe follows
            if offset > state.head and (decoded is None or not is_next):
                break  # another program's entry, or a hole: a probe has the head of the log
            if decoded is None:
                self.foreign_entries += 1
                self._skip_to(offset)
                continue
            if not is_next:
                self._skip_to(Offset(offset - 1))
            _, message = decoded
            # An old feed is read at the time of its messages. Read at the current time, a value
            # would count as lost by age, although the feed has a newer value of its key.
            self.replica.append(message, min(message.timestamp, self._scripts.now()))
            self.feed.append(message)
        return self.replica.head > before

    def _skip_to(self, offset: Offset) -> None:
        """Begin a new replica behind a hole in the feed; the topic logs have what was there."""
        self.replica = Replica(self._retention, offset)
        self.feed.skip_to(offset)

    def _socket_timeout(self) -> float:
        timeout = connection_settings(self._client).get("socket_timeout")
        return float(timeout) if timeout else 2 * BLOCK


def _entries(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return the entries of one stream from a reply of XREAD.

    Its shape depends on the protocol (RESP2 or RESP3) and on the parser of the client.
    """
    if not reply:
        return []
    if hasattr(reply, "values"):
        (found,) = reply.values()
        found = found[0] if found and isinstance(found[0], list) else found
    else:
        found = reply[0][1]
    return [(id, entries.named_fields(fields)) for id, fields in found]
