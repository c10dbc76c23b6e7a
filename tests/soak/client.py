"""A client of the soak: it connects, is cut, and reconnects with its last event id."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from tests.support.clients import request
from tests.support.proxy import Fault, Proxy

from .acknowledger import Acknowledger
from .connections import (
    ClientConnection,
    Kind,
    LibraryConnection,
    RawConnection,
    open_raw_connection,
    request_path,
)
from .environment import Environment
from .oracle import ClientOracle
from .received import ReceivedFrames

MAX_WAIT = 15.0
"""Seconds in which a client over a good link must receive each expected message."""

SILENCE_LIMIT = 2.5
"""Heartbeat intervals after which a client reconnects, as docs/protocol.md says."""

EXPECTED_CLOSINGS = ("taken_over", "drain", "slow")
REQUEST_ERRORS = (OSError, TimeoutError, EOFError, ValueError, IndexError)
"""Errors of a request whose server ended before it answered."""


@dataclass(eq=False)
class SoakClient:
    """One client, or one tab of a user with several tabs."""

    environment: Environment
    name: str
    kind: Kind
    base_topics: tuple[str, ...]
    user: str | None = None
    extra_topics: tuple[str, ...] = ()
    """The topics that it subscribes to and unsubscribes from."""
    acknowledges: bool = False
    polls: bool = False
    """The client polls, and sometimes streams: both use one position."""
    proxy: Proxy | None = None
    receive_buffer: int | None = None
    port: int = 0
    connection: ClientConnection | None = None
    impaired: bool = False
    """The link is stalled, slow, or drops all data."""
    fault: str | None = None
    """The fault that was injected into the current connection."""
    stopped: bool = False
    oracle: ClientOracle = field(init=False)
    received: ReceivedFrames = field(init=False)
    rng: random.Random = field(init=False)
    _twin: SoakClient | None = None
    _attempts: int = 0
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.environment.seed} {self.name}")
        self.oracle = ClientOracle(
            self.name, self.environment.published, self.user, self.base_topics
        )
        self.received = ReceivedFrames(self.environment, self.oracle)

    def duplicate(self, name: str) -> SoakClient:
        """Return the client of a duplicated tab, with the same last event id."""
        twin = SoakClient(self.environment, name, self.kind, self.base_topics, self.user)
        twin.acknowledges = self.acknowledges
        twin.oracle = self.oracle.copy(name)
        twin.received = ReceivedFrames(self.environment, twin.oracle)
        twin.received.last_event_id = self.received.last_event_id
        self._twin = twin
        return twin

    @property
    def shares_token(self) -> bool:
        """Return whether a duplicated tab may still copy this client's session."""
        twin = self._twin
        return twin is not None and not twin.stopped and twin.oracle.has_copied_token

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.user is None else {"x-user": self.user}

    @property
    def is_healthy(self) -> bool:
        """Return whether it is connected to the current log over an unimpaired link."""
        connected = self.connection is not None and self.received.connected_at is not None
        connected = connected or self.kind == "poll"  # connected only while it is answered
        current = self.oracle.epoch == self.environment.published.epoch
        return connected and current and not self.impaired

    # -- connecting ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect again and again, until stopped."""
        loop = asyncio.get_running_loop()
        while not self.stopped:
            self.port = await self.environment.pick_port(self.rng)
            self.fault, self.impaired = None, False
            self._attempts += 1
            opened_at = loop.time()
            try:
                await self._connect()
            except (OSError, TimeoutError) as error:
                self._check_end(type(error).__name__)
            else:
                await self._monitor(opened_at)
            self.connection = self.received.connection_id = None
            if self.received.acknowledger is not None:
                self.received.acknowledger.stop()
            if not self.stopped and not self._poll_was_answered:
                await asyncio.sleep(self._reconnect_delay())
        self.oracle.close()

    async def leave(self, running: asyncio.Task[None]) -> None:
        """Disconnect for good. `running` is the task of `run`."""
        self.stopped = True
        if self.connection is not None:
            self.connection.cut("fin")
        tasks = [running, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self.oracle.close()

    def _reconnect_delay(self) -> float:
        if self.environment.calm.is_set():
            return 0.05
        # A longer delay lets the history drop messages meanwhile.
        return self.rng.uniform(3, 8) if self.rng.random() < 0.04 else self.rng.uniform(0, 0.4)

    @property
    def _poll_was_answered(self) -> bool:
        answered = self.received.connected_at is not None
        return self.kind == "poll" and self.fault is None and answered

    async def _connect(self) -> None:
        if self.polls:
            self.kind = "sse" if self.rng.random() < 0.05 else "poll"
        headers, last = dict(self.headers), self.received.last_event_id
        by_message = self.kind == "websocket" and last is not None and self.rng.random() < 0.2
        if last is not None and not by_message:
            headers["Last-Event-ID"] = last
        self.received.expect_connection(self.oracle.connect(), resume_by_message=by_message)
        path = request_path(self.kind, self.base_topics) + "&ack=true" * self.acknowledges
        self.received.acknowledger = Acknowledger(self._acknowledge) if self.acknowledges else None
        if self.kind in ("httpx-sse", "websockets"):
            self.connection = LibraryConnection(self.kind, self.port, path, headers, self._on_frame)
            self._call_later(self._draw_life(), self.cut)
            return
        port = self.port if self.proxy is None else self._prepare_proxy(self.proxy)
        self.connection = await asyncio.wait_for(
            open_raw_connection(
                *(self.kind, port, path, headers, self._on_frame),
                prepare=self._prepare,
                receive_buffer=self.receive_buffer,
            ),
            MAX_WAIT,
        )

    def _on_frame(self, body: str, id: str | None) -> None:
        connection = self.connection
        if connection is None or connection.ended.done():
            return  # cut while more frames were at hand
        calm = self.environment.calm.is_set()
        if '"type":"gap"' in body[:20] and self.rng.random() < 0.4 and not calm:
            self.cut("before a gap frame was read")  # the server must report the gap again
            return
        reply = self.received.receive(body, id)
        if reply is not None:
            connection.send(reply)

    def _acknowledge(self, id: str) -> None:
        connection, connection_id = self.connection, self.received.connection_id
        if connection is None or connection.ended.done():
            return
        self.environment.results.events["acknowledged"] += 1
        if self.kind == "websocket":
            connection.send(json.dumps({"type": "ack", "id": id}))
            return

        async def post() -> None:
            body = {"connectionId": connection_id, "id": id}
            with contextlib.suppress(*REQUEST_ERRORS):
                await request(self.port, "POST", "/ack", body, self.headers)

        self.start_task(post())

    # -- checking --------------------------------------------------------------------------------

    async def _monitor(self, opened_at: float) -> None:
        """Check until the connection has ended that expected messages keep arriving."""
        assert self.connection is not None
        loop, ended = asyncio.get_running_loop(), self.connection.ended
        heartbeat = self.environment.heartbeat
        self.received.received_at = opened_at
        while not ended.done():
            await asyncio.wait([ended], timeout=heartbeat)
            silence = loop.time() - self.received.received_at
            if ended.done() or self.fault == "stalled":
                continue
            if self.impaired or self.proxy is not None:
                if silence > SILENCE_LIMIT * heartbeat:
                    self.cut("silent path")
            elif silence > MAX_WAIT or self._waits_too_long(loop.time()):
                detail = f"{self.describe()}; {silence:.0f} s since the last byte"
                self.environment.results.violation("stuck", detail)
                self.cut("stuck")
        self._check_end(ended.result())

    def _waits_too_long(self, now: float) -> bool:
        connected_at, since = self.received.connected_at, self.oracle.expected.waiting_since()
        if connected_at is None or since is None:
            return False
        return min(now - connected_at, self.environment.published.clock() - since) > MAX_WAIT

    def _check_end(self, how: str) -> None:
        """Count the cause of a connection's end. An end without a cause is a violation."""
        results, closing = self.environment.results, self.received.closing
        if how.startswith("malformed"):
            results.violation("corrupted", f"{self.name}: {how}")
        elif how.startswith("refused") and self.environment.is_up(self.port):
            results.violation("refused", f"{self.describe()}: {how}")
        elif closing in EXPECTED_CLOSINGS or self.fault not in (None, "stalled"):
            pass
        elif self.kind == "poll" and how == "closed":
            results.events["polls answered"] += 1
        elif not self.environment.is_up(self.port):
            method = self.environment.ended_by[self.port]
            results.cuts[method] += self.connection is not None
        elif how == "cut" and isinstance(self.connection, RawConnection):
            results.cuts[f"at a byte, {self.connection.cut_method.upper()}"] += 1
        elif self.proxy is not None and self.connection is not None:
            results.cuts["at a byte, by the proxy"] += 1
        else:
            results.violation("unjustified", f"{self.describe()} was ended: {how}, {closing}")

    def check_complete(self) -> None:
        """Check at the end of the run that the client received everything."""
        if not self.received.has_all_end_markers():
            detail = f"{self.describe()} has end markers of {sorted(self.received.end_markers)}"
            self.environment.results.violation("stuck", detail)
        self.oracle.expected.finish()

    def describe(self) -> str:
        """Return the state of the client, for the description of a violation."""
        return (
            f"{self.name} ({self.kind}, connected {self.connection is not None}, "
            f"impaired {self.impaired}, fault {self.fault}, proxy {self.proxy is not None})"
        )

    # -- faults ----------------------------------------------------------------------------------

    def _draw_life(self) -> float:
        return self.rng.expovariate(1 / self.environment.mean_life)

    def _prepare(self, connection: RawConnection) -> None:
        """Choose the faults of a new connection."""
        self.connection = connection
        if self.environment.calm.is_set() or self.proxy is not None:
            return
        rng = self.rng
        connection.cut_method = rng.choice(("fin", "rst"))
        roll = rng.random()
        if roll < 0.03:
            connection.sends = rng.choice((0, rng.randint(1, 200), 100_000))
            self._record_fault("while connecting")
        elif roll < 0.13:
            connection.cut_at = rng.randint(1, 2500)
        else:
            self._call_later(self._draw_life(), self._cut_soon)
        if rng.random() < 0.02:
            self._call_later(rng.uniform(0.5, 3), self._stall)

    def _prepare_proxy(self, proxy: Proxy) -> int:
        """Choose the fault of the proxy. Returns the port to connect to."""
        rng, fault = self.rng, Fault()
        roll = rng.random()
        if self.environment.calm.is_set() or roll < 0.15:
            return self.port  # without the proxy
        if roll < 0.6:
            cut_after = int(rng.expovariate(1 / 40_000))
            fault = Fault(cut_after=cut_after, how=rng.choice(("fin", "rst")))
        elif roll < 0.75:
            fault = Fault(rate=rng.choice((4_000.0, 20_000.0)))
            self.impaired = True
            self.environment.results.events["slow readers"] += 1
            self._call_later(rng.uniform(2, 10), self.cut)
        else:
            self._call_later(self._draw_life(), self._half_open)
        proxy.fault = lambda _: fault
        return proxy.port

    def _stall(self) -> None:
        """Stop reading for some seconds."""
        connection = self.connection
        if connection is None or connection.ended.done() or self.fault is not None:
            return
        self.impaired, self.fault = True, "stalled"
        self.environment.results.events["stalled readers"] += 1
        connection.pause()

        async def resume() -> None:
            await asyncio.sleep(self.rng.uniform(0.5, 5))
            connection.resume()
            if self.connection is connection and self.fault == "stalled":
                self.impaired, self.fault = False, None
                now = asyncio.get_running_loop().time()
                self.received.received_at = now
                if self.received.connected_at is not None:
                    self.received.connected_at = now

        self.start_task(resume())

    def _half_open(self) -> None:
        """Let nothing through the proxy, and reconnect before the server notices."""
        assert self.proxy is not None
        self.impaired = True
        for link in self.proxy.links:
            link.discard()
        self._call_later(self.rng.uniform(0, 2), lambda: self.cut("half-open"))

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _call_later(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` after `seconds`, if this connection is still there and faults are on."""
        attempt = self._attempts

        async def wait() -> None:
            await asyncio.sleep(seconds)
            is_current = self.connection is not None and self._attempts == attempt
            if is_current and not self.environment.calm.is_set():
                act()

        self.start_task(wait())

    def _record_fault(self, kind: str) -> None:
        if self.fault in (None, "stalled"):
            self.fault = kind
            self.environment.results.cuts[kind] += 1

    def cut(self, kind: str = "between two frames") -> None:
        """Cut the connection at once."""
        if self.connection is not None and not self.connection.ended.done():
            self._record_fault(kind)
            self.connection.cut(self.rng.choice(("fin", "rst")))

    def _cut_soon(self) -> None:
        """Cut at a random one of the next 4,000 bytes, or after 1 s without any."""
        if isinstance(self.connection, RawConnection):
            self.connection.cut_at = self.connection.received + self.rng.randint(1, 4000)
            self._call_later(1.0, self.cut)

    def server_ended(self, port: int) -> None:
        """Record that the server was ended. A stalled connection notices this late."""
        if port == self.port and self.connection is not None and self.received.closing is None:
            self._record_fault(self.environment.ended_by[port])
