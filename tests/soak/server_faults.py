"""The faults that hit all clients of one server: storms, duplicated tabs, stalls and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.clients import request
from tests.support.processes import ServerProcess

from .client import REQUEST_ERRORS, SoakClient
from .environment import Environment
from .oracle import Change


@dataclass(kw_only=True)
class ServerFaults:
    """A `FaultInjector` for one server, at seeded times."""

    environment: Environment
    server: ServerProcess
    clients: list[SoakClient]
    seconds: float
    restarts: int
    storm_interval: float
    twins: list[SoakClient] = field(default_factory=list)
    """The duplicated tabs that are open."""
    outputs: list[str] = field(default_factory=list)
    """The output of each server that was ended."""
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _restarting: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.environment.seed} faults")
        self._changing = [client for client in self.clients if client.extra_topics]

    async def run(self) -> None:
        """Inject faults until cancelled."""
        schedule = [
            self._repeat(self.storm_interval, self._cut_all),
            self._repeat(max(1.0, self.storm_interval / 10), self._duplicate_tab),
            self._repeat(self.storm_interval * 1.7, self._stall_event_loop),
            self._repeat(0.1, self._change_topics),
            self._restart_server(),
        ]
        async with asyncio.TaskGroup() as tasks:
            for each in schedule:
                tasks.create_task(each)

    async def _repeat(self, mean_interval: float, inject: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(0.5, 1.5) * mean_interval)
            await self.environment.pick_port(self.rng)
            await inject()

    async def _cut_all(self) -> None:
        """Cut all connections at once."""
        self.environment.results.events["reconnect storms"] += 1
        for client in [*self.clients, *self.twins]:
            client.cut("in a storm")

    async def _duplicate_tab(self) -> None:
        """Let a second client present the same event id."""
        client, results = self.rng.choice(self.clients), self.environment.results
        ready = (
            client.received.last_event_id is not None
            and client.oracle.epoch == self.environment.published.epoch
        )
        streams = client.kind in ("sse", "websocket") and not client.polls
        if not streams or not ready or client.oracle.unanswered:
            return
        results.events["duplicated tabs"] += 1
        twin = client.duplicate(f"{client.name}-{results.events['duplicated tabs']}")
        self.twins.append(twin)
        if self.rng.random() < 0.5:
            client.cut("as its tab was duplicated")
        task = asyncio.create_task(self._run_twin(twin, self.rng.uniform(0.5, 15)), name=twin.name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_twin(self, twin: SoakClient, seconds: float) -> None:
        running = asyncio.create_task(twin.run(), name=twin.name)
        try:
            await asyncio.wait([running], timeout=seconds)
        finally:
            self.twins.remove(twin)
            await twin.leave(running)

    async def _stall_event_loop(self) -> None:
        """Block the event loop of the server, as an application with a long computation does."""
        self.environment.results.events["stalled event loops"] += 1
        body = {"seconds": self.rng.uniform(0.3, 1.2)}
        with contextlib.suppress(*REQUEST_ERRORS):
            await request(self.server.port, "POST", "/stall", body)

    async def _change_topics(self) -> None:
        """Let a client subscribe or unsubscribe, and sometimes cut it right after."""
        client = self.rng.choice(self._changing)
        await change_topics(client)
        if self.rng.random() < 0.3:
            client.cut("after a subscription")

    async def _restart_server(self) -> None:
        for number in range(self.restarts):
            await asyncio.sleep(self.seconds / (self.restarts + 1) * self.rng.uniform(0.9, 1.0))
            # A restart in progress continues when the run ends.
            self._restarting = asyncio.create_task(self._restart(gracefully=number % 2 == 1))
            await asyncio.shield(self._restarting)
        await asyncio.Event().wait()

    async def settle(self) -> None:
        """Wait until no restart is in progress."""
        if self._restarting is not None:
            await self._restarting

    async def _restart(self, *, gracefully: bool) -> None:
        """End the server by SIGTERM or SIGKILL, and start it again on the same port."""
        method, port = "SIGTERM" if gracefully else "SIGKILL", self.server.port
        self.environment.server_ending(port, method)
        self.environment.results.events[f"servers ended by {method}"] += 1
        await asyncio.to_thread(self._end_server, gracefully)
        for client in [*self.clients, *self.twins]:
            client.server_ended(port)
        self.environment.published.end_epoch()
        await asyncio.to_thread(self.server.__enter__)
        await self.start_log()

    def _end_server(self, gracefully: bool) -> None:
        if gracefully:
            try:
                self.server.terminate(timeout=10.0)
            except AssertionError:  # hypercorn waits for clients that read nothing
                self.environment.results.events["SIGTERM without an end within 10 s"] += 1
        self.server.kill()
        self.outputs.append(self.server.output())
        self.server.__exit__(None, None, None)

    async def start_log(self) -> None:
        """Read the epoch of the server's log, and let the clients connect."""
        response = await request(self.server.port, "GET", "/position?topics=end")
        self.environment.published.start_epoch(response.json()["id"].partition("~")[0])
        self.environment.server_started(self.server.port)

    async def stop(self) -> None:
        """Close the duplicated tabs."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def change_topics(client: SoakClient) -> None:
    """Let a connected client subscribe to one of its extra topics, or unsubscribe from it."""
    id, connection, oracle = client.received.connection_id, client.connection, client.oracle
    if id is None or connection is None or oracle.unanswered or client.shares_token:
        return
    topic = client.rng.choice(client.extra_topics)
    change: Change = "unsubscribe" if topic in oracle.subscribed else "subscribe"
    oracle.request_change(topic, change)
    client.environment.results.events["subscriptions changed"] += 1
    if client.kind == "websocket":
        connection.send(json.dumps({"type": change, "topics": [topic]}))
        return
    body = {"connectionId": id, "topics": [topic]}
    try:
        response = await request(client.port, "POST", f"/{change}", body, client.headers)
        done = response.status == 200 and topic in response.json()["topics"]
    except REQUEST_ERRORS:
        return
    if done and client.received.connection_id == id and topic in oracle.unanswered:
        oracle.confirm_change(topic, in_order=False)
