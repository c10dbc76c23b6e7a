"""Connection: one stream to one client. A task waits in it for frames to send."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from ..brokers.protocol import Broker
from ..core import frames
from ..core.cursor import Cursor, EventId, Head, Position, format_event_id
from ..core.delivery.lanes import CHUNK_BYTES, Delivery
from ..core.delivery.window import Window
from ..core.frames import Frame
from ..core.lifecycle import ConnectionEvent, ConnectionState, transition
from ..core.log.pages import PageRequest, Subscriptions
from ..core.message import Gap, UserId
from ..core.tokens import ConnectionId, Session, Token
from ..core.topics import covering
from ..errors import BrokerUnavailable, OutcomeUnknown
from ..reasons import Reason
from .clock import Clock
from .inline_send import BatchRenderer, InlineSender
from .options import Options
from .statistics import ConnectionStatistics, Counters
from .timers import ConnectionTimers

MaySubscribe = Callable[[str], bool | Awaitable[bool]]
"""A plain or coroutine function of a topic or pattern: True if the client may subscribe to it."""

MAX_CONTROL_FRAMES = 64
"""Control frames that wait for one client, at most. The connection is closed beyond that, because
the client sends commands faster than it reads the answers."""

READ_RETRY_DELAY = 0.5
"""Seconds until a page is requested again after the broker did not answer."""

HEARTBEAT_JITTER = 0.25
"""The part of a heartbeat interval by which a heartbeat may come earlier."""

CLOSING_TIMEOUT = 1.0
"""Seconds that a send may take while the connection is closing."""

IDLE_CHECK = 30.0
"""Seconds until a connection without a nearer deadline is checked."""


class DeliveredLog:
    """The place of a node in the log. The node moves it, and its connections read it.

    Attributes:
        broker: The broker that has the log.
        epoch: The epoch of the log.
        delivered_offset: The offset up to which the live feed was offered to the connections.
    """

    __slots__ = ("broker", "delivered_offset", "epoch")

    def __init__(self, broker: Broker, head: Head) -> None:
        self.broker = broker
        self.epoch, self.delivered_offset = head.epoch, head.offset

    @property
    def head(self) -> Head:
        """The epoch and the delivered offset, for `Broker.follow`."""
        return Head(self.epoch, self.delivered_offset)

    def advance(self, head: Head) -> None:
        """Move to `head`, which may be in another epoch."""
        self.epoch, self.delivered_offset = head.epoch, head.offset

    @property
    def resumable_for(self) -> float:
        """Seconds that a session can be resumed after its connection has ended."""
        lifetime, age = self.broker.token_lifetime, self.broker.history_age
        return lifetime if age is None else min(lifetime, age)


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """The parts of a node that all of its connections share."""

    options: Options
    clock: Clock
    log: DeliveredLog
    timers: ConnectionTimers


class Connection:
    """One stream to one client, from its first frame to its end.

    An application gets a connection from `Broadcaster.connect`, and passes it to a transport
    (`holdfast.transports`). One task at a time may wait in `next_frames`. All methods belong to
    the event loop of the Broadcaster.

    Attributes:
        id: The id that the client sees.
        user: The identified user, `None` for an unidentified client.
        session: The state that outlives the connection. A change replaces the whole record.
        subscriptions: Topic or pattern → `since`. A change replaces the whole mapping.
        token: The reconnect token. Do not log it.
        transport: "sse", "websocket", "poll" or the application's own word.
        may_subscribe: The function that `Broadcaster.connect` got; `None` allows all topics.
        state: The state in the table of `core.lifecycle`.
        close_reason: The first reason for which the server closed the connection, or `None`.
        delivery: The pending messages, lane by lane.
        frames_sent: Frames that were sent. They may still be lost on their way.
        bytes_sent: The bytes of their bodies.

    Invariants (tests/runtime/test_connection.py): `next_frames` returns after either side has
    closed the connection; a cancelled `next_frames` has taken no frame; `next_frames` returns no
    message while a better lane has one pending or still to be read.
    """

    __slots__ = (
        "__weakref__",
        "_abort",
        "_blocked_since",
        "_closing_sent",
        "_context",
        "_control",
        "_epoch",
        "_expires_at",
        "_first",
        "_flushed",
        "_gaps_sent",
        "_last_seen",
        "_last_sent",
        "_messages_lost",
        "_opened_at",
        "_sender",
        "_waiter",
        "_window",
        "bytes_sent",
        "close_reason",
        "delivery",
        "frames_sent",
        "id",
        "may_subscribe",
        "session",
        "state",
        "subscriptions",
        "token",
        "transport",
        "user",
    )

    def __init__(
        self,
        context: ConnectionContext,
        id: ConnectionId,
        session: Session,
        token: Token,
        delivery: Delivery,
        *,
        transport: str = "custom",
        acknowledges: bool = False,
        expires_at: float | None = None,
        may_subscribe: MaySubscribe | None = None,
    ) -> None:
        self._context = context
        self._epoch = context.log.epoch
        self.id = id
        self.user: UserId | None = session.user
        self.session = session
        self.subscriptions: Subscriptions = session.subscriptions
        self.token = token
        self.delivery = delivery
        self.transport = transport
        self.may_subscribe = may_subscribe
        self.state = ConnectionState.OPENING
        self.close_reason: Reason | None = None
        self.frames_sent = self.bytes_sent = 0
        self._gaps_sent = self._messages_lost = 0
        self._opened_at = self._last_seen = self._last_sent = context.clock.monotonic()
        self._expires_at = expires_at
        self._blocked_since: float | None = None  # the begin of a send that has not ended
        self._window: Window | None = None
        self._control: tuple[bytes, ...] = ()
        self._first: Frame | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._closing_sent = False
        self._flushed: asyncio.Event | None = None
        self._sender: InlineSender | None = None
        self._abort: Callable[[], None] | None = None
        if acknowledges:
            self._open_window()

    def __repr__(self) -> str:
        return f"<Connection {self.id[:8]}… {self.transport} {self.state.value}>"

    @property
    def is_over(self) -> bool:
        """True if the client has disconnected or the transport has returned."""
        return self.state is ConnectionState.CLOSED

    @property
    def window_size(self) -> int | None:
        """Bytes that may be unacknowledged; `None` if the client does not acknowledge."""
        return None if self._window is None else self._window.size

    # -- the position --------------------------------------------------------------------------

    @property
    def cursor(self) -> Cursor:
        """The cursor: the offset up to which each lane was sent."""
        return self.delivery.cursor(self._context.log.delivered_offset)

    @property
    def event_id(self) -> str:
        """The event id at `cursor`."""
        return format_event_id(self._epoch, self.cursor, self.token)

    def _id_at(self, cursor: Cursor) -> str:
        return format_event_id(self._epoch, cursor, self.token)

    def last_session(self) -> Session:
        """Return the session to keep if the connection ends now."""
        return self.session.with_sent_position(Position(self._epoch, self.cursor))

    def acknowledge(self, event_id: str) -> bool:
        """Record that the client has handled all frames up to an event id.

        The session resumes from there, and the window gets room. The first acknowledgement opens
        the window, if it is not open yet.

        Args:
            event_id: An event id of this connection.

        Returns:
            False, without any effect, if the id is of another connection, beyond the sent frames
            or before the last acknowledged id, or if another connection has taken over the
            session.
        """
        parsed = EventId.parse(event_id)
        if parsed is None or parsed.epoch != self._epoch or parsed.token != self.token:
            return False
        self.mark_seen()
        if self.close_reason is Reason.TAKEN_OVER:
            return False
        session = self.session.acknowledge(Position(parsed.epoch, parsed.cursor), self.cursor)
        if session is None:
            return False
        self.session = session
        self._open_window()
        if self._window is not None:
            self._window.acknowledge(parsed.cursor, self._context.clock.monotonic())
            self.wake()
        return True

    def _open_window(self) -> None:
        """Limit the unacknowledged bytes from now on, unless the window is switched off."""
        limit = self._context.options.window_bytes
        if self._window is None and limit is not None:
            self._window = Window(limit)

    # -- called by the node --------------------------------------------------------------------

    def open(self, first_frame: bytes) -> None:
        """Set the first frame, and begin to check deadlines.

        The event id of the first frame is that of the cursor now, before the node registers the
        connection. Afterwards, the cursor moves with the live feed.
        """
        self._first = Frame(first_frame, self.event_id)
        self._context.timers.add(self, self._next_deadline(self._opened_at))

    def finish(self) -> None:
        """Set the state to closed, because the transport has returned."""
        self._handle(ConnectionEvent.FINISHED)
        self._context.timers.remove(self)
        self.wake()

    def replace_session(self, session: Session) -> None:
        """Replace the session record, for example after a change of the subscriptions."""
        self.session = session

    def replace_subscriptions(self, subscriptions: Subscriptions) -> None:
        """Replace the subscriptions, and drop pending messages of topics that none covers."""
        removed = self.subscriptions.keys() - subscriptions.keys()
        self.subscriptions = subscriptions

        def unwanted(topic: str) -> bool:
            return any(covering(removed, topic)) and not any(covering(subscriptions, topic))

        if removed:
            self.delivery.discard(unwanted)

    def count_into(self, counters: Counters) -> None:
        """Add the counts of this connection to `counters`."""
        counters.add(
            frames_sent=self.frames_sent,
            bytes_sent=self.bytes_sent,
            gaps=self._gaps_sent,
            lost=self._messages_lost,
            buffer=self.delivery.buffer.statistics(),
        )

    def statistics(self) -> ConnectionStatistics:
        """Return the counts of this connection, at this moment."""
        now = self._context.clock.monotonic()
        return ConnectionStatistics(
            connection_id=self.id,
            user=self.user,
            transport=self.transport,
            state=self.state.value,
            age=now - self._opened_at,
            idle=now - self._last_seen,
            topics=len(self.subscriptions),
            live=self.delivery.is_live,
            frames_sent=self.frames_sent,
            bytes_sent=self.bytes_sent,
            unacknowledged=None if self._window is None else self._window.unacknowledged,
            buffer=self.delivery.buffer.statistics(),
        )

    # -- called from anywhere in the event loop ------------------------------------------------

    def wake(self) -> None:
        """Let `next_frames` check for frames again; a superfluous call has no effect."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def put_control(self, body: bytes) -> None:
        """Queue a control frame, which is sent before all messages.

        Args:
            body: A JSON object in UTF-8, on one line, with a member `type` (docs/protocol.md,
                section 4).
        """
        if len(self._control) >= MAX_CONTROL_FRAMES:
            self.close(Reason.TOO_MANY_MESSAGES)
        else:
            self._control += (body,)
            self.wake()

    def close(self, reason: Reason) -> None:
        """Close the connection: it sends one closing frame, and no more messages.

        Args:
            reason: The reason in the closing frame. A second call does not change it.
        """
        before = self.state
        if self._handle(ConnectionEvent.CLOSE, reason) is not before:
            deadline = self._context.clock.monotonic() + CLOSING_TIMEOUT
            self._context.timers.expedite(self, deadline)
            self.wake()

    def mark_lost(self) -> None:
        """Set the state to closed, because the client has disconnected or a send failed."""
        self._handle(ConnectionEvent.LOST)
        if self._flushed is not None:
            self._flushed.set()
        self.wake()

    def mark_seen(self) -> None:
        """Record a sign of life from the client, which restarts its idle timeout."""
        self._last_seen = self._context.clock.monotonic()

    def _handle(self, event: ConnectionEvent, reason: Reason | None = None) -> ConnectionState:
        following = transition(self.state, event)
        if following is ConnectionState.CLOSING and self.close_reason is None:
            self.close_reason = reason
        self.state = following
        return following

    # -- called by the transport ---------------------------------------------------------------

    def attach_sender(self, sender: InlineSender) -> None:
        """Allow the fan-out to send inline, until `detach_sender` is called."""
        self._sender = sender

    def detach_sender(self) -> None:
        """Stop inline sending, and abandon a send that waits."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()

    def on_abort(self, callback: Callable[[], None]) -> None:
        """Set the function that ends the transport at once, called after `send_timeout`."""
        self._abort = callback

    async def next_frames(self) -> list[Frame] | None:
        """Wait for frames to send, the best lane first.

        The transport sends all of them, then calls `mark_sent`.

        Returns:
            At least one frame, and about 64 KiB at most; `None` after the end of the connection.

        Raises:
            RuntimeError: Another task waits in `next_frames` of this connection.

        Cancellation:
            No frame is taken.
        """
        has_yielded = False
        while True:
            if self._sender is not None and self._sender.is_busy:
                await self._sender.finish()
                self.mark_sent()
            if self._control or self.state is not ConnectionState.OPEN:
                # A connection that is still opening has a first frame, so `None` means the end.
                return self._take_control() or None
            if self._window is not None and not self._window.room:
                await self._woken()  # by an acknowledgement
                continue
            request = self.delivery.request(self._context.log.delivered_offset)
            if request is not None:
                if not has_yielded:
                    await asyncio.sleep(0)  # other tasks run during a long replay
                    has_yielded = True
                elif page := await self._read(request):
                    return page
            elif self.delivery.is_empty:
                await self._woken()
            elif messages := self._take():
                return messages  # an empty list means that all of them had expired

    def mark_sent(self) -> None:
        """Record that the server took all frames of the last `next_frames`."""
        self._last_sent = self._context.clock.monotonic()
        self._blocked_since = None
        if self._flushed is not None and not self._control:
            self._flushed.set()
            self._flushed = None

    async def wait_flushed(self) -> bool:
        """Wait until the server took all control frames, including the first frame.

        Returns:
            False if the connection ended before that.

        Cancellation:
            A cancelled call has no effect on the frames.
        """
        if self._first is not None or self._control or self._blocked_since is not None:
            if self._flushed is None:
                self._flushed = asyncio.Event()
            await self._flushed.wait()
        return not self.is_over

    def _take_control(self) -> list[Frame]:
        state = self.state
        if state is ConnectionState.CLOSED:
            return []
        out: list[Frame] = []
        if self._first is not None:
            out.append(self._first)
            self._first = None
            self._handle(ConnectionEvent.READY)
        out += [Frame(body, self.event_id) for body in self._control]
        self._control = ()
        reason = self.close_reason
        if state is ConnectionState.CLOSING and reason is not None and not self._closing_sent:
            self._closing_sent = True
            out.append(Frame(frames.closing(reason, self._context.clock.time()), self.event_id))
        self._count(len(out), sum([len(frame.body) for frame in out]))
        return out

    async def _read(self, request: PageRequest) -> list[Frame]:
        """Read a page of the log, and return its frames if they can be sent at once."""
        subscriptions, log = self.subscriptions, self._context.log
        try:
            page = await log.broker.read(self._epoch, request, subscriptions, self.user)
        except (BrokerUnavailable, OutcomeUnknown):
            await asyncio.sleep(READ_RETRY_DELAY)  # the client got a `degraded` frame
            return []
        if self.state is not ConnectionState.OPEN or subscriptions is not self.subscriptions:
            return []  # the page may have messages that the client may not see any more
        if page is None:
            self.close(Reason.FAILED)  # the epoch has ended; the client resumes in the new one
            return []
        direct = self.delivery.fill(request, page, log.delivered_offset, room=self._room())
        if direct is None:
            return []
        ids = direct.ids(self._epoch, self.token)
        out = list(map(Frame, [message.body for message in direct.page.messages], ids))
        self._track_window(out, direct.cursors())
        self._count(len(out), direct.page.size)
        return out

    def _take(self) -> list[Frame]:
        """Take pending messages and gaps, until the room is used or a page must be read first."""
        now, room = self._context.clock.time(), self._room()
        out, cursors = list[Frame](), list[Cursor]()
        while room > 0 and (entry := self.delivery.take(now)) is not None:
            if isinstance(entry, Gap):
                self._gaps_sent += 1
                self._messages_lost += entry.count or 0
                body = frames.gap(entry, now)
            else:
                body = entry.body
            cursor = self.cursor
            cursors.append(cursor)
            out.append(Frame(body, self._id_at(cursor)))
            room -= len(body)
            if self.delivery.request(self._context.log.delivered_offset) is not None:
                break
        self._track_window(out, cursors)
        self._count(len(out), sum([len(frame.body) for frame in out]))
        return out

    def _room(self) -> int:
        """Return the bytes that may be sent at once."""
        return CHUNK_BYTES if self._window is None else min(CHUNK_BYTES, self._window.room)

    def _track_window(self, out: list[Frame], cursors: Iterable[Cursor]) -> None:
        """Add messages and gaps to the window, each with the cursor after it."""
        if self._window is not None:
            now = self._context.clock.monotonic()
            for frame, cursor in zip(out, cursors, strict=True):
                self._window.record_sent(cursor, len(frame.body) + len(frame.id), now)

    def _count(self, count: int, size: int) -> None:
        """Count frames that the transport is about to send; `size` is the bytes of their bodies."""
        if count:
            self._blocked_since = self._context.clock.monotonic()
            self.frames_sent += count
            self.bytes_sent += size

    def _woken(self) -> asyncio.Future[None]:
        """Return a future that the next `wake` completes."""
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("two tasks wait in next_frames of one connection: use one")
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    # -- called by the fan-out -----------------------------------------------------------------

    def send_inline(self, renderer: BatchRenderer, now: float) -> int:
        """Send the pending batch inline, or wake the connection's own task to send it.

        The batch is sent inline if that task waits in `next_frames`, the buffer is empty and the
        window has room for the whole batch.

        Returns:
            The number of calls of `send` for the whole batch, 0 if the task was woken.
        """
        delivery, sender, waiter, window = self.delivery, self._sender, self._waiter, self._window
        batch = delivery.pending_batch
        if (
            batch is None or sender is None or waiter is None or waiter.done() or delivery.buffer
            or (window is not None and window.room < batch.size)
        ):  # fmt: skip
            delivery.flush()
            self.wake()
            return 0
        rendered = renderer.render(batch, sender.encoder)
        delivery.mark_sent(rendered.plan)
        steps, count, size = rendered.plan.steps, 0, 0
        for chunk in rendered.chunks:
            count += chunk.frames
            size += chunk.size
            unsent = sender.send_nowait(chunk.joined)
            if unsent is not None:  # the connection's own task finishes that send
                count -= unsent
                size = sum([len(message.body) for message, _ in steps[:count]])
                self._blocked_since = now
                delivery.requeue(rendered.plan, count)
                self.wake()
                break
        if window is not None:
            for message, cursor in steps[:count]:
                window.record_sent(cursor, len(message.body) + len(self._id_at(cursor)), now)
        if count:
            self._last_sent = now
            self.frames_sent += count
            self.bytes_sent += size
        return rendered.sends

    # -- called by the timers ------------------------------------------------------------------

    def check_deadlines(self, now: float) -> float | None:
        """Act on the deadlines that have passed, and return the next one (see `timers.Timed`)."""
        options = self._context.options
        if self.state is ConnectionState.CLOSED:
            return None
        if self.state is not ConnectionState.CLOSING:
            if self._expires_at is not None and self._expires_at <= self._context.clock.time():
                self.close(Reason.CREDENTIALS_EXPIRED)
            elif options.idle_timeout is not None and self._last_seen + options.idle_timeout <= now:
                self.close(Reason.IDLE)
        if self._blocked_since is not None:
            is_closing = self.state is ConnectionState.CLOSING
            limit = CLOSING_TIMEOUT if is_closing else options.send_timeout
            if limit is not None and self._blocked_since + limit <= now:
                self.close(Reason.SLOW)
                self.mark_lost()
                if self._abort is not None:
                    self._abort()
        elif self.state is ConnectionState.OPEN:
            if self._is_unacknowledged(now):
                self.close(Reason.SLOW)
            elif self._is_silent(now):
                self.put_control(frames.control("heartbeat", self._context.clock.time()))
        return self._next_deadline(now)

    def _is_unacknowledged(self, now: float) -> bool:
        """Return True if the window is full, and no acknowledgement came for `send_timeout`."""
        window, limit = self._window, self._context.options.send_timeout
        if window is None or limit is None or window.room:
            return False
        return window.waiting_since is not None and window.waiting_since + limit <= now

    def _is_silent(self, now: float) -> bool:
        interval = self._context.options.heartbeat_interval
        return interval is not None and now - self._last_sent >= interval * (1 - HEARTBEAT_JITTER)

    def _next_deadline(self, now: float) -> float:
        if self.state is ConnectionState.CLOSING:
            return now + CLOSING_TIMEOUT
        options = self._context.options
        deadlines = [now + IDLE_CHECK]
        if options.heartbeat_interval is not None:
            jitter = HEARTBEAT_JITTER * random.random()  # noqa: S311 - spreads heartbeats in time
            pause = options.heartbeat_interval * (1 - jitter)
            heartbeat = self._last_sent + pause
            deadlines.append(heartbeat if heartbeat > now else now + pause)
        if self._expires_at is not None:
            deadlines.append(now + self._expires_at - self._context.clock.time())
        if options.idle_timeout is not None:
            deadlines.append(self._last_seen + options.idle_timeout)
        if options.send_timeout is not None:
            deadlines.append((self._blocked_since or now) + options.send_timeout)
        return min(deadlines)
