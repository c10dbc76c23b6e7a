"""The world: two nodes on one broker, clients that come and go, every step taken by a script.

Real Broadcaster parts (Node, Admission, Subscriber, Connection, MemoryBroker) run in an event loop
that only turns when a step says so. No task of holdfast runs: the world decides when a node reads
its feed, when an connection is pumped, what arrives, and when a link is cut.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

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
from holdfast.runtime.inline_send import InlineSender
from holdfast.runtime.node import Node
from holdfast.runtime.options import Options
from holdfast.runtime.subscriptions import SubscriptionControl
from tests.support.frame_reader import PlainFrameEncoder
from tests.support.virtual_loop import run_ready

from .oracle import Client, Log, Published, Violation

TOPICS = ("a", "b")
KEYS = (None, None, "k")
LANES = (Priority.NORMAL, Priority.NORMAL, Priority.LOW, Priority.CRITICAL)
LIMIT = 2
CAPACITY = 3
WINDOW = 300
"""Bytes: one or two messages."""


@dataclass
class Seat:
    """A client with its link: what was sent but has not arrived, and its last event id."""

    account: Client
    rights: set[str] = field(default_factory=lambda: set(TOPICS))
    last_event_id: str | None = None
    requested: tuple[str, ...] = ("a",)
    acknowledges: bool = False
    node: int = 0
    connection: Connection | None = None
    owner: asyncio.Task[None] | None = None
    """The connection's own task, if the fan-out may send on the spot."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Closed: `send` takes what it is given, and then waits."""
    link: list[Frame] = field(default_factory=list)
    greeted: bool = False
    ever_greeted: bool = False
    refused: set[str] = field(default_factory=set)
    unheard: dict[str, int] = field(default_factory=dict)
    """Topics taken away or granted again by connections whose first frame has not arrived, and
    the earliest `since` they may have: the session that is resumed in the end may not know."""


class World:
    """Interprets a script of numbers; raises `Violation` when a promise breaks."""

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
        self.ghosts: list[tuple[Node, Connection, asyncio.Task[None] | None]] = []
        self.seats = [
            Seat(Client("u", self.log)),
            Seat(Client("v", self.log), requested=("a", "b"), acknowledges=True),
        ]

    def close(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
            self.run(asyncio.wait([task]))
        self.loop.close()

    # -- the script ----------------------------------------------------------------------------

    def play(self) -> None:
        """Take steps until the script ends, then let everything arrive and settle the accounts."""
        steps = (
            *(self.publish, self.burst, self.burst),
            *(self.ingest, self.ingest, self.ingest_all),
            *(self.pump, self.pump, self.arrive, self.arrive),
            *(self.connect, self.connect, self.cut, self.cut),
            *(self.resubscribe, self.notice, self.change_rights, self.age, self.acknowledge),
            self.turn_gate,
        )
        try:
            while True:
                steps[self.choose(len(steps))]()
        except StopIteration:
            pass
        self.settle()

    def choose(self, count: int) -> int:
        return next(self._script) % count

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def seat(self) -> Seat:
        return self.seats[self.choose(len(self.seats))]

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
        for seat in self.seats:
            seat.account.published(message)

    def age(self) -> None:
        """Let some time pass: what had a ttl expires."""
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
        seat = self.seat()
        if seat.connection is not None:
            return
        seat.node = self.choose(2)
        self._connect(seat, on_the_spot=bool(self.choose(2)))

    def _connect(self, seat: Seat, *, on_the_spot: bool = False) -> None:
        async def may_subscribe(topic: str) -> bool:
            return topic in seat.rights

        account, node = seat.account, self.nodes[seat.node]
        request = ConnectRequest(
            user=UserId(account.name), topics=seat.requested, last_event_id=seat.last_event_id,
            may_subscribe=may_subscribe, acknowledges=seat.acknowledges, transport="model",
        )  # fmt: skip
        connection = self.run(self.handshakes[seat.node].connect(request))
        self.ghosts = [g for g in self.ghosts if g[1] in g[0].connections]
        seat.connection, seat.greeted = connection, False
        seat.gate.set()
        if on_the_spot:
            seat.owner = self.loop.create_task(self._own(seat, connection, seat.link))
        # By the rules, not by what holdfast did: a revoked topic ends, a new session begins now.
        for topic in set(account.subscribed) - seat.rights:
            seat.unheard.setdefault(topic, account.subscribed[topic])
            account.unsubscribe(topic)
            seat.refused.add(topic)
        for topic in seat.refused & seat.rights:
            account.subscribe(topic, seat.unheard.setdefault(topic, node.log.delivered_offset))
            seat.refused.discard(topic)
        if not seat.ever_greeted:
            account.restart()
            seat.refused = set(seat.requested) - seat.rights
            for topic in seat.requested:
                if topic in seat.rights:
                    account.subscribe(topic, node.log.delivered_offset)

    def pump(self) -> None:
        self._pump(self.seat())

    def _pump(self, seat: Seat) -> bool:
        """Hand over what the connection has now; whether that was anything."""
        connection = seat.connection
        if connection is None:
            return False
        if seat.owner is not None:
            self.run(run_ready())
            return bool(seat.link)

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
        self._check_cursors(seat, frames)
        seat.link.extend(frames)
        return True

    async def _own(self, seat: Seat, connection: Connection, link: list[Frame]) -> None:
        """The task of a connection, as the transports have it."""

        async def send(frame: Frame) -> None:
            if link is seat.link:
                self._check_cursors(seat, [frame])
            link.append(frame)
            await seat.gate.wait()

        sender = InlineSender(cast("Any", send), PlainFrameEncoder(), connection.token)
        connection.attach_sender(sender)
        try:
            while (frames := await connection.next_frames()) is not None:
                self._check_priorities(frames)
                for frame in frames:
                    await sender.send(cast("Any", frame))
                connection.mark_sent()
        finally:
            connection.detach_sender()

    def turn_gate(self) -> None:
        """The link of a connection takes nothing more for a while, or goes on."""
        gate = self.seat().gate
        gate.clear() if gate.is_set() else gate.set()

    def arrive(self) -> None:
        seat = self.seat()
        for _ in range(1 + self.choose(3)):
            self._arrive(seat)

    def _arrive(self, seat: Seat) -> None:
        if not seat.link:
            return
        frame = seat.link.pop(0)
        body = json.loads(frame.body)
        match body["type"]:
            case "message":
                seat.account.receive(self.by_offset[body["data"]])
            case "gap":
                gap = body["data"]
                seat.account.gap(gap["priority"], gap["topics"], gap["count"])
            case "connection_established":
                self._greet(seat, body["data"])
            case kind:
                raise Violation(f"spurious: a frame of type {kind}")
        if frame.id:
            seat.last_event_id = frame.id

    def acknowledge(self) -> None:
        self._acknowledge(self.seat())

    def _acknowledge(self, seat: Seat) -> None:
        """Echo the last event id of this connection."""
        connection, last_event_id = seat.connection, seat.last_event_id
        if not seat.acknowledges or connection is None or not seat.greeted:
            return

        async def echo() -> None:
            assert last_event_id is not None
            connection.acknowledge(last_event_id)

        self.run(echo())

    def _greet(self, seat: Seat, first_frame) -> None:
        seat.greeted = True
        seat.unheard.clear()
        if first_frame["session"] == "fresh" and seat.ever_greeted:
            raise Violation("unjustified: a fresh session for a client that came back")
        seat.ever_greeted = True
        if first_frame["session"] == "gap" and first_frame["gap"]["cause"] != "trimmed":
            raise Violation(f"unjustified: a reset, {first_frame['gap']}")

    def cut(self) -> None:
        seat = self.seat()
        noticed = bool(self.choose(2))
        if seat.connection is None:
            return
        arrived = self.choose(len(seat.link) + 1)
        for _ in range(arrived):
            self._arrive(seat)
        self._drop(seat, noticed)

    def _drop(self, seat: Seat, noticed: bool) -> None:
        assert seat.connection is not None
        ghost = (self.nodes[seat.node], seat.connection, seat.owner)
        seat.connection, seat.owner, seat.link = None, None, []
        # Messages of topics that the client has not heard of may come, but are not owed.
        for topic in seat.unheard:
            seat.account.unsubscribe(topic)
            seat.refused.add(topic)
        if noticed:
            self._notice(*ghost)
        else:
            self.ghosts.append(ghost)

    def notice(self) -> None:
        if self.ghosts:
            self._notice(*self.ghosts.pop(self.choose(len(self.ghosts))))

    def _notice(self, node: Node, connection: Connection, owner: asyncio.Task[None] | None) -> None:
        async def leave() -> None:
            if owner is not None:
                owner.cancel()
                await asyncio.wait([owner])
            session = node.unregister(connection)
            await node.detach(connection.id, session)

        self.run(leave())

    def resubscribe(self) -> None:
        seat = self.seat()
        topic, add = TOPICS[self.choose(2)], bool(self.choose(3))
        if seat.connection is None or not seat.greeted:
            return
        node, control = self.nodes[seat.node], self.subscriptions[seat.node]
        if add:
            allowed, _ = self.run(control.subscribe(seat.connection, [topic]))
            if topic in allowed:
                seat.account.subscribe(topic, node.log.delivered_offset)
        else:
            self.run(control.unsubscribe(seat.connection, [topic]))
            # Frames that were sent before the answer may still arrive.
            seat.gate.set()
            self.run(run_ready())
            while seat.link:
                self._arrive(seat)
            seat.account.unsubscribe(topic)
            seat.refused.discard(topic)

    def change_rights(self) -> None:
        seat = self.seat()
        topic = TOPICS[self.choose(2)]
        if seat.connection is None:
            seat.rights ^= {topic}

    # -- checks ----------------------------------------------------------------------------------

    def _check_priorities(self, frames: list[Frame]) -> None:
        lanes = [
            Priority[body["priority"].upper()]
            for body in map(json.loads, (frame.body for frame in frames))
            if body["type"] == "message"
        ]
        if lanes != sorted(lanes, reverse=True):
            raise Violation(f"reordered: lanes {lanes} in one chunk")

    def _check_cursors(self, seat: Seat, frames: list[Frame]) -> None:
        ids = [EventId.parse(frame.id) for frame in [*seat.link, *frames] if frame.id]
        marks = [event_id.cursor.marks for event_id in ids if event_id is not None]
        for before, after in itertools.pairwise(marks):
            if any(earlier > later for earlier, later in zip(before, after, strict=True)):
                raise Violation(f"cursor went back: {before} then {after}")

    def settle(self) -> None:
        """Everybody comes back, everything arrives, and the accounts must balance."""
        for seat in self.seats:
            if seat.connection is None:
                self._connect(seat)
        for node in self.nodes:
            while node.log.delivered_offset < self.head.offset:
                self._ingest(node, 3)
        for seat in self.seats:
            seat.gate.set()
            for _ in range(10_000):
                while seat.link:
                    self._arrive(seat)
                self._acknowledge(seat)
                if not self._pump(seat):
                    break
            else:
                raise Violation("stuck: an connection that never runs dry")
            seat.account.finish()
