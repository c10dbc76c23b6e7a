"""Pipe: what `send` finds when it is called on the spot, and who goes on when it waits."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
import pytest

from holdfast.runtime.inline_send import InlineSender, PeerLost
from tests.support.virtual_loop import run_ready

Sending = Callable[[Any], Awaitable[None]]


class Words:
    """A `FrameEncoder` whose frames are words, each one event."""

    peer_lost: tuple[type[Exception], ...] = (OSError,)

    def prefix(self, body: bytes, id: str) -> str:
        return body.decode() + id

    def suffix(self, token: str) -> str:
        return token

    def join(self, prefixes: Any) -> Any:
        return prefixes

    def events(self, joined: Any, suffix: str) -> list[Any]:
        return [prefix + suffix for prefix in joined]


class Owner:
    """A connection's own task: it makes the pipe, waits to be woken, and finishes what is begun."""

    def __init__(self, send: Sending) -> None:
        self.woken = asyncio.Event()
        self.made = asyncio.Event()
        self.error: BaseException | None = None
        self.wakings = 0
        self.pipe: InlineSender
        self.task = asyncio.ensure_future(self._run(send))

    async def _run(self, send: Sending) -> None:
        NAME.set("owner")
        self.pipe = InlineSender(send, Words(), "!")
        self.made.set()
        try:
            while True:
                await self.woken.wait()
                self.woken.clear()
                self.wakings += 1
                await self.pipe.finish()
        except Exception as error:
            self.error = error
        finally:
            self.pipe.close()

    async def send_nowait(self, *words: str) -> int | None:
        """From a callback of the loop, as the fan-out does; then wake the owner if it has to."""
        await self.made.wait()
        unsent: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(
            lambda: unsent.set_result(self.pipe.send_nowait(words))
        )
        count = await unsent
        if self.pipe.is_busy:
            self.woken.set()
        return count


NAME = contextvars.ContextVar("NAME", default="nobody")


async def test_send_that_does_not_wait_wakes_nobody() -> None:
    """Events go out in order, each with its tail, while the owner sleeps."""
    sent: list[str] = []

    async def send(event: str) -> None:
        sent.append(event)

    owner = Owner(send)
    assert await owner.send_nowait("a", "b") is None
    assert await owner.send_nowait("c") is None
    await run_ready()
    assert sent == ["a!", "b!", "c!"]
    assert owner.wakings == 0
    owner.task.cancel()


async def test_send_that_waits_is_finished_by_the_owner() -> None:
    """What `send` began it finishes in the owner's task; what was not begun is given back."""
    sent: list[str] = []
    drained = asyncio.Event()

    async def send(event: str) -> None:
        sent.append(f"begin {event}")
        await drained.wait()
        sent.append(f"end {event} by {asyncio.current_task() is owner.task}")

    owner = Owner(send)
    assert await owner.send_nowait("a", "b", "c") == 2
    assert owner.pipe.is_busy
    await run_ready()
    assert sent == ["begin a!"]
    drained.set()
    await run_ready()
    assert sent == ["begin a!", "end a! by True"]
    assert not owner.pipe.is_busy
    owner.task.cancel()


async def test_send_finds_its_own_task_and_context() -> None:
    """The current task is the owner, on the spot and after a wait, and so are its variables."""
    seen: list[tuple[bool, str]] = []

    async def send(event: str) -> None:
        for _ in range(2):
            seen.append((asyncio.current_task() is owner.task, NAME.get()))
            await asyncio.sleep(0)

    owner = Owner(send)
    await owner.send_nowait("a")
    await run_ready()
    assert seen == [(True, "owner")] * 2
    assert asyncio.current_task() is not owner.task
    owner.task.cancel()


async def test_what_send_sets_and_resets_belongs_together() -> None:
    """A variable that is set before a wait can be reset after it, as tracing does."""
    done: list[str] = []

    async def send(event: str) -> None:
        token = NAME.set("span")
        await asyncio.sleep(1.0)
        NAME.reset(token)
        done.append(NAME.get())

    owner = Owner(send)
    await owner.send_nowait("a")
    await asyncio.sleep(2.0)
    assert done == ["owner"]
    assert owner.error is None
    owner.task.cancel()


@pytest.mark.parametrize("library", ["asyncio", "anyio"])
async def test_timeout_inside_send_ends_that_send(library: str) -> None:
    """A deadline that a server sets in `send` passes in the owner's task, and raises there."""

    async def send(event: str) -> None:
        if library == "asyncio":
            async with asyncio.timeout(1.0):
                await asyncio.sleep(100.0)
        else:
            with anyio.fail_after(1.0):
                await anyio.sleep(100.0)

    owner = Owner(send)
    await owner.send_nowait("a")
    await asyncio.wait([owner.task], timeout=5.0)
    assert isinstance(owner.error, PeerLost)  # TimeoutError is an OSError
    assert owner.task.cancelling() == 0


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_send_that_raises_raises_in_the_owner(when: str) -> None:
    """Whatever `send` raises, the fan-out goes on, and the owner learns of it."""

    async def send(event: str) -> None:
        if when == "later":
            await asyncio.sleep(1.0)
        raise {"x!": OSError, "y!": ValueError}[event]("gone")

    for word, expected in (("x", PeerLost), ("y", ValueError)):
        owner = Owner(send)
        assert await owner.send_nowait(word, "z") == 1
        await asyncio.wait([owner.task], timeout=5.0)
        assert isinstance(owner.error, expected)


async def test_awaitable_that_is_no_coroutine() -> None:
    """Some servers return an awaitable of their own."""
    sent: list[str] = []

    class Sent:
        def __init__(self, event: str) -> None:
            self.event = event

        def __await__(self) -> Generator[Any, None, None]:
            yield from asyncio.sleep(1.0 if self.event == "b!" else 0).__await__()
            sent.append(self.event)

    owner = Owner(Sent)
    await owner.send_nowait("a")
    await run_ready()
    await owner.send_nowait("b")
    await asyncio.sleep(2.0)
    assert sent == ["a!", "b!"]
    owner.task.cancel()


async def test_owner_that_is_cancelled_cancels_what_was_begun() -> None:
    """A send that waits sees the cancellation, whether or not the owner had come to it."""
    seen: list[str] = []

    async def send(event: str) -> None:
        try:
            await asyncio.sleep(100.0)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    for rounds, expected in ((0, "GeneratorExit"), (20, "CancelledError")):
        owner = Owner(send)
        await owner.made.wait()
        asyncio.get_running_loop().call_soon(owner.pipe.send_nowait, ["a"])
        await run_ready(2)
        if rounds:
            owner.woken.set()
            await run_ready(rounds)
        owner.task.cancel()
        await asyncio.wait([owner.task])
        assert seen.pop() == expected
