"""The load: who reads what, and the publisher that enters everything in the ledger first."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from tests.support.clients import request

from .clients import NO_ANSWER, Client
from .inbox import LAST_TOPIC
from .ledger import LANES
from .links import Kind
from .site import Site, checksum

TEXT = 'Grüße, 你好, 🙂\r\nline\rline\n\u2028data: no\n\nid: no\x00\t"\\ end. '

STEADY = tuple(f"steady.{number}" for number in range(6))
FAST = tuple(f"fast.{number}" for number in range(4))
ORDERS = ("orders.eu", "orders.us", "orders.eu.returns")
KEYED = ("stock", "prices.metal", "prices.grain")
FLOODS = ("flood.0", "flood.1")
BESIDE = "beside"
"""Published among a flood, and read by all who read one: so gaps stand among messages."""
EXTRAS = tuple(f"extra.{number}" for number in range(6))
TOPICS = (
    *STEADY,
    *FAST,
    *ORDERS,
    *KEYED,
    *FLOODS,
    *EXTRAS,
    BESIDE,
    "brief",
    "large",
    LAST_TOPIC,
    "$user",
)

PATTERNS = ("orders.*", "orders.**", "steady.*", "prices.*", "fast.0", "fast.*")

WEIGHTS = {
    **dict.fromkeys(STEADY, 4),
    **dict.fromkeys(FAST, 14),
    **dict.fromkeys(ORDERS, 4),
    **dict.fromkeys(KEYED, 5),
    **dict.fromkeys(EXTRAS, 3),
    **dict.fromkeys(FLOODS, 1),
    "brief": 4,
    "large": 1,
    "$user": 12,
}


def topics_of(rng: random.Random) -> tuple[str, ...]:
    """What one client asks for: some topics, some patterns, overlapping too."""
    chosen = set(rng.sample((*STEADY, *FAST, *ORDERS, *KEYED), rng.randint(2, 5)))
    if rng.random() < 0.4:
        chosen.add(rng.choice(PATTERNS))
    for topic, share in (("brief", 0.3), ("large", 0.15), ("flood.0", 0.08), ("flood.1", 0.08)):
        if rng.random() < share:
            chosen.add(topic)
    if chosen & set(FLOODS):
        chosen.add(BESIDE)
    return (*sorted(chosen), LAST_TOPIC)


@dataclass
class Publisher:
    """Publishes so much that ``rate`` messages are delivered in a second, over all clients."""

    site: Site
    rate: float
    users: tuple[str, ...]
    burst: int
    """Messages in a flood, at least."""
    clients: int
    published: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.site.seed} publisher")
        self._budget = 0.0

    async def run(self) -> None:
        """Publish until all is calm; never ends between sending a batch and its answer."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while not self.site.calm.is_set():
            await asyncio.sleep(0.05)
            await self.site.up.wait()
            now = loop.time()
            self._budget = min(self.rate, self._budget + self.rate * min(1.0, now - last))
            last = now
            if self._budget > 0:
                await self.publish(self._batch())

    def _batch(self) -> list[dict[str, Any]]:
        rng, batch = self.rng, list[dict[str, Any]]()
        if rng.random() < 0.03:
            return self._burst(rng.choice(LANES))
        while self._budget > 0:
            topic = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
            lane = rng.choices(LANES, (1, 3, 8, 4))[0]
            batch.append(self._enter(topic, lane))
        return batch

    def _burst(self, lane: str) -> list[dict[str, Any]]:
        """More than a buffer holds; or more than the history of a log, among other messages."""
        rng, batch = self.rng, list[dict[str, Any]]()
        topic, size, others = rng.choice(FAST), rng.randint(60, 100), 0.0
        if rng.random() < 0.6:
            topic, size, others = (
                rng.choice(FLOODS),
                rng.randint(self.burst, self.burst * 3 // 2),
                0.2,
            )
        for _ in range(size):
            other = rng.random() < others
            batch.append(self._enter(BESIDE if other else topic, lane, small=True))
        return batch

    def _enter(self, topic: str, lane: str, *, small: bool = False) -> dict[str, Any]:
        rng, ledger = self.rng, self.site.ledger
        key = f"{topic}:{rng.randint(1, 8)}" if topic in KEYED else None
        to_user = None
        if topic == "$user" or (topic in STEADY and rng.random() < 0.2):
            to_user = rng.choice(self.users)
        ttl = None
        if topic == "brief" or rng.random() < 0.03:
            ttl = rng.choice((0.2, 1.0, 5.0))
        text = self._text(topic, small=small)
        number = len(ledger.messages)
        sum_ = checksum(number, topic, lane, key, text)
        ledger.enter(topic, lane, sum_, key=key, to_user=to_user, ttl=ttl)
        readers = ledger.readers.get(topic, {})
        share = 1 / len(self.users) if to_user is not None else 1
        # After a restart nobody is there yet, but soon everybody.
        self._budget -= share * max(len(readers), self.clients / 10)
        self.published += 1
        self.bytes += len(text)
        message = {"topic": topic, "data": [number, text], "priority": lane.upper()}
        optional = {"key": key, "to_user": to_user, "ttl": ttl}
        return message | {name: value for name, value in optional.items() if value is not None}

    def _text(self, topic: str, *, small: bool) -> str:
        rng = self.rng
        roll = rng.random()
        if topic == "large":
            size = rng.randint(2_000, 15_000)
        elif small or roll < 0.5:
            size = rng.randint(0, 40)
        elif roll < 0.97:
            size = int(rng.expovariate(1 / 250))
        else:
            size = rng.randint(1_000, 6_000)
        start = rng.randrange(len(TEXT))
        return (TEXT * (size // len(TEXT) + 2))[start : start + size]

    async def publish(self, batch: list[dict[str, Any]]) -> None:
        """Send what was entered; it may get lost only together with the server."""
        ledger = self.site.ledger
        last = len(ledger.messages) - 1
        try:
            answer = await request(self.site.port, "POST", "/publish", {"messages": batch})
            offsets = answer.json()["offsets"]
        except NO_ANSWER:
            await asyncio.sleep(0.2)
            if self.site.up.is_set() and last >= ledger.begin:
                raise
            return
        if last < ledger.begin:
            return  # it went to the log that is gone
        if offsets != list(range(offsets[0], offsets[0] + len(batch))):
            ledger.breach("reordered", f"the offsets {offsets} of one publisher")
        ledger.answer(last)

    async def end(self) -> None:
        """The last message of each lane, for everybody."""
        await self.publish([self._enter(LAST_TOPIC, lane, small=True) for lane in LANES])


def make_clients(site: Site, count: int) -> list[Client]:
    """Two thirds of the clients are users, some with several tabs; the rest are anonymous."""
    rng = random.Random(f"{site.seed} clients")
    clients: list[Client] = []
    users = 0
    for number in range(count):
        if number % 3:
            users += rng.random() < 0.7
            user = f"user-{users}"
        else:
            user = None
        kind: Kind = "sse" if rng.random() < 0.6 else "websocket"
        if number < 4:
            kind = "websockets" if number % 2 else "httpx-sse"
        elif number % 20 == 10:
            kind = "poll"
        client = Client(site, f"client-{number}", kind, topics_of(rng), user)
        client.polls = kind == "poll"
        if kind in ("sse", "websocket"):
            roll = rng.random()
            if roll < 0.1:
                # Hears so little that its last event id is often of before a subscription.
                client = Client(site, client.name, kind, (LAST_TOPIC,), user)
            if roll < 0.35:
                wanted = rng.sample((*EXTRAS, "orders.us", "extra.*"), 3)
                client.extra = tuple(topic for topic in wanted if topic not in client.base)
            if rng.random() < 0.1:
                client.receive_buffer = 4096
            client.acknowledges = rng.random() < (0.5 if kind == "websocket" else 0.05)
        clients.append(client)
    return clients
