"""Outbox: the one place where a task waits for a connection's messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..core.connection import CloseReason, Connection, Event, State
from ..core.cursor import Cursor, EventId
from ..core.delivery.lanes import CHUNK_BYTES
from ..core.delivery.window import Window
from ..core.log.pages import PageRequest
from ..core.message import Gap
from ..core.tokens import Position, Token
from . import frames
from .frames import Frame
from .inline_send import InlineSender

if TYPE_CHECKING:
    from .node import Node
    from .subscriptions import MaySubscribe

CONTROL_FRAMES = 64
"""A client that asks faster than it reads the answers is closed beyond this."""


class Outbox:
    """What leaves for one connection, and the task that waits for it.

    One task at a time waits in `next`. Everything else is synchronous, of the same event loop.

    Invariants (tests/runtime/test_connection.py): `next` ends after the connection is closed,
    whoever closed it; a cancelled `next` has handed over nothing; nothing leaves a lane while a
    better one holds, or has still to read, anything.
    """

    __slots__ = (
        "_closing_sent",
        "_control",
        "_first",
        "_flushed",
        "_node",
        "abort",
        "accounted",
        "blocked_since",
        "bytes_sent",
        "connection",
        "epoch",
        "frames_sent",
        "last_sent",
        "may_subscribe",
        "pipe",
        "token",
        "waiter",
        "window",
    )

    def __init__(
        self, node: Node, connection: Connection, token: Token, may_subscribe: MaySubscribe | None
    ) -> None:
        self._node = node
        self._control: tuple[bytes, ...] = ()
        self._first: Frame | None = None
        self.waiter: asyncio.Future[None] | None = None
        """What `next` waits for, if it does."""
        self._closing_sent = False
        self._flushed: asyncio.Event | None = None
        self.epoch = node.epoch
        self.connection = connection
        self.token = token
        self.may_subscribe = may_subscribe
        self.frames_sent = self.bytes_sent = 0
        self.last_sent = connection.opened_at
        self.blocked_since: float | None = None
        """When the transport began to send what it is still sending (monotonic seconds)."""
        self.window: Window | None = None
        """What is unacknowledged; `None` for a client that does not acknowledge."""
        self.pipe: InlineSender | None = None
        """Where the fan-out may send on the spot; the transport sets it."""
        self.abort: Callable[[], None] = _nothing_to_abort
        """Ends the transport at once, whatever it is doing; the transport sets it."""
        self.accounted = False
        """Whether its account has been added to the node's."""

    # -- what the fan-out and the edges call ---------------------------------------------------

    def wake(self) -> None:
        """Let `next` look again; harmless at any time."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def put(self, body: bytes) -> None:
        """Queue a control frame; these go before messages, in order."""
        if len(self._control) >= CONTROL_FRAMES:
            self.close(CloseReason.ABUSE)
        else:
            self._control += (body,)
            self.wake()

    def begin(self, hello: bytes) -> None:
        """Set the first frame. Its id is the cursor of now, before anything else can happen."""
        self._first = Frame(hello, self.event_id())

    def open_window(self) -> None:
        """From now on the client acknowledges, unless the window is switched off."""
        limit = self._node.options.window_bytes
        if self.window is None and limit is not None:
            self.window = Window(limit)

    def close(self, reason: CloseReason) -> None:
        """End the connection from this side: one closing frame, and no more messages."""
        before = self.connection.state
        if self.connection.handle(Event.CLOSE, reason) is not before:
            self._node.upkeep.hurry(self)
            self.wake()

    def lost(self) -> None:
        """The peer is gone, or a send failed."""
        self.connection.handle(Event.LOST)
        if self._flushed is not None:
            self._flushed.set()
        self.wake()

    def seen(self) -> None:
        """The client gave a sign of life."""
        self.connection.last_seen = self._node.monotonic()

    def acknowledge(self, text: str) -> bool:
        """The client echoed an event id of this connection: it has all that came up to it.

        That is the resume point from now on (`Connection.acknowledge`), and makes room in the
        window, which the first acknowledgement opens at the latest. `False`: it changed nothing.
        """
        parsed = EventId.parse(text)
        if parsed is None or parsed.epoch != self.epoch or parsed.token != self.token:
            return False
        self.seen()
        position = Position(parsed.epoch, parsed.cursor)
        if not self.connection.acknowledge(position, self.cursor()):
            return False
        self.open_window()
        if self.window is not None:
            self.window.acknowledge(parsed.cursor, self._node.monotonic())
            self.wake()
        return True

    # -- what the transport calls --------------------------------------------------------------

    async def next(self) -> list[Frame] | None:
        """Wait for what is to be sent, and return all of it up to `CHUNK_BYTES`, best lane first.

        `None`: the connection is over, nothing follows. Cancellation takes nothing out.
        """
        has_paused = False
        while True:
            if self.pipe is not None and self.pipe.is_busy:
                await self.pipe.finish()
                self.sent()
            if self._control or self.connection.state is not State.OPEN:
                return self._control_frames() or None  # there is a first one until it is OPEN
            if self.window is not None and not self.window.room:
                await self._woken()  # for an acknowledgement
                continue
            request = self.connection.delivery.request(self._node.ingested)
            if request is not None:
                if not has_paused:
                    await asyncio.sleep(0)  # a long replay gives way to everybody else
                    has_paused = True
                elif page := await self._read(request):
                    return page
            elif self.connection.delivery.is_empty:
                await self._woken()
            elif messages := self._take():
                return messages  # else all of it had expired, and there may be more to read

    def sent(self) -> None:
        """The server took what `next` returned."""
        self.last_sent = self._node.monotonic()
        self.blocked_since = None
        if self._flushed is not None and not self._control:
            self._flushed.set()
            self._flushed = None

    async def flushed(self) -> bool:
        """Wait until the server has taken all control frames; `False` if the connection ended.

        The first frame is one of them.
        """
        if self._first is not None or self._control or self.blocked_since is not None:
            if self._flushed is None:
                self._flushed = asyncio.Event()
            await self._flushed.wait()
        return self.connection.state is not State.CLOSED

    def cursor(self) -> Cursor:
        """Where the connection stands, all that was handed over counted as settled."""
        return self.connection.delivery.cursor(self._node.ingested)

    def event_id(self) -> str:
        """The event id of now."""
        return self.id_at(self.cursor())

    def id_at(self, cursor: Cursor) -> str:
        """The event id of a client that stands at `cursor`."""
        return f"{self.epoch}~{cursor}~{self.token}"

    # ------------------------------------------------------------------------------------------

    def _control_frames(self) -> list[Frame]:
        state = self.connection.state
        if state is State.CLOSED:
            return []
        out: list[Frame] = []
        if self._first is not None:
            out.append(self._first)
            self._first = None
            self.connection.handle(Event.READY)
        out += [Frame(body, self.event_id()) for body in self._control]
        self._control = ()
        reason = self.connection.close_reason
        if state is State.CLOSING and reason is not None and not self._closing_sent:
            self._closing_sent = True
            out.append(Frame(frames.closing(reason, self._node.clock()), self.event_id()))
        self._count(len(out), sum([len(frame.body) for frame in out]))
        return out

    async def _read(self, request: PageRequest) -> list[Frame]:
        """Read a page; what of it is to be handed over at once."""
        replayed = await self._node.read_page(self.connection, request, self._room())
        if replayed is None:
            return []
        ids = replayed.ids(self.epoch, self.token)
        out = list(map(Frame, [message.body for message in replayed.page.messages], ids))
        self._await_acknowledgement(out, replayed.cursors())
        self._count(len(out), replayed.page.size)
        return out

    def _take(self) -> list[Frame]:
        """What is held, as far as there is room for it and nothing has to be read first."""
        delivery, now, room = self.connection.delivery, self._node.clock(), self._room()
        out, cursors = list[Frame](), list[Cursor]()
        while room > 0 and (entry := delivery.take(now)) is not None:
            if isinstance(entry, Gap):
                self._node.count_gap(entry)
                body = frames.gap(entry, now)
            else:
                body = entry.body
            cursors.append(self.cursor())
            out.append(Frame(body, self.id_at(cursors[-1])))
            room -= len(body)
            if delivery.request(self._node.ingested) is not None:
                break  # something better, or the next page, has to be read first
        self._await_acknowledgement(out, cursors)
        self._count(len(out), sum([len(frame.body) for frame in out]))
        return out

    def _room(self) -> int:
        """Bytes that may be handed over at once."""
        return CHUNK_BYTES if self.window is None else min(CHUNK_BYTES, self.window.room)

    def _await_acknowledgement(self, out: list[Frame], cursors: Iterable[Cursor]) -> None:
        """Note messages and gaps in the window, each with the cursor right after it."""
        if self.window is not None:
            now = self._node.monotonic()
            for frame, cursor in zip(out, cursors, strict=True):
                self.window.sent(cursor, len(frame.body) + len(frame.id), now)

    def _count(self, count: int, size: int) -> None:
        """So many frames, with bodies of `size` bytes in all, are on their way to the server."""
        if count:
            self.blocked_since = self._node.monotonic()
            self.frames_sent += count
            self.bytes_sent += size

    def _woken(self) -> asyncio.Future[None]:
        """What ends with the next `wake`; done, too, when whoever waits for it is cancelled."""
        if self.waiter is not None and not self.waiter.done():
            raise RuntimeError("two tasks wait in one outbox")
        self.waiter = asyncio.get_running_loop().create_future()
        return self.waiter


def _nothing_to_abort() -> None:
    pass
