"""Pipe: one connection's way into its server, for its own task and for the fan-out.

Waking a task so that it calls `send` costs more than what `send` does: nearly always it only
writes to the server's transport, and ends without waiting. So the fan-out calls it itself, and
steps its coroutine once. What `send` may rely on is kept: the connection's own task is the
current one (timeouts and cancel scopes belong to it), and it runs in a context of its own. A
`send` that does wait is carried on by that task, and one that raises, raises there.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Awaitable, Coroutine, Generator, Sequence
from contextlib import suppress
from typing import Any, Protocol, cast

from ..asgi_types import Event, Send

# For those who step coroutines themselves; documented in "Extending" of Python's asyncio.
_enter, _leave = asyncio.tasks._enter_task, asyncio.tasks._leave_task


class FrameEncoder(Protocol):
    """How frames look on one kind of transport.

    A frame is a head, which ends within its event id and is the same for all connections, and a
    tail with the connection's token.
    """

    peer_lost: tuple[type[Exception], ...]
    """What servers raise from `send` when the client has gone."""

    def head(self, body: bytes, id: str) -> Any:
        """A frame up to the end of `id`, which may be the beginning of one."""
        ...

    def tail(self, token: str) -> Any:
        """The end of every frame."""
        ...

    def common(self, heads: Sequence[Any]) -> Any:
        """What several frames have in common, ready for `events`."""
        ...

    def events(self, common: Any, tail: Any) -> Sequence[Event]:
        """The ASGI events that send those frames, each with its tail: one, or one for each."""
        ...


class PeerLost(Exception):
    """The server could not send, because the client has gone."""


class InlineSender:
    """`send` of one connection. The task that makes it is the one that owns it.

    Invariants (tests/runtime/test_inline_send.py): events are sent whole and in order, whoever
    sends them; while `is_busy`, only the owner goes on.
    """

    __slots__ = (
        "_context",
        "_error",
        "_loop",
        "_send",
        "_task",
        "_waiting",
        "tail",
        "wire",
    )

    def __init__(self, send: Send, wire: FrameEncoder, token: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.wire = wire
        self.tail = wire.tail(token)
        self._send = send
        self._task = task
        self._loop = task.get_loop()
        self._context = contextvars.copy_context()
        self._waiting: tuple[Coroutine[Any, Any, None], Any] | None = None
        self._error: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the owner has something to finish, or an error to raise."""
        return self._waiting is not None or self._error is not None

    def send_nowait(self, common: Any) -> int | None:
        """Send frames on the spot, from outside any task; `None` if that was all.

        Otherwise the owner has to finish what waits, or to raise what was raised, and so many
        events after that one have not been sent.
        """
        loop, task, begin, send = self._loop, self._task, self._context.run, self._send
        events: Sequence[Event] = ()
        number = 0
        try:
            events = self.wire.events(common, self.tail)
            for number, event in enumerate(events, 1):
                _enter(loop, task)
                try:
                    waiting = begin(_begin, send, event)
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
        """Send an event in the owner's task; raises `PeerLost`."""
        try:
            await self._send(event)
        except self.wire.peer_lost as error:
            raise PeerLost from error

    async def finish(self) -> None:
        """Carry on what was begun on the spot; raises `PeerLost`."""
        try:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._waiting is not None:
                (coroutine, waits_for), self._waiting = self._waiting, None
                await _go_on(self._context, coroutine, waits_for)
        except self.wire.peer_lost as error:
            raise PeerLost from error

    def close(self) -> None:
        """The connection is over: what was begun is given up."""
        if self._waiting is not None:
            (coroutine, _), self._waiting = self._waiting, None
            with suppress(RuntimeError):  # it waits for something even now
                self._context.run(coroutine.close)


def _begin(send: Send, event: Event) -> tuple[Coroutine[Any, Any, None], Any] | None:
    """Call `send` and step it once; what is left of it, and what it waits for, if it waits."""
    awaitable = send(event)
    coroutine = cast(
        "Coroutine[Any, Any, None]",
        awaitable if type(awaitable) is types.CoroutineType else _awaiting(awaitable),
    )
    try:
        return coroutine, coroutine.send(None)
    except StopIteration:
        return None


async def _awaiting(awaitable: Awaitable[None]) -> None:
    await awaitable  # granian's are no coroutines


@types.coroutine
def _go_on(
    context: contextvars.Context, coroutine: Coroutine[Any, Any, None], waits_for: Any
) -> Generator[Any, Any, None]:
    """Run a coroutine to its end that was stepped once, and now waits for `is_ahead_of`."""
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
