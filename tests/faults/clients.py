"""A client of the soak: connects, is cut, and comes back with its last event id."""

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

from .acknowledging import Acknowledger
from .hindrances import stall, swallow
from .inbox import Inbox
from .links import ForeignLink, How, Kind, Link, RawLink, open_raw, path_of
from .oracle import Account
from .site import Site

PATIENCE = 15.0
"""Seconds in which a client with a good link must get what it is owed."""

EXPECTED_CLOSINGS = ("taken over", "drain", "slow")
NO_ANSWER = (OSError, TimeoutError, EOFError, ValueError, IndexError)
"""What a request raises when the server ends before it has answered."""


@dataclass(eq=False)
class Client:
    """One client, or one tab of a user who has several."""

    site: Site
    name: str
    kind: Kind
    base: tuple[str, ...]
    user: str | None = None
    extra: tuple[str, ...] = ()
    """Topics that it subscribes to and unsubscribes from."""
    acknowledges: bool = False
    polls: bool = False
    """It polls, and now and then streams: one position for both."""
    proxy: Proxy | None = None
    receive_buffer: int | None = None
    link: Link | None = None
    held: bool = False
    """Its link is stalled, slow, or swallows what it carries."""
    was_cut: str | None = None
    """What was done to the current link, if anything."""
    stopped: bool = False
    account: Account = field(init=False)
    inbox: Inbox = field(init=False)
    rng: random.Random = field(init=False)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.site.seed} {self.name}")
        self.account = Account(self.name, self.site.ledger, self.user, self.base)
        self.inbox = Inbox(self.site, self.account)

    def twin(self, name: str) -> Client:
        """A duplicated tab: another client with the same last event id."""
        twin = Client(self.site, name, self.kind, self.base, self.user)
        twin.acknowledges = self.acknowledges
        twin.account = self.account.copy(name)
        twin.inbox = Inbox(self.site, twin.account)
        twin.inbox.last_event_id = self.inbox.last_event_id
        return twin

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.user is None else {"x-user": self.user}

    @property
    def is_well(self) -> bool:
        """Whether it is connected, to the log of now, and nothing is done to its link."""
        connected = self.link is not None and self.inbox.good_since is not None
        connected = connected or self.kind == "poll"  # which knows only when it is answered
        return connected and not self.held and self.account.epoch == self.site.ledger.epoch

    # -- the life of a client --------------------------------------------------------------------

    async def run(self) -> None:
        """Connect again and again, until it is stopped."""
        loop = asyncio.get_running_loop()
        while not self.stopped:
            await self.site.up.wait()
            self.was_cut, self.held = None, False
            opened = loop.time()
            try:
                await self._connect()
            except (OSError, TimeoutError) as error:
                self._ended(type(error).__name__)
            else:
                await self._watch(opened)
            self.link = self.inbox.connection_id = None
            if self.inbox.acknowledger is not None:
                self.inbox.acknowledger.stop()
            if not self.stopped and not self._was_answered:
                await asyncio.sleep(self._pause())
        self.account.leave()

    async def leave(self, life: asyncio.Task[None]) -> None:
        """Go for good, whatever `life`, which is `run`, is doing."""
        self.stopped = True
        if self.link is not None:
            self.link.cut("fin")
        tasks = [life, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self.account.leave()

    def _pause(self) -> float:
        if self.site.calm.is_set():
            return 0.05
        # Now and then long enough for the history to move on.
        return self.rng.uniform(3, 8) if self.rng.random() < 0.04 else self.rng.uniform(0, 0.4)

    @property
    def _was_answered(self) -> bool:
        """Whether a poll has ended as it should, so that the next one follows."""
        return self.kind == "poll" and self.was_cut is None and self.inbox.good_since is not None

    async def _connect(self) -> None:
        if self.polls:
            self.kind = "sse" if self.rng.random() < 0.05 else "poll"
        headers, last = dict(self.headers), self.inbox.last_event_id
        by_message = self.kind == "websocket" and last is not None and self.rng.random() < 0.2
        if last is not None and not by_message:
            headers["Last-Event-ID"] = last
        self.inbox.expect(self.account.present(), resume_by_message=by_message)
        path = path_of(self.kind, self.base) + "&ack=true" * self.acknowledges
        self.inbox.acknowledger = Acknowledger(self._acknowledge) if self.acknowledges else None
        if self.kind in ("httpx-sse", "websockets"):
            self.link = ForeignLink(self.kind, self.site.port, path, headers, self._arrived)
            self.later(self._life(), self.cut)
            return
        port = self.site.port if self.proxy is None else self._through(self.proxy)
        self.link = await asyncio.wait_for(
            open_raw(
                *(self.kind, port, path, headers, self._arrived),
                prepare=self._prepare,
                receive_buffer=self.receive_buffer,
            ),
            PATIENCE,
        )

    def _arrived(self, body: bytes, id: str | None) -> None:
        link = self.link
        if link is None or link.ended.done():
            return  # cut, though more of what came before is at hand
        if b'"type":"gap"' in body[:20] and self.rng.random() < 0.4 and not self.site.calm.is_set():
            self.cut("before a gap frame was read")  # so it has to be told again
            return
        answer = self.inbox.take(body, id)
        if answer is not None:
            link.send(answer)

    def _acknowledge(self, id: str) -> None:
        link, connection_id = self.link, self.inbox.connection_id
        if link is None or link.ended.done():
            return
        self.site.ledger.happened["acknowledged"] += 1
        if self.kind == "websocket":
            link.send(json.dumps({"type": "ack", "id": id}))
            return

        async def post() -> None:
            body = {"connectionId": connection_id, "id": id}
            with contextlib.suppress(*NO_ANSWER):
                await request(self.site.port, "POST", "/ack", body, self.headers)

        self.do(post())

    async def _watch(self, opened: float) -> None:
        """Until the link has ended, see that it moves."""
        assert self.link is not None
        loop, ended = asyncio.get_running_loop(), self.link.ended
        self.inbox.heard_at = opened
        while not ended.done():
            await asyncio.wait([ended], timeout=self.site.heartbeat)
            silent = loop.time() - self.inbox.heard_at
            if ended.done() or self.was_cut == "stalled":
                continue
            if self.held or self.proxy is not None:
                # As docs/protocol.md says: start anew after 2.5 intervals of silence.
                if silent > 2.5 * self.site.heartbeat:
                    self.cut("silent path")
            elif silent > PATIENCE or self._waits_too_long(loop.time()):
                what = f"{self.situation()}; {silent:.0f} s since the last byte"
                self.site.ledger.breach("stuck", what)
                self.cut("stuck")
        self._ended(ended.result())

    def _waits_too_long(self, now: float) -> bool:
        good, since = self.inbox.good_since, self.account.debts.waits_since()
        if good is None or since is None:
            return False
        return min(now - good, self.site.ledger.clock() - since) > PATIENCE

    def _ended(self, why: str) -> None:
        """The link has ended: count by whom, and object if nobody did it."""
        cuts, closing = self.site.cuts, self.inbox.closing
        if why.startswith("malformed"):
            self.site.ledger.breach("corrupted", f"{self.name}: {why}")
        elif closing in EXPECTED_CLOSINGS or self.was_cut not in (None, "stalled"):
            pass
        elif self.kind == "poll" and why == "closed":
            self.site.ledger.happened["polls answered"] += 1
        elif not self.site.up.is_set():
            cuts[self.site.down] += self.link is not None
        elif why == "cut" and isinstance(self.link, RawLink):
            cuts[f"at a byte, {self.link.how.upper()}"] += 1
        elif self.proxy is not None and self.link is not None:
            cuts["at a byte, by the proxy"] += 1
        else:
            what = f"{self.situation()} was ended: {why}, {closing}"
            self.site.ledger.breach("unjustified", what)

    def situation(self) -> str:
        """In words, for whoever looks for the reason of a breach."""
        return (
            f"{self.name} ({self.kind}, linked {self.link is not None}, held {self.held}, "
            f"cut {self.was_cut}, proxied {self.proxy is not None})"
        )

    # -- what happens to its link ----------------------------------------------------------------

    def _life(self) -> float:
        return self.rng.expovariate(1 / self.site.mean_life)

    def _prepare(self, link: RawLink) -> None:
        """Decide what becomes of this connection."""
        self.link = link
        if self.site.calm.is_set() or self.proxy is not None:
            return
        rng = self.rng
        link.how = rng.choice(("fin", "rst"))
        roll = rng.random()
        if roll < 0.03:
            link.sends = rng.choice((0, rng.randint(1, 200), 100_000))
            self._note_cut("while connecting")
        elif roll < 0.13:
            link.cut_at = rng.randint(1, 2500)
        else:
            self.later(self._life(), self._cut_soon)
        if rng.random() < 0.02:
            self.later(rng.uniform(0.5, 3), lambda: stall(self))

    def _through(self, proxy: Proxy) -> int:
        """Decide what the proxy does to the connection; return the port to take."""
        rng, fault = self.rng, Fault()
        roll = rng.random()
        if self.site.calm.is_set() or roll < 0.15:
            return self.site.port  # another path
        if roll < 0.6:
            cut_after = int(rng.expovariate(1 / 40_000))
            fault = Fault(cut_after=cut_after, how=rng.choice(("fin", "rst")))
        elif roll < 0.75:
            fault = Fault(rate=rng.choice((4_000.0, 20_000.0)))
            self.held = True
            self.site.ledger.happened["slow readers"] += 1
            self.later(rng.uniform(2, 10), self.cut)
        else:
            self.later(self._life(), lambda: swallow(self))
        proxy.fault = lambda _: fault
        return proxy.port

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something to the link that is being opened, if it is still there then."""

        async def wait() -> None:
            link = self.link
            await asyncio.sleep(seconds)
            if self.link is link and link is not None and not self.site.calm.is_set():
                act()

        self.do(wait())

    def _note_cut(self, kind: str) -> None:
        if self.was_cut in (None, "stalled"):
            self.was_cut = kind
            self.site.cuts[kind] += 1

    def cut(self, kind: str = "between two frames") -> None:
        """Cut at once."""
        if self.link is not None and not self.link.ended.done():
            self._note_cut(kind)
            how: How = self.rng.choice(("fin", "rst"))
            self.link.cut(how)

    def _cut_soon(self) -> None:
        """Cut at a random byte of what comes next; if nothing comes, then."""
        if isinstance(self.link, RawLink):
            self.link.cut_at = self.link.received + self.rng.randint(1, 4000)
            self.later(1.0, self.cut)

    def lost_server(self) -> None:
        """The server has gone; a stalled link will learn it late."""
        if self.link is not None and self.inbox.closing is None:
            self._note_cut(self.site.down)
