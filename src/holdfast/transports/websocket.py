"""WebSocket: the frames of one connection as text messages, and the client's messages as commands.

RFC 6455. Each frame is one text message, the same JSON as over SSE with the event id in the member
`id`. docs/protocol.md describes the client's messages.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import anyio
import anyio.lowlevel

from ..asgi_types import Event, Receive, Send
from ..core import frames
from ..core.frames import Frame
from ..core.validation import check_number, suggest_options
from ..errors import Refused
from ..reasons import Reason
from ..runtime.connection import Connection
from ..runtime.inline_send import InlineSender, PeerLost
from .duplex import FINISH_TIMEOUT, DuplexScope

_logger = logging.getLogger("holdfast")

Command = Callable[[str, dict[str, object]], Awaitable[bytes | None]]
"""Carries out a client's message (its type, and all of it), and returns the frame of the answer."""


@suggest_options
@dataclass(frozen=True, slots=True, kw_only=True)
class InboundLimits:
    """The limits of a client's messages over WebSocket.

    An acknowledgement that moves on is not counted, while there are at most as many of them as
    frames that were sent.

    Args:
        max_bytes: bytes of one message.
        rate: messages per second.
        burst: messages at once.

    Raises:
        ConfigurationError: a value is not a number over 0.
    """

    max_bytes: int = 64 * 1024
    rate: float = 50.0
    burst: int = 200

    def __post_init__(self) -> None:
        check_number("max_bytes", self.max_bytes, whole=True)
        check_number("rate", self.rate)
        check_number("burst", self.burst, whole=True)


@dataclass(frozen=True, slots=True)
class ResumeRequest:
    """The client's first message asked to resume from this event id, on the same socket."""

    event_id: str


class _TextEncoder:
    """The `FrameEncoder` of WebSocket: each frame is one message, and its id the last member."""

    # RuntimeError: uvicorn's legacy implementation, after it has received a disconnect.
    peer_lost: tuple[type[Exception], ...] = (OSError, RuntimeError)

    def prefix(self, body: bytes, id: str) -> str:
        return frames.with_id(body, id)

    def suffix(self, token: str) -> str:
        return token + frames.ID_END

    def join(self, prefixes: Sequence[str]) -> Sequence[str]:
        return prefixes

    def events(self, joined: Sequence[str], suffix: str) -> list[Event]:
        return [{"type": "websocket.send", "text": prefix + suffix} for prefix in joined]


_ENCODER = _TextEncoder()


def encode(frame: Frame) -> str:
    """Return one text message: the frame with its event id as the last member."""
    return frames.with_id(frame.body, frame.id) + frames.ID_END


def parse(message: Event, limit: int) -> dict[str, object]:
    """Read a client's message, an object with a string `type`.

    Raises:
        Refused: it is anything else, or longer than `limit` bytes.
    """
    text = message.get("text")
    if text is None:
        raise Refused(Reason.NOT_TEXT, "send text messages, not binary ones")
    if len(text) > limit or len(text.encode("utf-8", "surrogatepass")) > limit:
        raise Refused(Reason.TOO_LARGE, f"a message has at most {limit} bytes")
    try:
        value = frames.decode(text)
    except (ValueError, RecursionError):
        raise Refused(Reason.NOT_JSON, "the message is not JSON") from None
    message_object = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    if not isinstance(message_object.get("type"), str):
        raise Refused(Reason.NO_TYPE, 'a message is an object with a string "type"')
    return message_object


async def serve(
    connection: Connection,
    receive: Receive,
    send: Send,
    command: Command,
    *,
    limits: InboundLimits | None = None,
    may_resume: bool = True,
    clock: Callable[[], float] = anyio.current_time,
) -> ResumeRequest | None:
    """Run an accepted ASGI `websocket` with `connection`, until either side ends it.

    Args:
        connection: from `Broadcaster.connect`.
        receive: the ASGI receive callable.
        send: the ASGI send callable.
        command: carries out the client's messages.
        limits: the limits of these messages.
        may_resume: whether the first message may ask to resume.
        clock: seconds of a monotonic clock.

    Returns:
        the client's request to resume, if that was its first message and it `may_resume`: the
        socket is then still open. Otherwise the socket was closed with a code that tells the
        client whether to reconnect.

    Cancellation: ends the connection; the server closes the socket.
    """
    resume: list[ResumeRequest] = []
    reading = _read(
        connection,
        receive,
        command,
        limits or InboundLimits(),
        resume,
        clock=clock,
        is_first=may_resume,
    )
    async with DuplexScope(connection, reading):
        await _write(connection, send)
    return resume[0] if resume else None


async def _write(connection: Connection, send: Send) -> None:
    sender = InlineSender(send, _ENCODER, connection.token)
    connection.attach_sender(sender)
    try:
        while (frames_now := await connection.next_frames()) is not None:
            for frame in frames_now:
                await sender.send({"type": "websocket.send", "text": encode(frame)})
            del frames_now  # the next ones may come much later
            connection.mark_sent()
        await close(send, connection.close_reason or Reason.REQUESTED)
    except PeerLost:
        connection.mark_lost()
    except Exception:
        # The broker failed below this connection. The client resumes.
        _logger.exception("the WebSocket of connection %s failed", connection.id)
        connection.close(Reason.FAILED)
        await close(send, Reason.FAILED)
    finally:
        connection.detach_sender()


async def close(send: Send, reason: Reason) -> None:
    """Close the socket, and wait at most `FINISH_TIMEOUT` seconds for that."""
    event: Event = {"type": "websocket.close", "code": reason.close_code, "reason": reason.word}
    with anyio.move_on_after(FINISH_TIMEOUT), suppress(OSError, RuntimeError):
        await send(event)


async def _read(
    connection: Connection,
    receive: Receive,
    command: Command,
    limits: InboundLimits,
    resume: list[ResumeRequest],
    *,
    clock: Callable[[], float],
    is_first: bool,
) -> None:
    """Carry out messages until the client has gone, or asks to resume."""
    allowance, last, acknowledged = float(limits.burst), clock(), 0
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            connection.mark_lost()
            return
        now = clock()
        allowance = min(limits.burst, allowance + (now - last) * limits.rate) - 1
        last = now
        if allowance < 0:
            connection.close(Reason.TOO_MANY_MESSAGES)
            await anyio.sleep_forever()  # until the closing frame is out
        connection.mark_seen()
        try:
            value = parse(message, limits.max_bytes)
            if is_first and value["type"] == "resume":
                event_id = value.get("id")
                if not isinstance(event_id, str):
                    raise Refused(Reason.INVALID_MESSAGE, '"id" must be a string')
                await connection.wait_flushed()  # the client expects the first frame anyway
                resume.append(ResumeRequest(event_id))
                return
            is_first, before = False, connection.session.position
            answer = await command(str(value["type"]), value)
            moved = value["type"] == "ack" and connection.session.position != before
            if moved and acknowledged < connection.frames_sent:
                acknowledged += 1
                allowance += 1
        except Refused as error:
            is_first = False
            answer = refusal(error, time.time())
        if answer is not None:
            connection.put_control(answer)
            # A server with more messages at hand would not let the answer go out.
            await anyio.lowlevel.checkpoint()


def refusal(error: Refused, timestamp: float) -> bytes:
    """Return the error frame that answers a message that was not carried out."""
    return frames.error(error.reason, error.detail, timestamp)
