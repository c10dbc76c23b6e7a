"""WebSocket (RFC 6455): frames as text messages, and the client's messages as commands.

A text message has the same JSON as an event over SSE, with the event id in its member `id`.
docs/protocol.md, section 9, describes the client's messages.
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
"""A coroutine function that carries out one message of the client.

Its arguments are the type of the message and the whole message. Its result is the frame of the
answer, or `None` for no answer. `Refused` is answered with an error frame.
"""


@suggest_options
@dataclass(frozen=True, slots=True, kw_only=True)
class InboundLimits:
    """The limits of the messages that one client sends over WebSocket.

    Acknowledgements with a new event id do not count, up to one per frame that was sent.

    Args:
        max_bytes: Bytes of one message in UTF-8, at most.
        rate: Messages per second, on average.
        burst: Messages at once, at most.

    Raises:
        ConfigurationError: A value is not a number over 0.
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
    """The client's first message: a request to resume on the same socket.

    Attributes:
        event_id: The event id to resume from.
    """

    event_id: str


class _TextEncoder:
    """The `FrameEncoder` of WebSocket. A frame is one text message; `id` is its last member."""

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
    """Return the text message of a frame, with the event id as its last member."""
    return frames.with_id(frame.body, frame.id) + frames.ID_END


def parse(message: Event, limit: int) -> dict[str, object]:
    """Return a client's message, an object with a string `type`.

    Args:
        message: An ASGI event `websocket.receive`.
        limit: Bytes of the message in UTF-8, at most.

    Raises:
        Refused: The message is anything else, or longer than `limit`.
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
    """Serve an accepted ASGI `websocket`, until the client or the server ends it.

    Args:
        connection: From `Broadcaster.connect`.
        receive: The ASGI receive callable.
        send: The ASGI send callable.
        command: Carries out the client's messages.
        limits: The limits of these messages; the defaults of `InboundLimits` if `None`.
        may_resume: True if the first message may be a request to resume.
        clock: Returns seconds of a monotonic clock.

    Returns:
        The client's request to resume, if that was its first message. The socket is still open,
        and the caller serves it with a new connection. `None` after the socket was closed; its
        close code is that of `connection.close_reason`.

    Cancellation:
        The stream ends, and no task is left. The ASGI server closes the socket.
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
            del frames_now  # frees the memory, because the next frames may be hours away
            connection.mark_sent()
        await close(send, connection.close_reason or Reason.REQUESTED)
    except PeerLost:
        connection.mark_lost()
    except Exception:
        # The broker raised an unexpected error. The client resumes.
        _logger.exception("the WebSocket of connection %s failed", connection.id)
        connection.close(Reason.FAILED)
        await close(send, Reason.FAILED)
    finally:
        connection.detach_sender()


async def close(send: Send, reason: Reason) -> None:
    """Close the socket with the code of `reason`, within `FINISH_TIMEOUT` seconds.

    Args:
        send: The ASGI send callable.
        reason: The reason, whose word is the close reason.

    Cancellation:
        The close event may not have been sent.
    """
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
    """Carry out messages until the client disconnects, or its first message asks to resume."""
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
            await anyio.sleep_forever()  # `serve` cancels this after the closing frame
        connection.mark_seen()
        try:
            value = parse(message, limits.max_bytes)
            if is_first and value["type"] == "resume":
                event_id = value.get("id")
                if not isinstance(event_id, str):
                    raise Refused(Reason.INVALID_MESSAGE, '"id" must be a string')
                await connection.wait_flushed()  # the client gets this connection's first frame
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
            # While the server has more messages, `receive` does not wait, and no other task could
            # send the answer.
            await anyio.lowlevel.checkpoint()


def refusal(error: Refused, timestamp: float) -> bytes:
    """Return the error frame that answers a refused message.

    Args:
        error: The refusal.
        timestamp: Seconds since the Unix epoch.
    """
    return frames.error(error.reason, error.detail, timestamp)
