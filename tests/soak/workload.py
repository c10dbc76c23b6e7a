"""The topics and clients of the single-server soak, and the publisher that loads it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from tests.support.clients import request

from .client import REQUEST_ERRORS, SoakClient
from .connections import Kind
from .environment import Environment, checksum
from .published import LANES
from .received import END_TOPIC

TEXT = 'Grüße, 你好, 🙂\r\nline\rline\n\u2028data: no\n\nid: no\x00\t"\\ end. '

STEADY = tuple(f"steady.{number}" for number in range(6))
FAST = tuple(f"fast.{number}" for number in range(4))
ORDERS = ("orders.eu", "orders.us", "orders.eu.returns")
KEYED = ("stock", "prices.metal", "prices.grain")
FLOODS = ("flood.0", "flood.1")
BESIDE_FLOODS = "beside"
"""Published during a flood and read by all readers of floods, so that gaps lie among messages."""
EXTRAS = tuple(f"extra.{number}" for number in range(6))
TOPICS = (
    *STEADY,
    *FAST,
    *ORDERS,
    *KEYED,
    *FLOODS,
    *EXTRAS,
    BESIDE_FLOODS,
    "brief",
    "large",
    END_TOPIC,
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


def draw_topics(rng: random.Random) -> tuple[str, ...]:
    """Return the topics and patterns of one client. Some overlap."""
    chosen = set(rng.sample((*STEADY, *FAST, *ORDERS, *KEYED), rng.randint(2, 5)))
    if rng.random() < 0.4:
        chosen.add(rng.choice(PATTERNS))
    for topic, share in (("brief", 0.3), ("large", 0.15), ("flood.0", 0.08), ("flood.1", 0.08)):
        if rng.random() < share:
            chosen.add(topic)
    if chosen & set(FLOODS):
        chosen.add(BESIDE_FLOODS)
    return (*sorted(chosen), END_TOPIC)


def make_clients(environment: Environment, count: int) -> list[SoakClient]:
    """Return `count` clients: two thirds are users, some with several tabs, the rest anonymous."""
    rng = random.Random(f"{environment.seed} clients")
    clients: list[SoakClient] = []
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
        client = SoakClient(environment, f"client-{number}", kind, draw_topics(rng), user)
        client.polls = kind == "poll"
        if kind in ("sse", "websocket"):
            roll = rng.random()
            if roll < 0.1:
                # Few messages: its last event id is often older than a subscription.
                client = SoakClient(environment, client.name, kind, (END_TOPIC,), user)
            if roll < 0.35:
                wanted = rng.sample((*EXTRAS, "orders.us", "extra.*"), 3)
                client.extra_topics = tuple(t for t in wanted if t not in client.base_topics)
            if rng.random() < 0.1:
                client.receive_buffer = 4096
            client.acknowledges = rng.random() < (0.5 if kind == "websocket" else 0.05)
        clients.append(client)
    return clients


@dataclass(kw_only=True)
class RandomPublisher:
    """Publishes to random topics, so that all clients together receive `rate` messages per second.

    `users` are the users that private messages go to. `clients` is the number of clients.
    """

    environment: Environment
    rate: float
    users: tuple[str, ...]
    min_flood: int
    """Messages."""
    clients: int

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.environment.seed} publisher")
        self._budget = 0.0

    async def run(self) -> None:
        """Publish until the environment is calm. Never ends between a batch and its answer."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while not self.environment.calm.is_set():
            await asyncio.sleep(0.05)
            port = await self.environment.pick_port(self.rng)
            now = loop.time()
            self._budget = min(self.rate, self._budget + self.rate * min(1.0, now - last))
            last = now
            if self._budget > 0:
                await self._publish(port, self._draw_batch())

    async def publish_end_markers(self) -> None:
        """Publish the last message of each lane, for all clients."""
        batch = [self._draw_message(END_TOPIC, lane, small=True) for lane in LANES]
        await self._publish(await self.environment.pick_port(self.rng), batch)

    def _draw_batch(self) -> list[dict[str, Any]]:
        rng, batch = self.rng, list[dict[str, Any]]()
        if rng.random() < 0.03:
            return self._draw_flood(rng.choice(LANES))
        while self._budget > 0:
            topic = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
            lane = rng.choices(LANES, (1, 3, 8, 4))[0]
            batch.append(self._draw_message(topic, lane))
        return batch

    def _draw_flood(self, lane: str) -> list[dict[str, Any]]:
        """Return more messages than a buffer holds, or than the history of a log holds."""
        rng, batch = self.rng, list[dict[str, Any]]()
        topic, size, share_beside = rng.choice(FAST), rng.randint(60, 100), 0.0
        if rng.random() < 0.6:
            size = rng.randint(self.min_flood, self.min_flood * 3 // 2)
            topic, share_beside = rng.choice(FLOODS), 0.2
        for _ in range(size):
            is_beside = rng.random() < share_beside
            flooded = BESIDE_FLOODS if is_beside else topic
            batch.append(self._draw_message(flooded, lane, small=True))
        return batch

    def _draw_message(self, topic: str, lane: str, *, small: bool = False) -> dict[str, Any]:
        rng, published = self.rng, self.environment.published
        key = f"{topic}:{rng.randint(1, 8)}" if topic in KEYED else None
        to_user = None
        if topic == "$user" or (topic in STEADY and rng.random() < 0.2):
            to_user = rng.choice(self.users)
        ttl = None
        if topic == "brief" or rng.random() < 0.03:
            ttl = rng.choice((0.2, 1.0, 5.0))
        text = self._draw_text(topic, small=small)
        number = len(published.messages)
        checked = checksum(number, topic, lane, key, text)
        published.add(topic, lane, checked, key=key, to_user=to_user, ttl=ttl)
        readers = published.readers.get(topic, {})
        share = 1 / len(self.users) if to_user is not None else 1
        # After a restart there are no readers yet, and all of them a moment later.
        self._budget -= share * max(len(readers), self.clients / 10)
        self.environment.results.events["published"] += 1
        message = {"topic": topic, "data": [number, text], "priority": lane.upper()}
        optional = {"key": key, "to_user": to_user, "ttl": ttl}
        return message | {name: value for name, value in optional.items() if value is not None}

    def _draw_text(self, topic: str, *, small: bool) -> str:
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

    async def _publish(self, port: int, batch: list[dict[str, Any]]) -> None:
        """Publish a batch that was recorded. Only the end of the server may lose it."""
        published = self.environment.published
        numbers = [message["data"][0] for message in batch]
        try:
            response = await request(port, "POST", "/publish", {"messages": batch})
            offsets = response.json()["offsets"]
        except REQUEST_ERRORS:
            await asyncio.sleep(0.2)
            if self.environment.is_up(port) and numbers[-1] >= published.first:
                raise
            return
        if numbers[-1] < published.first:
            return  # published to the log that was lost
        if offsets != list(range(offsets[0], offsets[0] + len(batch))):
            detail = f"the offsets {offsets} of one publisher"
            self.environment.results.violation("reordered", detail)
        published.confirm(*numbers)
