"""FanOut: brings each message of the live feed to the connections that may have it.

A batch is offered to all at once, and nothing waits meanwhile. Then those that have something new
are looked at, a slice of them per turn of the event loop, in the order in which they got it: one
that keeps up is served on the spot, any other is left to its own task. While a slice is served,
the next messages gather, so batches grow with the load, and nobody else waits for long.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..core.connection import CloseReason
from ..core.delivery.batch import DeliveryPlan, LiveBatch
from ..core.delivery.lanes import CHUNK_BYTES, plan_delivery
from ..core.message import OFFSET_ZERO, Message, UserId

if TYPE_CHECKING:
    from .connection import Outbox
    from .inline_send import FrameEncoder
    from .node import Node

_logger = logging.getLogger("holdfast")

SLICE = 100
"""Connections that are looked at in one turn of the event loop, at the most."""

SLICE_SENDS = 1000
"""Sends after which the turn ends before that."""

RENDERED_BYTES = 16 * 1024 * 1024
"""Frames that are kept for others who may need the same."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames that are handed over at once: what they have in common, how many, how many bytes."""

    common: Any
    frames: int
    size: int


@dataclass(frozen=True, slots=True)
class Rendering:
    """A run as it leaves every connection that keeps up, on one kind of transport."""

    passage: DeliveryPlan
    chunks: tuple[Chunk, ...]
    sends: int


class FanOut:
    """One instance per node.

    Invariant (tests/runtime/test_fanout.py): whoever has something to hand over is looked at, or
    its own task is awake.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._due: deque[Outbox] = deque()
        self._renderings: dict[tuple[LiveBatch, FrameEncoder], Rendering] = {}
        self._rendered = 0
        self._position = OFFSET_ZERO

    def offer(self, messages: Iterable[Message]) -> None:
        """Offer each message to whoever may have it, and see to it that they are looked at."""
        node, due = self._node, self._due
        is_idle = not due
        for _, stretch in groupby(messages, _address):
            run = LiveBatch(tuple(stretch))
            for connection in node.registry.recipients(run.messages[0]):
                if connection.delivery.offer(run):
                    due.append(node.outboxes[connection])
        if due and is_idle:
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Look at the next slice of those who are due."""
        due, monotonic = self._due, self._node.monotonic()
        if self._position != self._node.ingested or any(run.expires for run, _ in self._renderings):
            self._forget()
            self._position = self._node.ingested
        sends = 0
        for _ in range(min(SLICE, len(due))):
            if sends >= SLICE_SENDS:
                break
            outbox = due.popleft()
            try:
                sends += self._serve(outbox, monotonic)
            except Exception:
                # One connection costs the others nothing. It comes back, and reads on.
                _logger.exception("a connection could not be served; it is closed")
                outbox.close(CloseReason.FAILED)
        if due:
            asyncio.get_running_loop().call_soon(self._look)
        else:
            self._forget()

    def _serve(self, outbox: Outbox, monotonic: float) -> int:
        """Hand over what the live feed has brought, on the spot, or wake the connection's task.

        On the spot only while that task waits for it, and the connection keeps up. Returns how
        many sends that took, about.
        """
        delivery, pipe, waiter, window = (
            outbox.connection.delivery, outbox.pipe, outbox.waiter, outbox.window,
        )  # fmt: skip
        run = delivery.pending_batch
        if (
            run is None or pipe is None or waiter is None or waiter.done() or delivery.buffer
            or (window is not None and window.room < run.size)
        ):  # fmt: skip
            delivery.flush()
            outbox.wake()
            return 0
        rendering = self._rendering(run, pipe.wire)
        delivery.mark_sent(rendering.passage)
        steps, count, size = rendering.passage.steps, 0, 0
        for chunk in rendering.chunks:
            count += chunk.frames
            size += chunk.size
            unsent = pipe.send_nowait(chunk.common)
            if unsent is not None:  # its own task goes on
                count -= unsent
                size = sum([len(message.body) for message, _ in steps[:count]])
                outbox.blocked_since = monotonic
                delivery.requeue(rendering.passage, count)
                outbox.wake()
                break
        if window is not None:
            for message, cursor in steps[:count]:
                window.sent(cursor, len(message.body) + len(outbox.id_at(cursor)), monotonic)
        if count:
            outbox.last_sent = monotonic
            outbox.frames_sent += count
            outbox.bytes_sent += size
        return rendering.sends

    def _rendering(self, run: LiveBatch, wire: FrameEncoder) -> Rendering:
        """How `run` leaves by this wire; worked out once for all who are looked at."""
        rendering = self._renderings.get((run, wire))
        if rendering is None:
            if self._rendered > RENDERED_BYTES:
                self._forget()
            rendering = self._renderings[run, wire] = self._render(run, wire)
        return rendering

    def _render(self, run: LiveBatch, wire: FrameEncoder) -> Rendering:
        node = self._node
        passage = plan_delivery(run, node.ingested, node.clock())
        chunks: list[Chunk] = []
        heads: list[Any] = []
        size = 0
        for number, (message, cursor) in enumerate(passage.steps, 1):
            heads.append(wire.head(message.body, f"{node.epoch}~{cursor}~"))
            size += len(message.body)
            if size >= CHUNK_BYTES or number == len(passage.steps):
                chunks.append(Chunk(wire.common(heads), len(heads), size))
                heads, size = [], 0
        self._rendered += run.size
        sends = sum(len(wire.events(chunk.common, wire.tail(""))) for chunk in chunks)
        return Rendering(passage, tuple(chunks), sends)

    def _forget(self) -> None:
        self._renderings.clear()
        self._rendered = 0


def _address(message: Message) -> tuple[str, UserId | None]:
    return message.topic, message.to_user
