"""Reason: the causes for which a connection ends or a request is refused, in one table.

tests/test_reasons.py checks docs/protocol.md and both clients against this table.
"""

from __future__ import annotations

from enum import Enum

BAD_REQUEST = 4400
"""The close code of all client mistakes without a code of their own."""

SERVICE_RESTART = 1012
"""The close code "Service Restart" of IANA's registry (RFC 6455, section 7.4.2)."""


class Reason(Enum):
    """The cause for which a connection ends or a request is refused.

    Attributes:
        word: The word in frames, error bodies and WebSocket close reasons.
        close_code: The WebSocket close code. 1012 and 4000 to 4399 mean that the client should
            reconnect, 4400 to 4499 that it should not.
        status: The HTTP status; `None` for a reason that never answers an HTTP request.
    """

    # The server ends the connection, and the client reconnects.
    DRAIN = ("drain", SERVICE_RESTART, 503)
    IDLE = ("idle", 4000, None)
    SLOW = ("slow", 4001, None)
    TAKEN_OVER = ("taken_over", 4003, 503)
    REQUESTED = ("requested", 4004, None)
    FAILED = ("failed", 4005, 503)
    UNAVAILABLE = ("unavailable", 4005, 503)
    OVER_CAPACITY = ("over_capacity", 4006, 503)
    # The server ends the connection, and the client does not reconnect.
    UNAUTHORIZED = ("unauthorized", 4401, 401)
    CREDENTIALS_EXPIRED = ("credentials_expired", 4401, 401)
    FORBIDDEN = ("forbidden", 4403, 403)
    FOREIGN_ORIGIN = ("foreign_origin", 4403, 403)
    NOT_FOUND = ("not_found", 4404, 404)
    NO_CONNECTION = ("no_connection", 4404, 404)
    REPLACED = ("replaced", 4409, None)
    TOO_MANY_MESSAGES = ("too_many_messages", 4429, 429)
    # The client made a mistake; a WebSocket stays open.
    INVALID_TOPIC = ("invalid_topic", BAD_REQUEST, 400)
    TOO_MANY_TOPICS = ("too_many_topics", BAD_REQUEST, 400)
    INVALID_QUERY = ("invalid_query", BAD_REQUEST, 400)
    INVALID_MESSAGE = ("invalid_message", BAD_REQUEST, 400)
    NOT_TEXT = ("not_text", BAD_REQUEST, 400)
    NOT_JSON = ("not_json", BAD_REQUEST, 400)
    NO_TYPE = ("no_type", BAD_REQUEST, 400)
    TOO_LATE = ("too_late", BAD_REQUEST, 400)
    UNKNOWN_TYPE = ("unknown_type", BAD_REQUEST, 400)
    METHOD_NOT_ALLOWED = ("method_not_allowed", BAD_REQUEST, 405)
    NOT_ACCEPTABLE = ("not_acceptable", BAD_REQUEST, 406)
    TOO_SLOW = ("too_slow", BAD_REQUEST, 408)
    TOO_LARGE = ("too_large", BAD_REQUEST, 413)

    def __init__(self, word: str, close_code: int, status: int | None) -> None:
        self.word = word
        self.close_code = close_code
        self.status = status

    @property
    def reconnect(self) -> bool:
        """True if the client should reconnect by itself."""
        return self.close_code < BAD_REQUEST
