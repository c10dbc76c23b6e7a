"""The world: two nodes on one broker, and clients that connect and disconnect, driven by a script.

Real parts (Node, Handshake, SubscriptionControl, Connection, MemoryBroker) run in an event loop
that turns only within a step. No task of holdfast runs: the world decides when a node reads the
feed, when a connection sends, which frames arrive, and when a link is cut.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast.brokers.memory import MemoryBroker
from holdfast.brokers.protocol import Batch
from holdfast.core.cursor import EventId, Head
from holdfast.core.frames import Frame
from holdfast.core.log.retention import Retention
from holdfast.core.message import Priority, UserId
from holdfast.core.publishing import make_draft
from holdfast.runtime.audit import AuditTrail
from holdfast.runtime.clock import Clock
from holdfast.runtime.connection import Connection
from holdfast.runtime.handshake import ConnectRequest, Handshake
from holdfast.runtime.node import Node
from holdfast.runtime.options import Options
from holdfast.runtime.subscriptions import SubscriptionControl
from tests.support.frame_reader import send_frames
from tests.support.virtual_loop import run_ready

from .oracle import ClientAccount, Log, Published, Violation

TOPICS = ("a", "b")
KEYS = (None, None, "k")
LANES = (Priority.NORMAL, Priority.NORMAL, Priority.LOW, Priority.CRITICAL)
LIMIT = 2
CAPACITY = 3
WINDOW = 300
"""Bytes of one or two messages."""


@dataclass
class SimulatedClient:
    """A client with its link, which holds the frames that have not arrived."""

    account: ClientAccount
    allowed_topics: set[str] = field(default_factory=lambda: set(TOPICS))
    last_event_id: str | None = None
    requested: tuple[str, ...] = ("a",)
    acknowledges: bool = False
    node: int = 0
    connection: Connection | None = None
    owner: asyncio.Task[None] | None = None
    """The connection's own task, if the fan-out may send inline."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is cleared, `send` accepts one frame, and then waits."""
    link: list[Frame] = field(default_factory=list)
    has_first_frame: bool = False
    ever_had_first_frame: bool = False
    refused: set[str] = field(default_factory=set)
    unreported: dict[str, int] = field(default_factory=dict)
    """Topics that were withdrawn or granted by connections whose first frame has not arrived, with
    the earliest `since` that they may have: the resumed session may be an earlier one."""


class World:
    """Interprets a script of numbers. Raises `Violation` if a promise is broken."""

    def __init__(self, script: list[int]) -> None:
        self._script: Iterator[int] = iter(script)
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.log = Log(LIMIT, now=self.now)
        self.by_offset: dict[int, Published] = {}
        self.broker = MemoryBroker(retention=Retention(limit=LIMIT), clock=lambda: self.now)
        self.run(self.broker.start())
        options = Options(buffer_capacity=CAPACITY, window_bytes=WINDOW)
        self.head = self.run(self.broker.head())
        clock = Clock(lambda: self.now, self.loop.time)
        audit = AuditTrail(None, clock.time)
        self.nodes = [Node(self.broker, options, clock, audit, self.head) for _ in range(2)]
        self.subscriptions = [SubscriptionControl(node) for node in self.nodes]
        self.handshakes = [
            Handshake(node, control)
            for node, control in zip(self.nodes, self.subscriptions, strict=True)
        ]
        self.lost_connections: list[tuple[Node, Connection, asyncio.Task[None] | None]] = []
        self.clients = [
            SimulatedClient(ClientAccount("u", self.log)),
            SimulatedClient(ClientAccount("v", self.log), requested=("a", "b"), acknowledges=True),
        ]

    def close(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
            self.run(asyncio.wait([task]))
        self.loop.close()

    # -- the script ----------------------------------------------------------------------------

    def play(self) -> None:
        """Take the steps of the script, then let every frame arrive and check the accounts."""
        steps = (
            *(self.publish, self.burst, self.burst),
            *(self.ingest, self.ingest, self.ingest_all),
            *(self.send_next, self.send_next, self.receive, self.receive),
            *(self.connect, self.connect, self.cut, self.cut),
            *(
                self.resubscribe,
                self.notice_loss,
                self.change_permissions,
                self.pass_time,
                self.acknowledge,
            ),
            self.toggle_gate,
        )
        try:
            while True:
                steps[self.choose(len(steps))]()
        except StopIteration:
            pass
        self.finish()

    def choose(self, count: int) -> int:
        return next(self._script) % count

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def client(self) -> SimulatedClient:
        return self.clients[self.choose(len(self.clients))]

    # -- steps ---------------------------------------------------------------------------------

    def publish(self) -> None:
        topic = TOPICS[self.choose(2)]
        lane = LANES[self.choose(len(LANES))]
        key = KEYS[self.choose(len(KEYS))]
        to_user = (None, None, "u")[self.choose(3)]
        ttl = (None, None, None, 2.0)[self.choose(4)]
        draft = make_draft(
            topic, self.log.messages[-1].offset + 1 if self.log.messages else 1,
            priority=lane, key=key, ttl=ttl, to_user=to_user, idempotency_key=None,
            now=self.now, max_bytes=10_000,
        )  # fmt: skip
        self.head = self.run(self.broker.publish(draft))
        expires_at = None if ttl is None else self.now + ttl
        message = Published(self.head.offset, topic, lane.label, key, to_user, expires_at)
        self.log.publish(message)
        self.by_offset[message.offset] = message
        for client in self.clients:
            client.account.published(message)

    def pass_time(self) -> None:
        """Let one second pass, in which messages may expire."""
        self.now += 1.0
        self.log.now = self.now

    def burst(self) -> None:
        for _ in range(1 + self.choose(6)):
            self.publish()

    def ingest(self) -> None:
        self._ingest(self.nodes[self.choose(2)], 1 + self.choose(4))

    def ingest_all(self) -> None:
        node = self.nodes[self.choose(2)]
        while node.log.delivered_offset < self.head.offset:
            self._ingest(node, 10)

    def _ingest(self, node: Node, count: int) -> None:
        if node.log.delivered_offset >= self.head.offset:
            return
        batch = self.run(self.broker.follow(node.log.head))
        part = batch.messages[:count]

        async def deliver() -> None:
            node.deliver(Batch(Head(node.log.epoch, part[-1].offset), part))

        self.run(deliver())

    def connect(self) -> None:
        client = self.client()
        if client.connection is not None:
            return
        client.node = self.choose(2)
        self._connect(client, inline=bool(self.choose(2)))

    def _connect(self, client: SimulatedClient, *, inline: bool = False) -> None:
        async def may_subscribe(topic: str) -> bool:
            return topic in client.allowed_topics

        account, node = client.account, self.nodes[client.node]
        request = ConnectRequest(
            user=UserId(account.name), topics=client.requested, last_event_id=client.last_event_id,
            may_subscribe=may_subscribe, acknowledges=client.acknowledges, transport="model",
        )  # fmt: skip
        connection = self.run(self.handshakes[client.node].connect(request))
        self.lost_connections = [
            entry for entry in self.lost_connections if entry[1] in entry[0].connections
        ]
        client.connection, client.has_first_frame = connection, False
        client.gate.set()
        if inline:
            client.owner = self.loop.create_task(
                self._run_connection(client, connection, client.link)
            )
        # The oracle applies the rules: a forbidden topic ends, and a new session begins now.
        for topic in set(account.subscribed) - client.allowed_topics:
            client.unreported.setdefault(topic, account.subscribed[topic])
            account.unsubscribe(topic)
            client.refused.add(topic)
        for topic in client.refused & client.allowed_topics:
            account.subscribe(topic, client.unreported.setdefault(topic, node.log.delivered_offset))
            client.refused.discard(topic)
        if not client.ever_had_first_frame:
            account.restart()
            client.refused = set(client.requested) - client.allowed_topics
            for topic in client.requested:
                if topic in client.allowed_topics:
                    account.subscribe(topic, node.log.delivered_offset)

    def send_next(self) -> None:
        self._send(self.client())

    def _send(self, client: SimulatedClient) -> bool:
        """Send the pending frames of the connection. Returns whether there were any."""
        connection = client.connection
        if connection is None:
            return False
        if client.owner is not None:
            self.run(run_ready())
            return bool(client.link)

        async def step() -> list[Frame] | None:
            task = asyncio.ensure_future(connection.next_frames())
            for _ in range(20):
                if task.done():
                    return task.result()
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            return None

        frames = self.run(step())
        if frames is None:
            return False
        self._check_priorities(frames)
        self._check_cursors(client, frames)
        client.link.extend(frames)
        return True

    async def _run_connection(
        self, client: SimulatedClient, connection: Connection, link: list[Frame]
    ) -> None:
        """Run the connection's own task, as the transports do."""

        async def send(frame: Frame) -> None:
            if link is client.link:
                self._check_cursors(client, [frame])
            link.append(frame)
            await client.gate.wait()

        await send_frames(connection, send, on_batch=self._check_priorities)

    def toggle_gate(self) -> None:
        """Let the link of a connection block its sends, or unblock them."""
        gate = self.client().gate
        gate.clear() if gate.is_set() else gate.set()

    def receive(self) -> None:
        client = self.client()
        for _ in range(1 + self.choose(3)):
            self._receive(client)

    def _receive(self, client: SimulatedClient) -> None:
        if not client.link:
            return
        frame = client.link.pop(0)
        body = json.loads(frame.body)
        match body["type"]:
            case "message":
                client.account.receive(self.by_offset[body["data"]])
            case "gap":
                gap = body["data"]
                client.account.gap(gap["priority"], gap["topics"], gap["count"])
            case "connection_established":
                self._receive_first_frame(client, body["data"])
            case kind:
                raise Violation(f"spurious: a frame of type {kind}")
        if frame.id:
            client.last_event_id = frame.id

    def acknowledge(self) -> None:
        self._acknowledge(self.client())

    def _acknowledge(self, client: SimulatedClient) -> None:
        """Acknowledge the last event id of this connection."""
        connection, last_event_id = client.connection, client.last_event_id
        if not client.acknowledges or connection is None or not client.has_first_frame:
            return

        async def echo() -> None:
            assert last_event_id is not None
            connection.acknowledge(last_event_id)

        self.run(echo())

    def _receive_first_frame(self, client: SimulatedClient, first_frame) -> None:
        client.has_first_frame = True
        client.unreported.clear()
        if first_frame["session"] == "fresh" and client.ever_had_first_frame:
            raise Violation("unjustified: a fresh session for a client that reconnected")
        client.ever_had_first_frame = True
        if first_frame["session"] == "gap" and first_frame["gap"]["cause"] != "trimmed":
            raise Violation(f"unjustified: a reset, {first_frame['gap']}")

    def cut(self) -> None:
        client = self.client()
        is_noticed = bool(self.choose(2))
        if client.connection is None:
            return
        arriving = self.choose(len(client.link) + 1)
        for _ in range(arriving):
            self._receive(client)
        self._disconnect(client, is_noticed)

    def _disconnect(self, client: SimulatedClient, is_noticed: bool) -> None:
        assert client.connection is not None
        lost = (self.nodes[client.node], client.connection, client.owner)
        client.connection, client.owner, client.link = None, None, []
        # The client may get topics that no first frame has reported, but does not have to.
        for topic in client.unreported:
            client.account.unsubscribe(topic)
            client.refused.add(topic)
        if is_noticed:
            self._notice_loss(*lost)
        else:
            self.lost_connections.append(lost)

    def notice_loss(self) -> None:
        if self.lost_connections:
            self._notice_loss(*self.lost_connections.pop(self.choose(len(self.lost_connections))))

    def _notice_loss(
        self, node: Node, connection: Connection, owner: asyncio.Task[None] | None
    ) -> None:
        async def detach() -> None:
            if owner is not None:
                owner.cancel()
                await asyncio.wait([owner])
            session = node.unregister(connection)
            await node.detach(connection.id, session)

        self.run(detach())

    def resubscribe(self) -> None:
        client = self.client()
        topic, add = TOPICS[self.choose(2)], bool(self.choose(3))
        if client.connection is None or not client.has_first_frame:
            return
        node, control = self.nodes[client.node], self.subscriptions[client.node]
        if add:
            allowed, _ = self.run(control.subscribe(client.connection, [topic]))
            if topic in allowed:
                client.account.subscribe(topic, node.log.delivered_offset)
        else:
            self.run(control.unsubscribe(client.connection, [topic]))
            # Frames that were sent before the answer may still arrive.
            client.gate.set()
            self.run(run_ready())
            while client.link:
                self._receive(client)
            client.account.unsubscribe(topic)
            client.refused.discard(topic)

    def change_permissions(self) -> None:
        client = self.client()
        topic = TOPICS[self.choose(2)]
        if client.connection is None:
            client.allowed_topics ^= {topic}

    # -- checks ----------------------------------------------------------------------------------

    def _check_priorities(self, frames: list[Frame]) -> None:
        lanes = [
            Priority[body["priority"].upper()]
            for body in map(json.loads, (frame.body for frame in frames))
            if body["type"] == "message"
        ]
        if lanes != sorted(lanes, reverse=True):
            raise Violation(f"reordered: lanes {lanes} in one chunk")

    def _check_cursors(self, client: SimulatedClient, frames: list[Frame]) -> None:
        ids = [EventId.parse(frame.id) for frame in [*client.link, *frames] if frame.id]
        marks = [event_id.cursor.marks for event_id in ids if event_id is not None]
        for before, after in itertools.pairwise(marks):
            if any(earlier > later for earlier, later in zip(before, after, strict=True)):
                raise Violation(f"cursor went back: {before} then {after}")

    def finish(self) -> None:
        """Connect all clients, let every frame arrive, and check the accounts."""
        for client in self.clients:
            if client.connection is None:
                self._connect(client)
        for node in self.nodes:
            while node.log.delivered_offset < self.head.offset:
                self._ingest(node, 3)
        for client in self.clients:
            client.gate.set()
            for _ in range(10_000):
                while client.link:
                    self._receive(client)
                self._acknowledge(client)
                if not self._send(client):
                    break
            else:
                raise Violation("stuck: a connection that always has frames")
            client.account.finish()
