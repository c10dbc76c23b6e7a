"""DrainAtSignal: a signal handler that calls the handler of the server."""

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
    """Install handlers as a server does. Returns the list of the called ones."""
    called: list[str] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda *_: called.append("server"))
    yield called
    for number, handler in before.items():
        signal.signal(number, handler)


def current() -> list[Any]:
    """Return the installed handlers."""
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
async def test_signal_drains_and_calls_the_servers_handler(
    number: signal.Signals, handlers: list[str]
) -> None:
    """A signal begins the drain, and calls the handler of the server."""
    drain = DrainAtSignal(lambda: handlers.append("drain"))
    assert drain.install()
    signal.raise_signal(number)
    await run_ready()
    assert sorted(handlers) == ["drain", "server"]


async def test_remove_restores_the_earlier_handlers(handlers: list[str]) -> None:
    """After `remove` the earlier handlers are installed, and a signal does not drain."""
    before = current()
    drain = DrainAtSignal(lambda: handlers.append("drain"))
    drain.install()
    assert not drain.install(), "it is already installed"
    drain.remove()
    drain.remove()
    assert current() == before
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert handlers == ["server"]
    assert drain.install()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert sorted(handlers) == ["drain", "server", "server"]


@pytest.mark.parametrize("order", ["first", "last"])
async def test_two_handlers_are_removed_in_any_order(order: str, handlers: list[str]) -> None:
    """If one of two is removed, the other drains, and the server's handler is called."""
    first = DrainAtSignal(lambda: handlers.append("first"))
    second = DrainAtSignal(lambda: handlers.append("second"))
    first.install()
    second.install()
    removed, remaining = (first, "second") if order == "first" else (second, "first")
    removed.remove()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert sorted(handlers) == sorted(["server", remaining])
    handlers.clear()
    (second if order == "first" else first).remove()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert handlers == ["server"]


async def test_installed_again_below_another_handler(handlers: list[str]) -> None:
    """A handler that was removed below another can be installed again, and drains once."""
    first = DrainAtSignal(lambda: handlers.append("first"))
    second = DrainAtSignal(lambda: handlers.append("second"))
    first.install()
    second.install()
    first.remove()
    first.install()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert sorted(set(handlers)) == ["first", "second", "server"]
    assert handlers.count("server") == 1


async def test_removed_below_another_leaves_the_chain(handlers: list[str]) -> None:
    """Broadcasters that start and stop in turns leave no handler of an earlier run behind."""
    before = current()
    one, two = Broadcaster(), Broadcaster()
    await one.start()
    for _ in range(5):
        await two.start()
        await one.stop()
        await one.start()
        await two.stop()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert not one.is_accepting
    assert handlers == ["server"]
    handler: Any = signal.getsignal(signal.SIGTERM)
    assert handler.__self__._previous[signal.SIGTERM] == before[0]
    await one.stop()
    assert current() == before


async def test_removed_below_a_foreign_handler_stays_harmless(handlers: list[str]) -> None:
    """Below a handler that is not of this package, the removed one only calls the previous one."""
    made = DrainAtSignal(lambda: handlers.append("drain"))
    made.install()
    below = signal.getsignal(signal.SIGTERM)

    def foreign(number: int, frame: Any) -> None:
        handlers.append("foreign")
        below(number, frame)  # type: ignore[operator,misc]

    signal.signal(signal.SIGTERM, foreign)
    made.remove()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert handlers == ["foreign", "server"]


async def test_install_in_another_thread_returns_false() -> None:
    """`install` returns False outside the main thread, where Python has no signal handlers."""
    before, installed = current(), list[bool]()

    def other() -> None:
        async def install() -> None:
            installed.append(DrainAtSignal(lambda: None).install())

        asyncio.run(install())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert installed == [False]
    assert current() == before


async def test_ignored_signal_stays_ignored() -> None:
    """An ignored signal begins a drain, and stays ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    drains: list[int] = []
    drain = DrainAtSignal(lambda: drains.append(1))
    drain.install()
    signal.raise_signal(signal.SIGTERM)
    await run_ready()
    assert drains == [1]
    drain.remove()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_process_with_the_default_action_ends() -> None:
    """A signal with the default action still ends the process."""
    code = (
        "import asyncio, signal\n"
        "from holdfast.runtime.signals import DrainAtSignal\n"
        "async def main():\n"
        "    DrainAtSignal(lambda: None).install()\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    await asyncio.sleep(5)\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.run([sys.executable, "-c", code], timeout=20, check=False)
    assert process.returncode == -signal.SIGTERM


async def test_app_installs_its_handlers_during_its_lifespan(handlers: list[str]) -> None:
    """LiveApp has its handlers installed between startup and shutdown."""
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


async def test_broadcaster_installs_its_handlers_while_it_runs() -> None:
    """A Broadcaster installs its handlers when it starts, and removes them when it stops."""
    before = current()
    async with Broadcaster():
        assert current() != before
    assert current() == before


async def test_own_endpoint_ends_at_the_signal() -> None:
    """A signal closes a connection of an application's own endpoint, without LiveApp."""
    handlers: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: handlers.append("server"))
    try:
        async with Broadcaster() as broadcaster, broadcaster.connect() as connection:
            await connection.next_frames()
            connection.mark_sent()
            signal.raise_signal(signal.SIGTERM)
            frames = await asyncio.wait_for(connection.next_frames(), 5.0)
            assert frames is not None
            assert json.loads(frames[-1].body)["data"]["reason"] == "drain"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert handlers == ["server"]


async def test_drain_at_signal_false_installs_no_handler() -> None:
    """A Broadcaster with `drain_at_signal=False` leaves the signal handlers unchanged."""
    before = current()
    async with Broadcaster(drain_at_signal=False) as broadcaster:
        app = LiveApp(broadcaster, authenticate=anonymous)
        async with HttpExchange(app, "/health") as call:
            await call.response()
        assert current() == before
