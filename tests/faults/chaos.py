"""What is done to all: reconnect storms, duplicated tabs, stalled loops, killed servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from dataclasses import dataclass, field
from typing import Any

from tests.support.clients import request
from tests.support.processes import ServerProcess

from .clients import NO_ANSWER, Client
from .site import Site


@dataclass
class Chaos:
    """Everything that befalls more than one connection, at seeded times."""

    site: Site
    server: ServerProcess
    clients: list[Client]
    seconds: float
    restarts: int
    storm_every: float
    twins: list[Client] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    """What the servers that are gone wrote."""
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _restarting: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.site.seed} chaos")
        self._changing = [client for client in self.clients if client.extra]

    async def run(self) -> None:
        """Go on until cancelled."""
        plans = [
            self._every(self.storm_every, self.storm),
            self._every(max(1.0, self.storm_every / 10), self.duplicate),
            self._every(self.storm_every * 1.7, self.stall_the_loop),
            self._every(0.1, self.change_topics),
            self._restart_now_and_then(),
        ]
        async with asyncio.TaskGroup() as tasks:
            for plan in plans:
                tasks.create_task(plan)

    async def _every(self, mean: float, act: Any) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(0.5, 1.5) * mean)
            await self.site.up.wait()
            await act()

    async def storm(self) -> None:
        """Cut all connections at once."""
        self.site.ledger.happened["reconnect storms"] += 1
        for client in [*self.clients, *self.twins]:
            client.cut("in a storm")

    async def duplicate(self) -> None:
        """A tab is duplicated: two clients present the same event id."""
        client = self.rng.choice(self.clients)
        ready = (
            client.inbox.last_event_id is not None
            and client.account.epoch == self.site.ledger.epoch
        )
        streams = client.kind in ("sse", "websocket") and not client.polls
        if not streams or not ready or client.account.asked:
            return
        self.site.ledger.happened["duplicated tabs"] += 1
        twin = client.twin(f"{client.name}-{self.site.ledger.happened['duplicated tabs']}")
        self.twins.append(twin)
        if self.rng.random() < 0.5:
            client.cut("as its tab was duplicated")
        living = asyncio.create_task(self._live(twin, self.rng.uniform(0.5, 15)), name=twin.name)
        self._tasks.add(living)
        living.add_done_callback(self._tasks.discard)

    async def _live(self, twin: Client, seconds: float) -> None:
        life = asyncio.create_task(twin.run(), name=twin.name)
        try:
            await asyncio.wait([life], timeout=seconds)
        finally:
            self.twins.remove(twin)
            await twin.leave(life)

    async def stall_the_loop(self) -> None:
        """The application computes for a while, and the server does nothing else."""
        self.site.ledger.happened["stalled loops"] += 1
        with contextlib.suppress(
            *NO_ANSWER,
        ):
            await request(self.site.port, "POST", "/stall", {"seconds": self.rng.uniform(0.3, 1.2)})

    async def change_topics(self) -> None:
        """Somebody subscribes, or unsubscribes; and is perhaps cut right after that."""
        client = self.rng.choice(self._changing)
        await change_topics(client)
        if self.rng.random() < 0.3:
            client.cut("after a subscription")

    async def _restart_now_and_then(self) -> None:
        for number in range(self.restarts):
            await asyncio.sleep(self.seconds / (self.restarts + 1) * self.rng.uniform(0.9, 1.0))
            # Once begun, it is finished, even if the run ends meanwhile.
            self._restarting = asyncio.create_task(self.restart(gracefully=number % 2 == 1))
            await asyncio.shield(self._restarting)
        await asyncio.Event().wait()

    async def settled(self) -> None:
        """No restart is under way."""
        if self._restarting is not None:
            await self._restarting

    async def restart(self, *, gracefully: bool) -> None:
        """Kill the server, or send it SIGTERM; then start it again on the same port."""
        self.site.up.clear()
        kind = "SIGTERM" if gracefully else "kill -9"
        self.site.down = f"by {kind} of the server"
        self.site.ledger.happened[f"server restarts by {kind}"] += 1
        await asyncio.to_thread(self._stop, gracefully)
        for client in [*self.clients, *self.twins]:
            client.lost_server()
        self.site.ledger.end()
        await asyncio.to_thread(self.server.__enter__)
        await self.begin()

    def _stop(self, gracefully: bool) -> None:
        if gracefully:
            try:
                self.server.terminate(timeout=10.0)
            except AssertionError:  # hypercorn waits for clients that read nothing
                self.site.ledger.happened["SIGTERM that took a kill -9 after 10 s"] += 1
        self.server.kill()
        self.output.append(self.server.output())
        self.server.__exit__(None, None, None)

    async def begin(self) -> None:
        """The server listens: learn the name of its log, and let the clients come."""
        answer = await request(self.site.port, "GET", "/position?topics=end")
        self.site.ledger.start(answer.json()["id"].partition("~")[0])
        self.site.up.set()

    async def stop(self) -> None:
        """Nothing more happens; the duplicated tabs are closed."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def change_topics(client: Client) -> None:
    """Have it subscribe to one of its extra topics, or unsubscribe, on the live connection."""
    id, link, account = client.inbox.connection_id, client.link, client.account
    if id is None or link is None or account.asked:
        return
    topic = client.rng.choice(client.extra)
    how = "unsubscribe" if topic in account.subscribed else "subscribe"
    account.ask(topic, how)
    client.site.ledger.happened["subscriptions changed"] += 1
    if client.kind == "websocket":
        link.send(json.dumps({"type": how, "topics": [topic]}))
        return
    body = {"connectionId": id, "topics": [topic]}
    try:
        answer = await request(client.site.port, "POST", f"/{how}", body, client.headers)
        done = answer.status == 200 and topic in answer.json()["topics"]
    except NO_ANSWER:
        return
    if done and client.inbox.connection_id == id and topic in account.asked:
        account.carried_out(topic, in_order=False)
