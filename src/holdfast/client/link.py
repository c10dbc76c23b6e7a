"""Link: the connection of now, as all parts of the client see it."""

from __future__ import annotations

import anyio

from .frames import Hello


class LinkLost(Exception):
    """The connection is over, or was never made, and is to be tried again.

    `wait` (seconds) is what the server asked for; `at_once` is without any wait.
    """

    def __init__(self, reason: str, *, wait: float | None = None, at_once: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait
        self.at_once = at_once


class Link:
    """What the first frame of the connection said, and what has changed since.

    `number` counts the connections whose first frame came. It is changed by the reader alone; the
    others wait for it (`opened`), or ask for another connection (`restart`).
    """

    def __init__(self) -> None:
        self.number = 0
        self.hello: Hello | None = None
        """Of the connection of now, `None` while there is none."""
        self.token = ""
        """Of the newest connection, whether it still is."""
        self.unbroken_since = 1
        """The first connection from whose positions on the newest session can go on."""
        self.topics: tuple[str, ...] = ()
        self.rejected: tuple[str, ...] = ()
        self.restarts: str | None = None
        self._scope: anyio.CancelScope | None = None
        self._error: Exception | None = None
        self._changed = anyio.Event()

    async def opened(self) -> Hello:
        """The first frame of the connection of now, or of the next one. Raises what ended all."""
        while self.hello is None:
            if self._error is not None:
                raise self._error
            await self._changed.wait()
        return self.hello

    async def ended(self, number: int, *, within: float) -> None:
        """Wait until the connection of this number is not that of now any more, or for so long."""
        with anyio.move_on_after(within):
            while self.hello is not None and self.number == number:
                await self._changed.wait()

    def restart(self, reason: str) -> None:
        """Leave the connection of now, if there is one, and make another one at once."""
        if self._scope is not None and self.hello is not None:
            self.restarts = reason
            self._scope.cancel()

    # -- the reader ----------------------------------------------------------------------------

    def attempt(self, scope: anyio.CancelScope) -> None:
        """A connection is tried in this scope."""
        self._scope, self.restarts = scope, None

    def begin(self, hello: Hello, *, unbroken: bool) -> None:
        """The first frame is here; `unbroken`: the session goes on from the presented position."""
        self.number += 1
        self.hello, self.token = hello, hello.token
        self.topics, self.rejected = hello.topics, hello.rejected
        if not unbroken:
            self.unbroken_since = self.number
        self._change()

    def lose(self) -> None:
        """The connection is over."""
        self.hello = self._scope = None
        self._change()

    def fail(self, error: Exception) -> None:
        """There will be no other; who waits gets `error`."""
        self._error = error
        self.lose()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
