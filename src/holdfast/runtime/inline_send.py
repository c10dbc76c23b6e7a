"""Inline sending: the fan-out calls `send` of a connection, without waking the connection's task.

Waking a task costs more than `send` itself, which nearly always only writes to the server's
transport and ends without waiting. Therefore the fan-out calls `send` and steps its coroutine once.
During that step, `asyncio.current_task()` is the connection's own task, because timeouts and
cancel scopes belong to a task, and the context is a copy of that task's. If `send` waits, that task
continues it; if `send` raises, the exception is raised in that task.

Connections that keep up have the same messages pending, so `BatchRenderer` plans and encodes a
batch once for all of them. Only the token at the end of each event id differs.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ..asgi_types import Event, Send
from ..core.cursor import Epoch, format_event_id
from ..core.delivery.lanes import CHUNK_BYTES, DeliveryPlan, LiveBatch, plan_delivery
from ..core.message import OFFSET_ZERO, Offset

MAX_RENDERED_BYTES = 16 * 1024 * 1024
"""Bytes of encoded frames that are kept for other connections, at most."""

# For code that steps coroutines itself (documentation of asyncio, "Extending").
_enter, _leave = asyncio.tasks._enter_task, asyncio.tasks._leave_task


class FrameEncoder(Protocol):
    """Encodes frames for one transport.

    An encoded frame is a prefix, which ends inside the event id and is the same for all
    connections, and a suffix, which is the rest and contains the connection's token.
    """

    peer_lost: tuple[type[Exception], ...]
    """The exceptions that servers raise from `send` when the client has gone."""

    def prefix(self, body: bytes, id: str) -> Any:
        """Return the prefix of a frame: up to the end of `id`, the event id without its token."""
        ...

    def suffix(self, token: str) -> Any:
        """Return the suffix of all frames of the connection with that token."""
        ...

    def join(self, prefixes: Sequence[Any]) -> Any:
        """Return several prefixes in the form that `events` takes."""
        ...

    def events(self, joined: Any, suffix: Any) -> Sequence[Event]:
        """Return the ASGI events that send the joined frames, each with `suffix`."""
        ...


class PeerLost(Exception):
    """The server could not send, because the client has disconnected."""


class InlineSender:
    """The ASGI `send` of one connection, for its own task (the owner) and for the fan-out.

    The task that creates the sender is the owner.

    Invariants (tests/runtime/test_inline_send.py): events are sent whole and in order, by the
    owner or by the fan-out; while `is_busy`, only the owner sends.
    """

    __slots__ = (
        "_context",
        "_error",
        "_loop",
        "_send",
        "_suffix",
        "_task",
        "_waiting",
        "encoder",
    )

    def __init__(self, send: Send, encoder: FrameEncoder, token: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.encoder = encoder
        self._suffix = encoder.suffix(token)
        self._send = send
        self._task = task
        self._loop = task.get_loop()
        self._context = contextvars.copy_context()
        self._waiting: tuple[Coroutine[Any, Any, None], Any] | None = None
        self._error: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """True if the owner must call `finish`: a `send` waits, or has raised."""
        return self._waiting is not None or self._error is not None

    def send_nowait(self, joined: Any) -> int | None:
        """Send frames from the fan-out.

        Args:
            joined: The result of `FrameEncoder.join`.

        Returns:
            `None` if the server took all events. Otherwise `send` waits or has raised for one
            event, the owner must call `finish`, and the result is the number of events after that
            one, which were not sent.
        """
        loop, task, run, send = self._loop, self._task, self._context.run, self._send
        events: Sequence[Event] = ()
        number = 0
        try:
            events = self.encoder.events(joined, self._suffix)
            for number, event in enumerate(events, 1):
                _enter(loop, task)
                try:
                    waiting = run(_step, send, event)
                finally:
                    _leave(loop, task)
                if waiting is not None:
                    self._waiting = waiting
                    return len(events) - number
        except BaseException as error:
            self._error = error
            return len(events) - number
        return None

    async def send(self, event: Event) -> None:
        """Send an event in the owner's task.

        Raises:
            PeerLost: The client has disconnected.
        """
        try:
            await self._send(event)
        except self.encoder.peer_lost as error:
            raise PeerLost from error

    async def finish(self) -> None:
        """Continue the `send` that `send_nowait` began, or raise its exception.

        Raises:
            PeerLost: The client has disconnected.
        """
        try:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._waiting is not None:
                (coroutine, waits_for), self._waiting = self._waiting, None
                await _resume_coroutine(self._context, coroutine, waits_for)
        except self.encoder.peer_lost as error:
            raise PeerLost from error

    def close(self) -> None:
        """Close the coroutine of a `send` that waits, because the connection has ended."""
        if self._waiting is not None:
            (coroutine, _), self._waiting = self._waiting, None
            with suppress(RuntimeError):  # raised by a coroutine that awaits while it is closed
                self._context.run(coroutine.close)


def _step(send: Send, event: Event) -> tuple[Coroutine[Any, Any, None], Any] | None:
    """Call `send` and step it once. If it waits, return its coroutine and the awaited future."""
    awaitable = send(event)
    coroutine = cast(
        "Coroutine[Any, Any, None]",
        awaitable if type(awaitable) is types.CoroutineType else _as_coroutine(awaitable),
    )
    try:
        return coroutine, coroutine.send(None)
    except StopIteration:
        return None


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable  # the awaitables of granian are not coroutines


@types.coroutine
def _resume_coroutine(
    context: contextvars.Context, coroutine: Coroutine[Any, Any, None], waits_for: Any
) -> Generator[Any, Any, None]:
    """Run a coroutine to its end, after its first step has yielded the future `waits_for`."""
    while True:
        try:
            try:
                value = yield waits_for
            except BaseException as error:
                waits_for = context.run(coroutine.throw, error)
            else:
                waits_for = context.run(coroutine.send, value)
        except StopIteration:
            return


@dataclass(frozen=True, slots=True)
class RenderedChunk:
    """Frames that are sent at once.

    Attributes:
        joined: The joined prefixes of the frames.
        frames: The number of frames.
        size: The bytes of their bodies.
    """

    joined: Any
    frames: int
    size: int


@dataclass(frozen=True, slots=True)
class RenderedBatch:
    """A batch, encoded for all connections that keep up on one kind of transport.

    Attributes:
        plan: The messages that are sent, with their cursors.
        chunks: The encoded frames of these messages.
        sends: The number of calls of `send` for all chunks.
    """

    plan: DeliveryPlan
    chunks: tuple[RenderedChunk, ...]
    sends: int


class BatchRenderer:
    """Renders batches, and keeps each for the other connections that have the same one pending.

    A rendered batch is valid until the delivered offset of the node changes, because the cursors
    depend on it. If one of its messages has a ttl, it is valid only in this turn of the event loop.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._epoch, self._offset = Epoch(""), OFFSET_ZERO
        self._rendered: dict[tuple[LiveBatch, FrameEncoder], RenderedBatch] = {}
        self._bytes = 0

    def begin_turn(self, epoch: Epoch, offset: Offset) -> None:
        """Render for a node that has delivered `epoch` up to `offset`; drop invalid batches."""
        if self._offset != offset or any(batch.has_ttl for batch, _ in self._rendered):
            self.clear()
        self._epoch, self._offset = epoch, offset

    def clear(self) -> None:
        """Drop all rendered batches."""
        self._rendered.clear()
        self._bytes = 0

    def render(self, batch: LiveBatch, encoder: FrameEncoder) -> RenderedBatch:
        """Return `batch`, encoded for a connection with an empty buffer."""
        rendered = self._rendered.get((batch, encoder))
        if rendered is None:
            if self._bytes > MAX_RENDERED_BYTES:
                self.clear()
            rendered = self._rendered[batch, encoder] = self._render(batch, encoder)
        return rendered

    def _render(self, batch: LiveBatch, encoder: FrameEncoder) -> RenderedBatch:
        plan = plan_delivery(batch, self._offset, self._time())
        chunks: list[RenderedChunk] = []
        prefixes: list[Any] = []
        size = 0
        for number, (message, cursor) in enumerate(plan.steps, 1):
            id_prefix = format_event_id(self._epoch, cursor, "")
            prefixes.append(encoder.prefix(message.body, id_prefix))
            size += len(message.body)
            if size >= CHUNK_BYTES or number == len(plan.steps):
                chunks.append(RenderedChunk(encoder.join(prefixes), len(prefixes), size))
                prefixes, size = [], 0
        self._bytes += batch.size
        suffix = encoder.suffix("")
        sends = sum(len(encoder.events(chunk.joined, suffix)) for chunk in chunks)
        return RenderedBatch(plan, tuple(chunks), sends)
