"""DrainAtSignal: chained in front of the server's own handler, and out again."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth import anonymous
from holdfast.runtime.signals import SIGNALS, DrainAtSignal
from tests.support.asgi import AsgiExchange, HttpExchange
from tests.support.virtual_loop import run_ready

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[str]]:
    """Handlers of the "server", which note that they were called; what was before is put back."""
    called: list[str] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda *_: called.append("server"))
    yield called
    for number, handler in before.items():
        signal.signal(number, handler)


def current() -> list[Any]:
    """The handlers in force."""
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
async def test_drains_and_calls_what_was_there(number: signal.Signals, handlers: list[str]) -> None:
    """At the signal the drain begins, and the server's own handler is called."""
    made = DrainAtSignal(lambda: handlers.append("drain"))
    assert made.install()
    signal.raise_signal(number)
    await run_ready()
    assert sorted(handlers) == ["drain", "server"]


async def test_removed_puts_back_what_was_there(handlers: list[str]) -> None:
    """After remove the handlers are those of before, and nothing drains."""
    before = current()
    made = DrainAtSignal(lambda: handlers.append("drain"))
    made.install()
    assert not made.install(), "once is enough"
    made.remove()
    made.remove()
    assert current() == before
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert handlers == ["server"]
    assert made.install()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert sorted(handlers) == ["drain", "server", "server"]


@pytest.mark.parametrize("order", ["first", "last"])
async def test_two_chained_and_removed_in_any_order(order: str, handlers: list[str]) -> None:
    """Whoever is removed first, the other drains, and the server is always reached."""
    one = DrainAtSignal(lambda: handlers.append("one"))
    two = DrainAtSignal(lambda: handlers.append("two"))
    one.install()
    two.install()
    goes, stays = (one, "two") if order == "first" else (two, "one")
    goes.remove()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert sorted(handlers) == sorted(["server", stays])
    handlers.clear()
    (two if order == "first" else one).remove()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert handlers == ["server"]


async def test_installed_again_below_another(handlers: list[str]) -> None:
    """Removed while another stood above it, it can be installed again, and drains once."""
    one = DrainAtSignal(lambda: handlers.append("one"))
    two = DrainAtSignal(lambda: handlers.append("two"))
    one.install()
    two.install()
    one.remove()
    one.install()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert sorted(set(handlers)) == ["one", "server", "two"]
    assert handlers.count("server") == 1


async def test_not_in_another_thread() -> None:
    """Signals can be had in the main thread only; elsewhere it says no."""
    before, answers = current(), list[bool]()

    def other() -> None:
        async def install() -> None:
            answers.append(DrainAtSignal(lambda: None).install())

        asyncio.run(install())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert answers == [False]
    assert current() == before


async def test_ignored_signal_stays_ignored() -> None:
    """A signal that the process ignored begins a drain, and ends nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    drained: list[int] = []
    made = DrainAtSignal(lambda: drained.append(1))
    made.install()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert drained == [1]
    made.remove()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_process_with_the_default_action_ends() -> None:
    """Where nobody else would end the process, the signal still does."""
    code = (
        "import asyncio, signal\n"
        "from holdfast.runtime.signals import DrainAtSignal\n"
        "async def main():\n"
        "    DrainAtSignal(lambda: None).install()\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    await asyncio.sleep(5)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=20, check=False)
    assert done.returncode == -signal.SIGTERM


async def test_app_chains_in_at_startup_and_out_at_shutdown(handlers: list[str]) -> None:
    """Served directly, the handler is there between startup and shutdown."""
    before = current()
    broadcaster = Broadcaster()
    app = LiveApp(broadcaster, authenticate=anonymous)
    async with AsgiExchange(app, {"type": "lifespan"}) as lifespan:
        lifespan.to_app.put_nowait({"type": "lifespan.startup"})
        await lifespan.receive()
        assert current() != before
        async with HttpExchange(app, "/stream?topics=t") as call:
            await call.read_head()
            await call.event()
            signal.raise_signal(signal.SIGTERM)
            event = await call.event()
            assert event is not None
            assert event.json()["data"]["reason"] == "drain"
            await call.wait_ended()
    assert current() == before
    assert handlers == ["server"]


async def test_broadcaster_chains_in_when_it_starts() -> None:
    """A Broadcaster installs its handlers when it starts, and removes them when it stops."""
    before = current()
    async with Broadcaster():
        assert current() != before
    assert current() == before


async def test_own_endpoint_ends_at_the_signal() -> None:
    """A connection of an application's own endpoint is closed at the signal, without LiveApp."""
    handlers: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: handlers.append("server"))
    try:
        async with Broadcaster() as broadcaster, broadcaster.connect() as connection:
            await connection.next_frames()
            connection.mark_sent()
            signal.raise_signal(signal.SIGTERM)
            last = await asyncio.wait_for(connection.next_frames(), 5.0)
            assert last is not None
            assert json.loads(last[-1].body)["data"]["reason"] == "drain"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert handlers == ["server"]


async def test_switched_off_it_touches_no_signal() -> None:
    """With `drain_at_signal=False`, the Broadcaster leaves the signal handlers alone."""
    before = current()
    async with Broadcaster(drain_at_signal=False) as broadcaster:
        app = LiveApp(broadcaster, authenticate=anonymous)
        async with HttpExchange(app, "/health") as call:
            await call.response()
        assert current() == before
