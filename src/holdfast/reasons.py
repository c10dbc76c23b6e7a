"""Reason: why a connection ends or a request is refused, and how each transport reports it.

One row per reason. docs/protocol.md and both clients are checked against this table
(tests/test_reasons.py).
"""

from __future__ import annotations

from enum import Enum

BAD_REQUEST = 4400
"""The close code of every mistake of a client that has no code of its own."""

SERVICE_RESTART = 1012
"""RFC 6455, section 7.4.2, and IANA's registry: the server restarts, so the client reconnects."""


class Reason(Enum):
    """A reason, its wire word, its WebSocket close code and its HTTP status.

    `word` is what frames, error bodies and close reasons contain. `close_code` is 1012 or in 4000
    to 4399 where the client should reconnect, and in 4400 to 4499 where it should not. `status`
    is `None` for a reason that never answers an HTTP request.
    """

    # This side ends the connection, and the client reconnects.
    DRAIN = ("drain", SERVICE_RESTART, 503)
    IDLE = ("idle", 4000, None)
    SLOW = ("slow", 4001, None)
    TAKEN_OVER = ("taken_over", 4003, 503)
    REQUESTED = ("requested", 4004, None)
    FAILED = ("failed", 4005, 503)
    UNAVAILABLE = ("unavailable", 4005, 503)
    OVER_CAPACITY = ("over_capacity", 4006, 503)
    # This side ends the connection for good.
    UNAUTHORIZED = ("unauthorized", 4401, 401)
    CREDENTIALS_EXPIRED = ("credentials_expired", 4401, 401)
    FORBIDDEN = ("forbidden", 4403, 403)
    FOREIGN_ORIGIN = ("foreign_origin", 4403, 403)
    NOT_FOUND = ("not_found", 4404, 404)
    NO_CONNECTION = ("no_connection", 4404, 404)
    REPLACED = ("replaced", 4409, None)
    TOO_MANY_MESSAGES = ("too_many_messages", 4429, 429)
    # The client asked for something impossible; a WebSocket stays open.
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
        """True if the client should come back by itself."""
        return self.close_code < BAD_REQUEST
