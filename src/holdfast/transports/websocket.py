"""WebSocket: one connection's frames as text messages, and the client's messages as commands.

RFC 6455. Each frame is one text message, the same JSON as over SSE with the event id in the field
`id`. docs/protocol.md describes the client's messages.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import anyio
import anyio.lowlevel

from ..asgi_types import Event, Receive, Send
from ..core.connection import CloseReason
from ..core.validation import check_number
from ..errors import Refused
from ..runtime import frames
from ..runtime.connection import Outbox
from ..runtime.frames import Frame
from ..runtime.inline_send import InlineSender, PeerLost
from .duplex import FINISH_TIMEOUT, DuplexScope

_logger = logging.getLogger("holdfast")

Command = Callable[[str, dict[str, object]], Awaitable[bytes | None]]
"""Carries out a client's message (its type, the whole) and returns the frame that answers it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundLimits:
    """What a client may send: bytes in one message, messages per second, and how many at once.

    An acknowledgement that moves on is not counted, as long as there are no more of them than
    frames that were handed over.
    """

    max_bytes: int = 64 * 1024
    rate: float = 50.0
    burst: int = 200

    def __post_init__(self) -> None:
        check_number("max_bytes", self.max_bytes, whole=True)
        check_number("rate", self.rate)
        check_number("burst", self.burst, whole=True)


@dataclass(frozen=True, slots=True)
class Resume:
    """The client's first message asked to resume from this event id, on the same socket."""

    event_id: str


class _TextMessages:
    """The `FrameEncoder` of WebSockets: each frame is one message, its id the last member."""

    # RuntimeError: the legacy uvicorn implementation, after a disconnect was received.
    peer_lost: tuple[type[Exception], ...] = (OSError, RuntimeError)

    def head(self, body: bytes, id: str) -> str:
        return f'{body[:-1].decode()},"id":"{id}'

    def tail(self, token: str) -> str:
        return f'{token}"}}'

    def common(self, heads: Sequence[str]) -> Sequence[str]:
        return heads

    def events(self, common: Sequence[str], tail: str) -> list[Event]:
        return [{"type": "websocket.send", "text": head + tail} for head in common]


_WIRE = _TextMessages()


def encode(frame: Frame) -> str:
    """One text message: the frame with its event id as the last member."""
    return _WIRE.head(frame.body, frame.id) + _WIRE.tail("")


def parse(message: Event, limit: int) -> dict[str, object]:
    """A client's message, an object with a string `type`; raises `Refused` for anything else."""
    text = message.get("text")
    if text is None:
        raise Refused("not_text", "send text messages, not binary ones", status=400)
    if len(text) > limit or len(text.encode("utf-8", "surrogatepass")) > limit:
        raise Refused("too_large", f"a message has at most {limit} bytes", status=413)
    try:
        value = json.loads(text, parse_constant=frames.no_constant)
    except (ValueError, RecursionError):
        raise Refused("not_json", "the message is not JSON", status=400) from None
    message_object = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    if not isinstance(message_object.get("type"), str):
        raise Refused("no_type", 'a message is an object with a string "type"', status=400)
    return message_object


async def serve(
    outbox: Outbox,
    receive: Receive,
    send: Send,
    command: Command,
    *,
    limits: InboundLimits | None = None,
    may_resume: bool = True,
    clock: Callable[[], float] = anyio.current_time,
) -> Resume | None:
    """Run an accepted ASGI `websocket` with `outbox`, until either side ends it.

    Returns the client's wish to resume, if that was its first message and it `may_resume`: the
    socket is then still open. Otherwise the socket has been closed with a code that says whether
    to reconnect.
    """
    resume: list[Resume] = []
    reading = _read(
        outbox, receive, command, limits or InboundLimits(), resume, clock=clock, first=may_resume
    )
    async with DuplexScope(outbox, reading):
        await _write(outbox, send)
    return resume[0] if resume else None


async def _write(outbox: Outbox, send: Send) -> None:
    pipe = outbox.pipe = InlineSender(send, _WIRE, outbox.token)
    try:
        while (frames_now := await outbox.next()) is not None:
            for frame in frames_now:
                await pipe.send({"type": "websocket.send", "text": encode(frame)})
            del frames_now  # the next may be a long time coming
            outbox.sent()
        reason = outbox.connection.close_reason or CloseReason.REQUESTED
        await close(send, reason.code, reason.text)
    except PeerLost:
        outbox.lost()
    except Exception:
        # The broker failed under this connection: the client comes back and is told of it.
        _logger.exception("a stream ended by an error")
        outbox.close(CloseReason.FAILED)
        await close(send, CloseReason.FAILED.code, CloseReason.FAILED.text)
    finally:
        outbox.pipe = None
        pipe.close()


async def close(send: Send, code: int, reason: str) -> None:
    """Close the socket, without waiting for ever."""
    with anyio.move_on_after(FINISH_TIMEOUT), suppress(OSError, RuntimeError):
        await send({"type": "websocket.close", "code": code, "reason": reason})


async def _read(
    outbox: Outbox,
    receive: Receive,
    command: Command,
    limits: InboundLimits,
    resume: list[Resume],
    *,
    clock: Callable[[], float],
    first: bool,
) -> None:
    """Carry out messages until the client is gone, or wants to `resume`."""
    allowance, last, acknowledged = float(limits.burst), clock(), 0
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            outbox.lost()
            return
        now = clock()
        allowance = min(limits.burst, allowance + (now - last) * limits.rate) - 1
        last = now
        if allowance < 0:
            outbox.close(CloseReason.ABUSE)
            await anyio.sleep_forever()  # until the closing frame is out
        outbox.seen()
        try:
            value = parse(message, limits.max_bytes)
            if first and value["type"] == "resume":
                event_id = value.get("id")
                if not isinstance(event_id, str):
                    raise Refused("invalid_message", '"id" must be a string', status=400)
                await outbox.flushed()  # the client counts on the first frame of what it leaves
                resume.append(Resume(event_id))
                return
            first, before = False, outbox.connection.session.position
            answer = await command(str(value["type"]), value)
            moved = value["type"] == "ack" and outbox.connection.session.position != before
            if moved and acknowledged < outbox.frames_sent:
                acknowledged += 1
                allowance += 1
        except Refused as error:
            first = False
            answer = refusal(error, time.time())
        if answer is not None:
            outbox.put(answer)
            # A server that has more messages at hand would not let the answer go out.
            await anyio.lowlevel.checkpoint()


def refusal(error: Refused, timestamp: float) -> bytes:
    """The error frame that answers a message that was not carried out."""
    return frames.control("error", timestamp, {"code": error.code, "detail": error.detail})
