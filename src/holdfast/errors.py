"""Every exception that holdfast raises, one tree, split by who has to act.

    HoldfastError
    ├── ConfigurationError      the operator: a setting that cannot work (also a ValueError)
    ├── PublishError            the publisher: nothing was queued (also a ValueError)
    │   ├── InvalidTopic        a name that is no topic
    │   ├── InvalidPayload      data that is no JSON
    │   └── MessageTooLarge     over the limit in bytes
    ├── NotRunning              the application: used before start or after close
    ├── WrongThread             the application: called from another thread or event loop
    ├── BrokerUnavailable       the operator: the log cannot be reached; nothing was done
    ├── OutcomeUnknown          the operator: it cannot be reached any more; it may have been done
    ├── BroadcasterFailed       the application: a background task died; `__cause__` says why
    ├── IllegalTransition       holdfast itself: an event its lifecycle table forbids
    ├── Refused                 the client: its `reason` says how to answer
    └── StreamFailed            the consumer of a stream (`holdfast.client`): `status`, `code`
        ├── RequestRefused      the server refuses a request
        ├── StreamEnded         the server ended the stream and forbids to reconnect
        └── InvalidStream       the response is not a stream of this protocol

A publisher's mistake raises before anything is queued. A client's mistake never raises through
the application: the edges turn `Refused` into an HTTP status, a close code or an error frame.
No error carries a token or a payload.
"""

from __future__ import annotations

from .reasons import Reason


class HoldfastError(Exception):
    """The base of all exceptions of this library."""


class ConfigurationError(HoldfastError, ValueError):
    """A setting is missing or cannot work; the message names it and the accepted form."""


class PublishError(HoldfastError, ValueError):
    """A message was not published, because of what it is; nothing was queued."""


class InvalidTopic(PublishError):
    """A string that is no topic or pattern; the message says which rule it breaks."""


class InvalidPayload(PublishError):
    """Data that has no JSON form (RFC 8259): NaN, a lone surrogate, a cycle, an unknown type."""


class MessageTooLarge(PublishError):
    """An encoded message over the limit.

    `size` and `limit` are in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the encoded message has {size} bytes, the limit is {limit}: "
            "send a reference, or raise max_message_bytes"
        )
        self.size = size
        self.limit = limit


class NotRunning(HoldfastError):
    """The Broadcaster was used before it started or after it closed."""


class WrongThread(HoldfastError):
    """An asynchronous method was called outside the event loop that the Broadcaster runs in."""


class BrokerUnavailable(HoldfastError):
    """The broker's server does not answer, or refuses; nothing was published or changed.

    Try again later.
    """


class OutcomeUnknown(HoldfastError):
    """The connection to the broker's server broke before the answer came.

    What was to be published may have been. Publishing it again with the same `idempotency_key`
    does not publish it twice.
    """


class BroadcasterFailed(HoldfastError):
    """A background task of the Broadcaster died, so nothing can be delivered any more."""


class IllegalTransition(HoldfastError):
    """A lifecycle event that the state does not allow; the state is unchanged."""


class Refused(HoldfastError):
    """A client's request that is not carried out.

    `reason` has the word, the HTTP status and the WebSocket close code that answer it; `detail`
    is one sentence for the developer of the client.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class StreamFailed(HoldfastError):
    """A stream of `holdfast.client` failed, and another attempt would not change the outcome.

    Attributes:
        code: The stable word of the server (docs/protocol.md, section 14), or one of the
            client: `http_error`, `no_content`, `redirect`, and the codes of InvalidStream.
        detail: The explanation, which is the text of the error, too.
        status: The HTTP status, or None if the error is about a frame.
    """

    def __init__(self, code: str, detail: str, *, status: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status = status


class RequestRefused(StreamFailed):
    """The server refused a request for good: an invalid topic, a wrong address, no permission."""


class StreamEnded(StreamFailed):
    """The server ended the stream, and the client must not reconnect. `code` is the reason."""


class InvalidStream(StreamFailed):
    """The response is not an event stream of this protocol, or a frame exceeds the limit.

    `code` is `not_an_event_stream`, `compressed`, `not_utf8`, `frame_too_large`, `not_json`,
    `malformed_frame`, `invalid_id`, `no_id`, `no_first_frame` or `second_first_frame`.
    """
