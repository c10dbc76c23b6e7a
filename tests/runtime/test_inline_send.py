"""InlineSender: the context in which `send` runs, and the task that finishes a send that waits."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
import pytest

from holdfast.runtime.inline_send import InlineSender, PeerLost
from tests.support.virtual_loop import run_ready

Send = Callable[[Any], Awaitable[None]]


class WordEncoder:
    """A `FrameEncoder` whose frames are words; each word is one event."""

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
    """A connection's own task: it makes the sender, waits for `wake`, and finishes a begun send."""

    def __init__(self, send: Send) -> None:
        self.wake = asyncio.Event()
        self.is_ready = asyncio.Event()
        self.error: BaseException | None = None
        self.wakings = 0
        self.sender: InlineSender
        self.task = asyncio.ensure_future(self._run(send))

    async def _run(self, send: Send) -> None:
        NAME.set("owner")
        self.sender = InlineSender(send, WordEncoder(), "!")
        self.is_ready.set()
        try:
            while True:
                await self.wake.wait()
                self.wake.clear()
                self.wakings += 1
                await self.sender.finish()
        except Exception as error:
            self.error = error
        finally:
            self.sender.close()

    async def send_nowait(self, *words: str) -> int | None:
        """Send from a callback of the loop, as the fan-out does; wake the owner if a send waits."""
        await self.is_ready.wait()
        unsent: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(
            lambda: unsent.set_result(self.sender.send_nowait(words))
        )
        count = await unsent
        if self.sender.is_busy:
            self.wake.set()
        return count


NAME = contextvars.ContextVar("NAME", default="default")


async def test_send_that_does_not_wait_wakes_no_task() -> None:
    """Events are sent in order, each with its suffix, while the owner sleeps."""
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
    """The owner finishes the send that has begun, and the rest of the batch is returned."""
    sent: list[str] = []
    drained = asyncio.Event()

    async def send(event: str) -> None:
        sent.append(f"begin {event}")
        await drained.wait()
        sent.append(f"end {event} by {asyncio.current_task() is owner.task}")

    owner = Owner(send)
    assert await owner.send_nowait("a", "b", "c") == 2
    assert owner.sender.is_busy
    await run_ready()
    assert sent == ["begin a!"]
    drained.set()
    await run_ready()
    assert sent == ["begin a!", "end a! by True"]
    assert not owner.sender.is_busy
    owner.task.cancel()


async def test_send_runs_in_the_owners_task_and_context() -> None:
    """`send` runs in the task and the context of the owner, before and after a wait."""
    contexts: list[tuple[bool, str]] = []

    async def send(event: str) -> None:
        for _ in range(2):
            contexts.append((asyncio.current_task() is owner.task, NAME.get()))
            await asyncio.sleep(0)

    owner = Owner(send)
    await owner.send_nowait("a")
    await run_ready()
    assert contexts == [(True, "owner")] * 2
    assert asyncio.current_task() is not owner.task
    owner.task.cancel()


async def test_context_variable_can_be_reset_after_a_wait() -> None:
    """A context variable that `send` sets can be reset after a wait, as tracing does."""
    values: list[str] = []

    async def send(event: str) -> None:
        token = NAME.set("span")
        await asyncio.sleep(1.0)
        NAME.reset(token)
        values.append(NAME.get())

    owner = Owner(send)
    await owner.send_nowait("a")
    await asyncio.sleep(2.0)
    assert values == ["owner"]
    assert owner.error is None
    owner.task.cancel()


@pytest.mark.parametrize("library", ["asyncio", "anyio"])
async def test_timeout_inside_send_ends_that_send(library: str) -> None:
    """A timeout that a server sets in `send` ends the send, and raises in the owner."""

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


@pytest.mark.parametrize("moment", ["at once", "later"])
async def test_send_that_raises_raises_in_the_owner(moment: str) -> None:
    """An error of `send` is raised in the owner, and the fan-out continues."""

    async def send(event: str) -> None:
        if moment == "later":
            await asyncio.sleep(1.0)
        raise {"x!": OSError, "y!": ValueError}[event]("gone")

    for word, expected in (("x", PeerLost), ("y", ValueError)):
        owner = Owner(send)
        assert await owner.send_nowait(word, "z") == 1
        await asyncio.wait([owner.task], timeout=5.0)
        assert isinstance(owner.error, expected)


async def test_send_may_return_any_awaitable() -> None:
    """`send` may return an awaitable that is not a coroutine, as some servers do."""
    sent: list[str] = []

    class SendAwaitable:
        def __init__(self, event: str) -> None:
            self.event = event

        def __await__(self) -> Generator[Any, None, None]:
            yield from asyncio.sleep(1.0 if self.event == "b!" else 0).__await__()
            sent.append(self.event)

    owner = Owner(SendAwaitable)
    await owner.send_nowait("a")
    await run_ready()
    await owner.send_nowait("b")
    await asyncio.sleep(2.0)
    assert sent == ["a!", "b!"]
    owner.task.cancel()


async def test_cancelled_owner_cancels_its_send() -> None:
    """The cancellation of the owner ends a send that waits."""
    errors: list[str] = []

    async def send(event: str) -> None:
        try:
            await asyncio.sleep(100.0)
        except BaseException as error:
            errors.append(type(error).__name__)
            raise

    for turns, expected in ((0, "GeneratorExit"), (20, "CancelledError")):
        owner = Owner(send)
        await owner.is_ready.wait()
        asyncio.get_running_loop().call_soon(owner.sender.send_nowait, ["a"])
        await run_ready(2)
        if turns:
            owner.wake.set()
            await run_ready(turns)
        owner.task.cancel()
        await asyncio.wait([owner.task])
        assert errors.pop() == expected
