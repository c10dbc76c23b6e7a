"""All exceptions of holdfast, in one tree, arranged by who has to act.

    HoldfastError
    ├── ConfigurationError      operator: a setting that cannot work (also a ValueError)
    ├── PublishError            publisher: the message cannot be published (also a ValueError)
    │   ├── InvalidTopic        the name is not a topic
    │   ├── InvalidPayload      the data has no JSON form
    │   └── MessageTooLarge     the message exceeds the limit in bytes
    ├── NotRunning              application: used before the start or after the end
    ├── WrongThread             application: called from another thread or event loop
    ├── BrokerUnavailable       operator: the broker cannot be reached; nothing was done
    ├── OutcomeUnknown          operator: the link to the broker broke; the work may have been done
    ├── BroadcasterFailed       application: a background task died; `__cause__` is its exception
    ├── IllegalTransition       holdfast itself: an event that its lifecycle table forbids
    ├── Refused                 client: `reason` has the status and the close code
    └── StreamFailed            consumer of a stream (`holdfast.client`): `code`, `status`
        ├── RequestRefused      the server refused a request
        ├── StreamEnded         the server ended the stream, and the client must not reconnect
        └── InvalidStream       the response is not a stream of this protocol

A publisher's mistake raises before anything is queued. A client's mistake never raises through
the application: the endpoints turn `Refused` into an HTTP status, a close code or an error frame.
No error contains a token or a payload.
"""

from __future__ import annotations

from .reasons import Reason


class HoldfastError(Exception):
    """The base of all exceptions of this library."""


class ConfigurationError(HoldfastError, ValueError):
    """A setting is missing or cannot work; the message names it and the accepted form."""


class PublishError(HoldfastError, ValueError):
    """The arguments of `publish` cannot be published; nothing was queued."""


class InvalidTopic(PublishError):
    """A string is not a topic or pattern; the error names the rule that it breaks."""


class InvalidPayload(PublishError):
    """The data has no JSON form (RFC 8259): NaN, a lone surrogate, a cycle, an unknown type."""


class MessageTooLarge(PublishError):
    """The encoded message exceeds the limit.

    Attributes:
        size: Bytes of the encoded message.
        limit: Bytes that are allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the encoded message has {size} bytes, the limit is {limit}: "
            "send a reference, or raise max_message_bytes"
        )
        self.size = size
        self.limit = limit


class NotRunning(HoldfastError):
    """A Broadcaster, a broker or a stream was used before its start or after its end."""


class WrongThread(HoldfastError):
    """An asynchronous method was called outside the event loop that the Broadcaster runs in."""


class BrokerUnavailable(HoldfastError):
    """The broker's server does not answer, or refuses; nothing was published or changed."""


class OutcomeUnknown(HoldfastError):
    """The link to the broker's server broke before the answer arrived.

    The message may have been published. A second `publish` with the same `idempotency_key` does
    not publish it twice.
    """


class BroadcasterFailed(HoldfastError):
    """A background task of the Broadcaster died, so it delivers no messages any more."""


class IllegalTransition(HoldfastError):
    """A connection's state does not allow an event; the state is unchanged."""


class Refused(HoldfastError):
    """A client's request is not carried out.

    Attributes:
        reason: The wire word, the HTTP status and the WebSocket close code of the answer.
        detail: One sentence for the developer of the client.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class StreamFailed(HoldfastError):
    """A stream of `holdfast.client` failed, and another attempt would fail, too.

    Attributes:
        code: The word of the server (docs/protocol.md, section 14), or one of the client:
            `http_error`, `no_content`, `redirect`, and the codes of `InvalidStream`.
        detail: The explanation, which is also the text of the error.
        status: The HTTP status, or None if the error is about a frame.
    """

    def __init__(self, code: str, detail: str, *, status: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status = status


class RequestRefused(StreamFailed):
    """The server refused a request: an invalid topic, a wrong address, no permission."""


class StreamEnded(StreamFailed):
    """The server ended the stream, and the client must not reconnect. `code` is the reason."""


class InvalidStream(StreamFailed):
    """The response is not an event stream of this protocol, or a frame exceeds the limit.

    `code` is `not_an_event_stream`, `compressed`, `not_utf8`, `frame_too_large`, `not_json`,
    `malformed_frame`, `invalid_id`, `no_id`, `no_first_frame` or `second_first_frame`.
    """
