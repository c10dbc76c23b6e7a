"""BatchRenderer: a live batch, planned and encoded once for all connections that keep up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.cursor import format_event_id
from ..core.delivery.batch import DeliveryPlan, LiveBatch
from ..core.delivery.lanes import CHUNK_BYTES, plan_delivery
from .delivered_log import DeliveredLog
from .inline_send import FrameEncoder

MAX_RENDERED_BYTES = 16 * 1024 * 1024
"""Bytes of encoded frames that are kept for other connections."""


@dataclass(frozen=True, slots=True)
class RenderedChunk:
    """Frames that are sent at once. `joined` is their common part, `size` the bytes of bodies."""

    joined: Any
    frames: int
    size: int


@dataclass(frozen=True, slots=True)
class RenderedBatch:
    """A batch as it leaves every connection that keeps up, on one kind of transport.

    `sends` is the number of calls of `send` that this takes.
    """

    plan: DeliveryPlan
    chunks: tuple[RenderedChunk, ...]
    sends: int


class BatchRenderer:
    """Renders batches, and keeps them for the connections that have the same one pending.

    A rendered batch is valid while the node stands at one offset, because the cursors depend on
    it, and within one turn of the event loop if one of its messages can expire.
    """

    def __init__(self, log: DeliveredLog, time: Callable[[], float]) -> None:
        self._log = log
        self._time = time
        self._rendered: dict[tuple[LiveBatch, FrameEncoder], RenderedBatch] = {}
        self._bytes = 0
        self._offset = log.delivered_offset

    def begin_turn(self) -> None:
        """Drop the rendered batches that are no longer valid."""
        offset = self._log.delivered_offset
        if self._offset != offset or any(batch.expires for batch, _ in self._rendered):
            self.clear()
            self._offset = offset

    def clear(self) -> None:
        """Drop all rendered batches."""
        self._rendered.clear()
        self._bytes = 0

    def render(self, batch: LiveBatch, encoder: FrameEncoder) -> RenderedBatch:
        """Return `batch` as it leaves a connection with an empty buffer."""
        rendered = self._rendered.get((batch, encoder))
        if rendered is None:
            if self._bytes > MAX_RENDERED_BYTES:
                self.clear()
            rendered = self._rendered[batch, encoder] = self._render(batch, encoder)
        return rendered

    def _render(self, batch: LiveBatch, encoder: FrameEncoder) -> RenderedBatch:
        plan = plan_delivery(batch, self._log.delivered_offset, self._time())
        chunks: list[RenderedChunk] = []
        prefixes: list[Any] = []
        size = 0
        for number, (message, cursor) in enumerate(plan.steps, 1):
            id_prefix = format_event_id(self._log.epoch, cursor, "")
            prefixes.append(encoder.prefix(message.body, id_prefix))
            size += len(message.body)
            if size >= CHUNK_BYTES or number == len(plan.steps):
                chunks.append(RenderedChunk(encoder.join(prefixes), len(prefixes), size))
                prefixes, size = [], 0
        self._bytes += batch.size
        suffix = encoder.suffix("")
        sends = sum(len(encoder.events(chunk.joined, suffix)) for chunk in chunks)
        return RenderedBatch(plan, tuple(chunks), sends)
